"""Tables: published figures, means, marks, verdicts, and golden text (results/assembly.py, catalogue.py)."""

import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results import assembly, protocols, render
from results.catalogue import TABLES
from results.cells import Cell, figure
from results.published import PATH, read_published
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
        *(toy(seed=seed, name="barlow_twins", sha256="f" * 64,
              metrics={"AP": 56.0 + seed / 4, "AP50": 82.5, "AP75": 61.0}) for seed in range(3)),
        toy("coco_det", COCO),
        toy("coco_det_fpn", COCO, name="VICReg", sha256="a" * 64),
        toy("imagenet_linear", {"top1": 70.6, "top5": 89.0}, name="(a) stop gradient", sha256="b" * 64),
        *(toy("voc07_lowshot", {"mAP_1": 46.0 + seed, "mAP_4": 60.0}, seed=seed) for seed in range(2)),
        toy("imagenet_linear", {"top1": 73.375, "top5": 91.04}),
        toy("imagenet_linear", {"top1": 76.25, "top5": 92.5}, name="other_net", sha256="f" * 64),
        toy("imagenet_linear", {"top1": 99.0, "top5": 99.0}, scaled=scaled, data=mini, config={"epochs": 1}),
        *(toy("new_task", {f"m{n}": 10.0 + seed + n for n in range(8)}, seed=seed,
              scaled={"data.train": [10, 5]}, data=mini) for seed in range(2)),
        toy("places205_linear", {"top1": 50.0}, version=1),
        toy("places205_linear", {"top1": 54.5}, version=2),
    ]


def sheet_named(name, results=()):
    return next(sheet for sheet in assembly.build(results) if sheet.name == name)


def golden_texts():
    """Return {file name: text}: every table of the fixed records in Markdown, some in LaTeX and CSV."""
    sheets = assembly.build(store_of_records())
    return {f"{sheet.name}.{suffix}": form(sheet) for sheet in sheets
            for suffix, form in render.FORMATS.items()
            if suffix == "md" or (suffix != "html" and sheet.name in ("detection", "verdicts", "rehearsal"))}


# Published figures


def test_published_rows_are_complete():
    entries = read_published()
    counts = Counter((entry["paper"], entry["table"]) for entry in entries)
    assert counts == {
        ("Barlow Twins", "Table 1"): 20, ("Barlow Twins", "Table 2"): 24, ("Barlow Twins", "Table 3"): 21,
        ("Barlow Twins", "Table 4"): 45, ("Barlow Twins", "Table 5"): 14, ("Barlow Twins", "Table 6"): 8,
        ("Barlow Twins", "Table 7"): 6, ("Barlow Twins", "Figure 2"): 9, ("VICReg", "Table 1"): 90,
        ("VICReg", "Table 2"): 66, ("VICReg", "Table 4"): 24, ("VICReg", "Table 5"): 16,
        ("VICReg", "Table 7"): 11, ("VICReg", "Table 8"): 5, ("VICReg", "Table 11"): 14,
        ("VICReg", "Table 12"): 7, ("VICReg", "Table 13"): 6,
        ("solo-learn", "CIFAR"): 64, ("solo-learn", "ImageNet-100"): 72, ("solo-learn", "ImageNet"): 2,
        ("solo-learn", "issues"): 2, ("mix-bt", "checkpoints"): 16, ("mix-bt", "ImageNet"): 1,
        ("lightly", "CIFAR-10"): 21, ("lightly", "ImageNet-100"): 7, ("lightly", "ImageNet"): 3,
        ("Barlow Twins repository", "README"): 4, ("Barlow Twins repository", "issues"): 7,
        ("VISSL", "model zoo"): 2, ("VISSL", "pull request 230"): 1, ("mmselfsup", "README"): 3,
        ("FFCV-SSL", "issue 13"): 1, ("Supervised", "repositories"): 2, ("PIRL", "repositories"): 4,
        ("SimCLR", "repositories"): 15, ("MoCo", "repositories"): 21, ("SimSiam", "repositories"): 17,
        ("BYOL", "repositories"): 11, ("SwAV", "repositories"): 26, ("SupCon", "repositories"): 1,
        ("VICReg", "repositories"): 1, ("mix-bt", "weights of mixing"): 7, ("SimCLR", "CIFAR"): 2,
        ("SimSiam", "CIFAR"): 1, ("SupContrast", "CIFAR"): 6, ("contrastive2021", "CIFAR-10"): 4}
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
    found = [entry["value"] for entry in read_published() if entry["paper"] == "Barlow Twins" and
             (entry["table"], entry["row"], entry["task"], entry["metric"]) == (table, row, task, metric)]
    assert found == [value]


@pytest.mark.parametrize("old, new, message", [
    ("76.5", "765", "supervised/imagenet_linear/top1: expected one entry, percent or null, found 765"),
    ("table-1/moco/", "table-1/supervised/", "supervised/imagenet_linear/top1: expected one entry"),
], ids=["range", "duplicate"])
def test_published_file_with_a_bad_entry_is_refused(tmp_path, old, new, message):
    path = tmp_path / "published.json"
    path.write_text(PATH.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_published(path)


@pytest.mark.parametrize("name, first, last, rows", [
    ("linear", "Supervised", "Barlow Twins", 10),
    ("semi", "Supervised (Zhai et al. 2019)", "Barlow Twins", 6),
    ("transfer", "Supervised", "Barlow Twins", 7),
    ("detection", "Supervised", "Barlow Twins", 5),
    ("knn", "NPID", "VICReg", 7),
    ("repositories", "Supervised, VISSL, 105 epochs", "VICReg, its code, released weights", 62),
    ("mixing", "Mixed Barlow Twins, weight 0.0025, 300 epochs",
     "Mixed Barlow Twins, weight 2, 1000 epochs", 6),
    ("cifar_elsewhere", "SimCLR, its code, ResNet-18", "SimCLR, SupContrast, ResNet-50", 6),
    ("vicreg_imagenet", "Supervised", "VICReg", 15),
    ("vicreg_transfer", "Supervised", "VICReg", 11),
    ("batch_size", "Barlow Twins, batch size 128", "SimCLR, best, batch size 4096", 9)])
def test_every_column_finds_its_published_figures(name, first, last, rows):
    published, ours = sheet_named(name).body
    assert (published[0][0], published[-1][0], len(published), len(ours)) == (first, last, rows, 0)
    assert all(any(row[column] for row in published) for column in range(1, len(published[0])))


def test_every_published_figure_stands_in_a_table_and_every_column_has_one():
    shown = Counter()
    for sheet in assembly.build([])[:len(TABLES)]:
        assert len({row[0] for row in sheet.body[0]}) == len(sheet.body[0]) and len(sheet.body[0]) > 1
        for number, column in enumerate(sheet.columns[1:], 1):
            assert any(row[number] for row in sheet.body[0]), (sheet.name, column)
        shown.update(cell.source for *_, cell in sheet.facts)
    printed = Counter(entry["source"] for entry in read_published() if entry["value"] is not None)
    assert shown == printed


def test_what_does_not_compare_is_said():
    sheets = {sheet.name: " ".join(sheet.notes) for sheet in assembly.build([])}
    assert "not comparable with Table 4 of Barlow Twins" in sheets["vicreg_transfer"]
    notes = {row[0]: row[1].note for row in sheet_named("linear").body[0]}
    assert "73.5" in notes["Barlow Twins"]  # the authors' own repository says so


# Means over seeds


def test_average_is_mean_and_sample_standard_deviation():
    values = [56.1, 57.3, 55.2, 56.0]
    cell = assembly.average([toy(seed=seed, metrics={"AP": one}) for seed, one in enumerate(values)], "AP")
    assert cell.mean == pytest.approx(statistics.mean(values), abs=1e-12)
    assert cell.std == pytest.approx(statistics.stdev(values), abs=1e-12)
    assert (cell.n, cell.origin) == (4, "measured")
    assert cell.source.split() == sorted(toy(seed=seed).place for seed in range(4))


def test_one_seed_has_no_spread_and_a_missing_metric_no_cell():
    assert assembly.average([toy()], "AP").std is None
    assert figure(assembly.average([toy()], "AP")) == "56.0"
    assert assembly.average([toy()], "top1") is None


@pytest.mark.parametrize("changes, what", [
    ({"task": "coco_det"}, "tasks"), ({"version": 2}, "task versions"), ({"sha256": "f" * 64}, "weights"),
    ({"config": {"yaml": "other.yaml"}}, "configs"), ({"scaled": {"epochs": [2, 1]}}, "scalings"),
    ({"data": {"name": "voc", "counts": {}, "fingerprint": "x"}}, "data sets"),
    ({"metrics": {"AP50": 1.0}}, "sets of metrics"), ({"seed": 0}, "each seed once"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_unlike_runs_are_never_averaged(changes, what):
    with pytest.raises(ValueError, match=what):
        assembly.average([toy(), toy(**{"seed": 1, **changes})], "AP")


@settings(max_examples=25, deadline=None)
@given(st.permutations(store_of_records()))
def test_the_order_of_records_changes_nothing(results):
    assert assembly.build(results) == assembly.build(store_of_records())


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([
    lambda run, seed: toy(run.task, run.metrics, seed, config={"yaml": "other.yaml"}),
    lambda run, seed: toy(run.task, run.metrics, run.seed),
    lambda run, seed: toy(run.task, run.metrics, seed,
                          data={"name": "voc", "counts": {}, "fingerprint": "x"})]))
def test_a_duplicate_or_mixed_record_anywhere_stops_the_tables(chance, odd_one):
    results = [run for run in store_of_records() if run.paper_protocol and run.version == 1
               and run.backbone == toy().backbone and run.task not in ("voc07_lowshot", "places205_linear")]
    results.append(odd_one(chance.choice(results), chance.randint(7, 99)))
    chance.shuffle(results)
    with pytest.raises(ValueError, match="expected (runs that differ by seed|each seed once), found"):
        assembly.build(results)


def test_scaled_records_never_enter_a_papers_table():
    scaled = [result for result in store_of_records() if not result.paper_protocol]
    assert scaled and assembly.build(scaled)[:-1] == assembly.build([])[:-1]  # without the rehearsals
    assert len(sheet_named("rehearsal", store_of_records()).body[0]) == 2


def test_another_architecture_never_enters_a_table_of_resnet50():
    backbone = {"name": "bt", "format": "torchvision", "sha256": "d" * 64, "arch": "resnet18-cifar"}
    others = [toy(backbone=backbone), toy("imagenet_linear", {"top1": 70.0}, backbone=backbone),
              toy("cifar10_linear", {"top1": 92.0}, backbone=backbone)]
    before, after = assembly.build(store_of_records()), assembly.build([*store_of_records(), *others])
    changed = [new.name for old, new in zip(before, after, strict=True) if old != new]
    assert changed == ["cifar", "small_sets", "others"]
    names = [row[1] for row in sheet_named("others", others).body[0]]
    assert names == ["bt [dddddddd] resnet18-cifar"] * 2
    for table in ("cifar", "small_sets"):
        assert not sheet_named(table, [toy("cifar10_linear", {"top1": 92.0})]).body[1]


def test_a_column_may_have_an_architecture_of_its_own():
    """Mixed Barlow Twins' network for 64 pixels has max pooling, that for 32 has none."""
    stems = [{"name": "bt", "format": "torchvision", "sha256": digit * 64, "arch": f"resnet18-{stem}"}
             for digit, stem in (("1", "cifar"), ("2", "small"))]
    runs = [toy(task, {"top1": 50.0 + number}, backbone=backbone) for number, backbone in enumerate(stems)
            for task in ("cifar10_knn", "stl10_knn", "imagenet100_knn")]
    figures = [[cell and cell.mean for cell in row[1:]] for row in sheet_named("small_sets", runs).body[1]]
    assert figures == [[50.0, *[None] * 7], [*[None] * 6, 51.0, None]]
    others = [(row[0], row[1].split()[-1]) for row in sheet_named("others", runs).body[0]]
    assert sorted(others) == [("cifar10_knn", "resnet18-small"), ("imagenet100_knn", "resnet18-cifar"),
                              ("imagenet100_knn", "resnet18-small"), ("stl10_knn", "resnet18-cifar")]


def test_each_normalisation_has_a_row_of_its_own():
    """It is that of the weights' pretraining, so another than ours does not make a run scaled."""
    backbone = {"name": "bt", "format": "torchvision", "sha256": "d" * 64, "arch": "resnet18-cifar"}
    ours = toy("cifar10_knn", {"top1": 50.0}, backbone=backbone)
    theirs = toy("cifar10_knn", {"top1": 60.0}, backbone=backbone,
                 config={**ours.config, "normalisation": "cifar"})
    assert protocols.departures(theirs) == {}
    rows = sheet_named("small_sets", [ours, theirs]).body[1]
    assert [(row[0], row[1].mean) for row in rows] == [
        ("ours: bt [dddddddd] resnet18-cifar, n = 1", 50.0),
        ("ours: bt [dddddddd] resnet18-cifar, normalisation cifar, n = 1", 60.0)]


def test_only_the_newest_version_of_a_task_enters():
    sheet = sheet_named("transfer", store_of_records())
    assert sheet.body[1][0][1].mean == 54.5
    assert sheet.notes[-1].startswith("left out: 1 of our records")


# Marks


def marks(values, competing=None):
    rows = [[f"row {number}", None if value is None else Cell(value, None, None, "published")]
            for number, value in enumerate(values)]
    marked = assembly.mark_best(rows, competing or [True] * len(values))
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


@pytest.mark.parametrize("task, name", [("imagenet_linear", "linear"), ("imagenet_semi1", "semi")])
def test_a_supervised_network_of_ours_does_not_compete(task, name):
    ours = [toy(task, {"top1": 90.0, "top5": 95.0}, name="supervised"),
            toy(task, {"top1": 89.0, "top5": 94.0}, name="net", sha256="f" * 64)]
    rows = sheet_named(name, ours).body[1]
    assert {row[0].split()[1]: row[1].mark for row in rows} == {"supervised": "", "net": "best"}


# Verdicts and rows by name


def test_the_verdict_is_against_the_row_of_that_name():
    facts = {(cell.runs[0].backbone["name"], task, metric): cell
             for _, task, metric, cell in sheet_named("verdicts", store_of_records()).facts}
    assert facts["bt", "coco_det", "box_AP"].reference[1] == "Barlow Twins; Barlow Twins, Table 4"
    assert facts["VICReg", "coco_det_fpn", "box_AP"].reference[1] == "VICReg; VICReg, Table 2"
    assert facts["VICReg", "coco_det_fpn", "box_AP"].verdict == "inconclusive"  # one seed
    # seeds that spread five times as much as the task is known to: nothing follows from them
    assert facts["bt", "voc_det", "AP"].verdict == "inconclusive"
    assert facts["barlow_twins", "voc_det", "AP"].verdict == "below"  # 56.25 against 56.8
    assert facts["barlow_twins", "voc_det", "AP50"].verdict == "reproduced"
    assert facts["barlow_twins", "voc_det", "AP50"].reference[1] == "Barlow Twins; Barlow Twins, Table 4"
    assert facts["barlow_twins", "voc_det", "AP75"].verdict == "below"
    assert facts["(a) stop gradient", "imagenet_linear", "top1"].reference[0] == 70.5  # not 73.2 of Table 1


@pytest.mark.parametrize("name, format, row", [
    ("bt", "torchvision", "Barlow Twins"), ("run7", "barlowtwins_checkpoint", "Barlow Twins"),
    ("MoCo v2", "moco", "MoCo v2"), ("other_net", "torchvision", None), ("run7", "vicreg_checkpoint", None)])
def test_another_method_is_not_judged_against_barlow_twins(name, format, row):
    backbone = {"name": name, "format": format, "sha256": "1" * 64}
    cells = [cell for *_, cell in sheet_named("detection", [toy(backbone=backbone)]).facts if cell.runs]
    assert {cell.reference[1] if cell.reference else None for cell in cells} == {
        row and f"{row}; Barlow Twins, Table 4"}


def test_scaled_figures_get_no_verdict_and_their_interval_is_that_of_their_mean():
    sheet = sheet_named("rehearsal", store_of_records())
    assert all(cell.verdict == "" for *_, cell in sheet.facts)
    cell = next(cell for label, *_, cell in sheet_named("detection", store_of_records()).facts
                if label.startswith("ours: bt"))
    assert (cell.mean, round(cell.low, 3), round(cell.high, 3)) == (57.0, 54.516, 59.484)  # 4.3027 / sqrt 3


def test_a_backbone_enters_an_ablation_only_under_the_name_of_a_row():
    (row,) = sheet_named("asymmetry", store_of_records()).body[1]
    assert row[0].startswith("ours: (a) stop gradient")
    assert row[1].reference == (70.5, "(a) stop-gradient; Barlow Twins, Table 6")
    assert not sheet_named("loss", store_of_records()).body[1]


def test_runs_without_a_published_figure_have_a_table():
    ((task, backbone, data, scaled, seeds, result),) = sheet_named("others", store_of_records()).body[0]
    assert (task, scaled, seeds) == ("voc07_lowshot", None, "2")
    assert result == "mAP_1 46.5 ± 0.7, mAP_4 60.0 ± 0.0"


def test_low_shot_shows_each_number_of_positives_with_its_spread():
    counts = (1, 2, 4, 8, 16, 32, 64, 96)
    metrics = {f"{name}_n{count}": 40.0 + count / 4
               for name in ("mAP", "std", "best_mAP") for count in counts}
    (row,) = sheet_named("others", [toy("voc07_lowshot", metrics)]).body[0]
    names = [part.split()[0] for part in row[5].split(", ")]
    assert names == [f"{name}_n{count}" for count in counts for name in ("mAP", "std")]


# Text

@pytest.mark.parametrize("name", golden_texts())
def test_text_is_golden(name):
    # read the difference before you accept it; python -m tests.test_results_assembly rewrites the files
    assert golden_texts()[name] == (GOLDEN / name).read_text("utf-8")


def test_no_torch_is_imported():
    code = ("import sys; from results import compare, make, plan, record, render, show, store, assembly; "
            "assembly.build([]); "
            "print([name for name in ('torch', 'torchvision', 'pandas', 'transfer', 'pretrain') "
            "if name in sys.modules])")
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout.strip()) == (0, "[]"), answer.stderr


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, text in golden_texts().items():
        (GOLDEN / name).write_text(text, encoding="utf-8")
