"""The tables: published figures, means, marks, and the text of each format (results/tables.py, render.py)."""

import csv
import itertools
import random
import re
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from results import render, tables
from results.tables import Cell, Column, Sheet
from tests.test_results_record import toy

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden_results"
COCO = {"box_AP": 39.25, "box_AP50": 59.0, "box_AP75": 42.5,
        "mask_AP": 34.5, "mask_AP50": 56.0, "mask_AP75": 36.5}


def store_of_records():
    """Return a small fixed set of records: several seeds, backbones, scaled runs, versions of a task."""
    scaled = {"epochs": [100, 1], "batch_size": [256, 32], "steps": [[60, 80], []], "rate": [0.3, 0.1],
              "data.train": [1281167, 500]}
    mini = {"name": "imagenet_mini", "counts": {"train": 500, "val": 100}, "fingerprint": "abc"}
    return [
        *(toy(seed=seed, metrics={"AP": 56.0 + seed, "AP50": 82.5, "AP75": 63.0 + seed / 2})
          for seed in range(3)),
        toy("coco_det", COCO),
        toy("imagenet_linear", {"top1": 73.375, "top5": 91.04}),
        toy("imagenet_linear", {"top1": 76.25, "top5": 92.5}, name="other_net", sha256="f" * 64),
        toy("imagenet_linear", {"top1": 99.0, "top5": 99.0}, scaled=scaled, data=mini, config={"epochs": 1}),
        *(toy("new_task", {f"m{n}": 10.0 + seed + n for n in range(8)}, seed=seed,
              scaled={"data.train": [10, 5]}, data=mini) for seed in range(2)),
        toy("places205_linear", {"top1": 50.0}, version=1),
        toy("places205_linear", {"top1": 54.5}, version=2),
    ]


def sheet_named(name, results=()):
    return next(sheet for sheet in tables.build(results) if sheet.name == name)


def golden_texts():
    """Return {file name: text} of all tables of the fixed records in all formats."""
    return {f"{sheet.name}.{suffix}": form(sheet)
            for sheet in tables.build(store_of_records()) for suffix, form in render.FORMATS.items()}


# Published figures


def test_published_rows_are_complete():
    entries = tables.read_published()
    counts = Counter((entry["paper"], entry["table"]) for entry in entries)
    assert counts == {
        ("Barlow Twins", "Table 1"): 20, ("Barlow Twins", "Table 2"): 24, ("Barlow Twins", "Table 3"): 21,
        ("Barlow Twins", "Table 4"): 45, ("Barlow Twins", "Table 5"): 14, ("Barlow Twins", "Table 6"): 8,
        ("Barlow Twins", "Table 7"): 6, ("Barlow Twins", "Figure 2"): 9, ("VICReg", "Table 11"): 14}
    assert all(entry["source"] and entry["row"] and entry["task"] for entry in entries)
    cells = Counter((entry["paper"], entry["table"], entry["row"], entry["task"], entry["metric"])
                    for entry in entries)
    assert max(cells.values()) == 1  # two entries for one cell would hide each other


@pytest.mark.parametrize("table, row, task, metric, value", [
    ("Table 1", "Barlow Twins", "imagenet_linear", "top1", 73.2),
    ("Table 1", "Barlow Twins", "imagenet_linear", "top5", 91.0),
    ("Table 1", "MoCo", "imagenet_linear", "top5", None),
    ("Table 2", "Barlow Twins", "imagenet_semi1", "top1", 55.0),
    ("Table 2", "SwAV", "imagenet_semi10", "top5", 89.9),
    ("Table 3", "Barlow Twins", "places205_linear", "top1", 54.1),
    ("Table 3", "SwAV", "voc07_svm", "mAP", 88.9),
    ("Table 3", "SimCLR", "inat18_linear", "top1", 37.2),
    ("Table 4", "Barlow Twins", "voc_det", "AP", 56.8),
    ("Table 4", "SimSiam", "voc_det", "AP", 57.0),
    ("Table 4", "MoCo v2", "coco_det", "box_AP75", 42.5),
    ("Table 4", "Barlow Twins", "coco_det", "mask_AP", 34.3),
    ("Table 5", "Cross-entropy with temperature", "imagenet_linear", "top1", 63.3),
    ("Table 6", "(c) stop-gradient + predictor", "imagenet_linear", "top5", 83.5),
    ("Table 7", "projector 8192-8192-8192, predictor 8192-8192", "imagenet_linear", "top1", 72.3),
    ("Figure 2", "Barlow Twins, batch size 256", "imagenet_linear", "top1", 70.7),
])
def test_published_figures(table, row, task, metric, value):
    found = [entry["value"] for entry in tables.read_published() if entry["paper"] == "Barlow Twins" and
             (entry["table"], entry["row"], entry["task"], entry["metric"]) == (table, row, task, metric)]
    assert found == [value]


@pytest.mark.parametrize("old, new, message", [
    ("76.5", "765", "supervised/imagenet_linear/top1: expected one entry, percent or null, found 765"),
    ("table-1/moco/", "table-1/supervised/", "supervised/imagenet_linear/top1: expected one entry"),
], ids=["range", "duplicate"])
def test_published_file_with_a_bad_entry_is_refused(tmp_path, old, new, message):
    path = tmp_path / "published.json"
    path.write_text(tables.PUBLISHED.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        tables.read_published(path)


@pytest.mark.parametrize("name, first, last, rows", [
    ("linear", "Supervised", "Barlow Twins", 10),
    ("semi", "Supervised (Zhai et al. 2019)", "Barlow Twins", 6),
    ("transfer", "Supervised", "Barlow Twins", 7),
    ("detection", "Supervised", "Barlow Twins", 5),
    ("knn", "NPID", "VICReg", 7)])
def test_every_column_finds_its_published_figures(name, first, last, rows):
    published, ours = sheet_named(name).body
    assert (published[0][0], published[-1][0], len(published), len(ours)) == (first, last, rows, 0)
    assert all(any(row[column] for row in published) for column in range(1, len(published[0])))


# Means over seeds


def test_average_is_mean_and_sample_standard_deviation():
    values = [56.1, 57.3, 55.2, 56.0]
    cell = tables.average([toy(seed=seed, metrics={"AP": value}) for seed, value in enumerate(values)], "AP")
    assert cell.mean == pytest.approx(statistics.mean(values), abs=1e-12)
    assert cell.std == pytest.approx(statistics.stdev(values), abs=1e-12)
    assert (cell.n, cell.origin) == (4, "measured")
    assert cell.source.split() == sorted(toy(seed=seed).place for seed in range(4))


def test_one_seed_has_no_spread_and_a_missing_metric_no_cell():
    assert tables.average([toy()], "AP").std is None
    assert tables.figure(tables.average([toy()], "AP")) == "56.0"
    assert tables.average([toy()], "top1") is None


@pytest.mark.parametrize("changes, what", [
    ({"task": "coco_det"}, "tasks"), ({"version": 2}, "task versions"), ({"sha256": "f" * 64}, "weights"),
    ({"config": {"yaml": "other.yaml"}}, "configs"), ({"scaled": {"epochs": [2, 1]}}, "scalings"),
    ({"data": {"name": "voc", "counts": {}, "fingerprint": "x"}}, "data sets"),
    ({"metrics": {"AP50": 1.0}}, "sets of metrics"), ({"seed": 0}, "each seed once"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_unlike_runs_are_never_averaged(changes, what):
    with pytest.raises(ValueError, match=what):
        tables.average([toy(), toy(**{"seed": 1, **changes})], "AP")


@pytest.mark.parametrize("odd", [
    toy(config={"yaml": "other.yaml"}, seed=7), toy(seed=2),
    toy(data={"name": "voc", "counts": {}, "fingerprint": "x"}, seed=7)], ids=["config", "duplicate", "data"])
def test_a_mixed_or_duplicate_record_stops_the_tables(odd):
    with pytest.raises(ValueError, match="voc_det AP: expected"):
        tables.build([*store_of_records(), odd])


def test_the_order_of_records_changes_nothing():
    results = store_of_records()
    expected = tables.build(results)
    for seed in range(5):
        random.Random(seed).shuffle(results)
        assert tables.build(results) == expected


def test_scaled_records_never_enter_a_papers_table():
    scaled = [result for result in store_of_records() if not result.paper_protocol]
    assert scaled and tables.build(scaled)[:-1] == tables.build([])[:-1]
    assert len(sheet_named("rehearsal", store_of_records()).body[0]) == 2


def test_only_the_newest_version_of_a_task_enters():
    sheet = sheet_named("transfer", store_of_records())
    assert sheet.body[1][0][1].mean == 54.5
    assert sheet.notes[-1].startswith("left out: 1 of our records")


# Marks


def marks(values, competing=None):
    rows = [[f"row {number}", None if value is None else Cell(value, None, None, "published")]
            for number, value in enumerate(values)]
    marked = tables.mark_best(rows, competing or [True] * len(values))
    return [row[1].mark if row[1] else None for row in marked]


@pytest.mark.parametrize("values, competing, expected", [
    ([1.0, 3.0, 2.0], None, ["", "best", "second"]),
    ([3.0, 3.0, 2.0, 1.0], None, ["best", "best", "second", ""]),
    ([3.04, 2.96, 2.0], None, ["best", "best", "second"]),  # equal as printed
    ([9.0, 3.0, 2.0], [False, True, True], ["", "best", "second"]),
    ([None, 3.0, 2.0], None, [None, "best", "second"]),
    ([3.0, None], None, ["", None]),
    ([], None, []),
])
def test_best_and_second(values, competing, expected):
    assert marks(values, competing) == expected


def test_supervised_rows_do_not_compete_and_ours_do():
    published, ours = sheet_named("linear", store_of_records()).body
    assert published[0][0] == "Supervised" and published[0][1].mean == 76.5 and published[0][1].mark == ""
    assert {row[0]: row[1].mark for row in published + ours if row[1].mark} == {
        "ours: other_net [ffffffff], n = 1": "best", "SwAV": "second"}


# Text

@pytest.mark.parametrize("name", golden_texts())
def test_text_is_golden(name):
    # read the difference before you accept it: python -m tests.test_results_tables rewrites the golden files
    assert golden_texts()[name] == (GOLDEN / name).read_text("utf-8")


@pytest.mark.parametrize("sheet", tables.build(store_of_records()) + tables.build([]),
                         ids=lambda sheet: sheet.name)
def test_latex_is_balanced(sheet):
    text = render.latex(sheet)
    bare = re.sub(r"\\[\\{}%&#$_]", "", text)  # what is left of braces and dollars is structure
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0 and not {"%", "#"} & set(bare)
    assert text.isascii()
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", text):
        assert kind == "begin" or stack.pop() == name
        stack += [name] if kind == "begin" else []
    assert not stack
    spec = re.sub(r"\{[^}]*\}", "", re.search(r"\\begin\{tabular\}\{(.*)\}\n", text)[1])
    rows = [line for line in text.splitlines() if line.endswith("\\tabularnewline")]
    heads = 1 + any(column.group for column in sheet.columns)
    assert len(rows) == heads + max(1, sum(map(len, sheet.body)))  # an empty table has a row that says so
    for row in rows:
        spans = sum(int(span) for span in re.findall(r"\\multicolumn\{(\d+)\}", row))
        assert (spans or len(re.findall(r"(?<!\\)&", row)) + 1) == len(spec) == len(sheet.columns)
    assert text.count("\\toprule") == text.count("\\bottomrule") == 1


NASTY = Sheet("toy", "50% of $a_b & #c {d} ~ ^ \\ <e> | f ± g", (Column("A_b", align="l"), Column("B")),
              ((("x|y*z_<w>`", Cell(1.25, 0.5, 2, "measured", mark="best", note="a|b_c"), ),),), ("n_1",),
              (("x|y", "t", "m", Cell(1.25, 0.5, 2, "measured", "here, \"there\"", note="a|b_c")),))


def test_latex_escapes():
    text = render.latex(NASTY)
    assert (r"50\% of \$a\_b \& \#c \{d\} \textasciitilde{} \textasciicircum{} \textbackslash{} "
            r"\textless{}e\textgreater{} \textbar{} f $\pm$ g.") in text
    assert r"\textbf{1.2 $\pm$ 0.5}\textsuperscript{a}" in text and r"A\textsubscript{b} & B" in text


def test_markdown_escapes():
    text = render.markdown(NASTY)
    assert r"| x\|y\*z_\<w\>\` | **1.2 ± 0.5**<sup>a</sup> |" in text
    assert r"- <sup>a</sup> a\|b_c" in text


def test_csv_is_unrounded_and_traceable():
    sheet = sheet_named("detection", store_of_records())
    rows = list(csv.DictReader(render.tidy_csv(sheet).splitlines()))
    assert len(rows) == 45 + 9
    mine = [row for row in rows if row["origin"] == "measured" and row["metric"] == "AP75"]
    assert [(row["mean"], row["std"], row["n"]) for row in mine] == [("63.5", "0.5", "3")]
    assert mine[0]["source"].split() == [toy(seed=seed).place for seed in range(3)]
    assert next(row for row in rows if row["note"])["note"] == "printed as 57 in the paper"
    assert next(csv.DictReader(render.tidy_csv(NASTY).splitlines()))["source"] == 'here, "there"'


@pytest.mark.parametrize("form", [render.markdown, render.latex, render.tidy_csv, render.plain])
def test_every_sheet_renders_with_and_without_records(form):
    for sheet, results in itertools.product(range(6), ([], store_of_records())):
        text = form(tables.build(results)[sheet])
        assert text.endswith("\n") and "None" not in text


def test_plain_text_stays_narrow():
    for sheet in tables.build(store_of_records()):
        rows = [line for line in render.plain(sheet).splitlines() if "  " in line.strip()]
        assert max(map(len, rows)) <= 150, sheet.name


def test_no_torch_is_imported():
    code = ("import sys; from results import make, record, render, store, tables; tables.build([]); "
            "print([name for name in ('torch', 'torchvision', 'pandas', 'transfer', 'pretrain') "
            "if name in sys.modules])")
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout.strip()) == (0, "[]"), answer.stderr


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, text in golden_texts().items():
        (GOLDEN / name).write_text(text, encoding="utf-8")
