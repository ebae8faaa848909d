"""Hostile names: nothing that stands in a record, a kept file or a run's log acts on what shows it."""

import csv
import dataclasses
import io
import json
import re

import pytest

from results import assembly, make, plots, render, report, show, store
from results.cells import visible
from tests.test_results_record import departing, toy

RTL, ISOLATE, ESCAPE, NULL, BELL = "\u202e", "\u2066", "\x1b[31m", "\x00", "\x07"
HOSTILE = {"bidi": f"ab{RTL}cd{ISOLATE}", "escape": f"x{ESCAPE}y{BELL}", "null": f"a{NULL}b",
           "lines": "a\nb\r\nc\u2028d", "tab": "\ta", "html": "<script>alert(1)</script>", "entity": "&lt;",
           "latex": r"\input{/etc/passwd} $x_1$ % #", "markdown": "![a](http://x/y.png) | **b** `c`",
           "formula": "=cmd|' /C calc'!A0", "plus": "+1+1", "at": "@SUM(A1)", "minus": "-2+3",
           "joiner": "a\u200bb\ufeff", "surrogate": "a\ud800"}
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
                       "\ud800-\udfff]")


def record(name):
    """Return a record with the name wherever it may have one: names of a backbone must be plain."""
    plain = "".join(sign for sign in name if sign.isprintable()) or "x"
    scaled = departing(**{"SOLVER.MAX_ITER": name})
    return dataclasses.replace(scaled, backbone={**scaled.backbone, "name": plain}, source=f"run.py {name!s}",
                               packages={"torch": name}, device={"type": "cpu", "name": name, "count": 1})


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_every_form_of_a_table_shows_them_harmlessly(name):
    sheets = {sheet.name: sheet for sheet in assembly.build([record(name)])}
    for suffix, form in render.FORMATS.items():
        text = form(sheets["rehearsal"])
        assert not FORBIDDEN.search(text), suffix
    assert "<script" not in render.html(sheets["rehearsal"])
    assert not re.search(r"(?<!\\)\]\(", render.markdown(sheets["rehearsal"]))
    assert r"\input{" not in render.latex(sheets["rehearsal"])
    rows = list(csv.DictReader(io.StringIO(render.tidy_csv(sheets["rehearsal"]))))
    assert rows and not any(value.startswith(tuple("=+@\t\r-")) for row in rows for value in row.values())


@pytest.mark.parametrize("name", [name for name in HOSTILE.values() if not name.isprintable()])
def test_names_of_backbones_and_data_are_one_plain_line(name):
    for field in ("backbone", "data"):
        with pytest.raises(ValueError, match="expected one line of text"):
            toy(**{field: {**getattr(toy(), field), "name": name}})


@pytest.mark.parametrize("name", [one for key, one in HOSTILE.items() if key != "surrogate"])
def test_a_report_a_listing_and_a_record_that_is_shown(tmp_path, capsys, name):
    result = record(name)
    store.save(result, tmp_path / "runs")
    (tmp_path / "record").mkdir()
    (tmp_path / "record" / "per_class.json").write_text(json.dumps({name: {"AP": 50.0}, "other": {"AP": 5}}))
    store.keep(result, tmp_path / "runs", tmp_path / "record")
    run = tmp_path / "pretraining" / "toy"
    run.mkdir(parents=True)
    (run / "stats.txt").write_text(f"main.py {name}\n" + '{"epoch": 0, "step": 1, "loss": 2.0}\n')
    flags = ["--runs", str(tmp_path / "runs")]
    assert report.main([*flags, "--pretraining", str(run.parent), "--out", str(tmp_path / "r.html")]) == 0
    assert make.main([*flags, "--list"]) == 0 and show.main([*flags, "--config", result.place]) == 0
    page = (tmp_path / "r.html").read_text("utf-8")
    assert not FORBIDDEN.search(capsys.readouterr().out + page) and "<script" not in page


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_plots_take_them_as_words(name):
    lines = {name: ([0, 1], [0, 1]), "$\\frac$": ([0, 1], [1, 2])}
    for figure in (plots.curves(lines, "step", "loss"), plots.bars({name: 50.0, "$x": 1.0}, "AP"),
                   plots.confusion([name, "$"], [[1, 0], [0, 1]])):
        assert not FORBIDDEN.search(plots.svg(figure, "x", "y"))


def test_what_is_visible_stays():
    assert visible("Ünïcode 漢字 ±\u3000x") == "Ünïcode 漢字 ±\u3000x"
    assert visible("a\u202eb\nc") == r"a\u202eb\nc"
