"""Formats of a table: structure, escapes, what a program reads; LaTeX through LaTeX itself (render.py)."""

import csv
import re
import shutil
import subprocess

import pytest

from results import assembly, render
from results.catalogue import Column
from results.cells import Cell, Noted, Sheet
from tests.test_results_assembly import sheet_named, store_of_records
from tests.test_results_record import toy

JUDGED = Cell(1.25, 0.5, 2, "measured", mark="best", note="a|b_c", verdict="below", reference=(2.0, "r"))
NASTY = Sheet("toy", "50% of $a_b & #c {d} ~ ^ \\ <e> | f ± g",
              (Column("A_b", align="l"), Column("B", align="p{9mm}"), Column("C")),
              ((("x|y*z_<w>`", Noted("2 things", "a|b_c"), JUDGED),),), ("n_1",),
              (("x|y", "t", "m", Cell(1.25, 0.5, 2, "measured", "here, \"there\"", note="a|b_c")),))
DOCUMENT = """\\documentclass[twocolumn]{article}
\\usepackage{booktabs}
\\usepackage{graphicx}
\\begin{document}
%s
\\end{document}
"""


def sheets():
    return [*assembly.build(store_of_records()), *assembly.build([]), NASTY]


def test_latex_is_balanced():
    for sheet in sheets():
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


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex on this machine")
def test_latex_compiles(tmp_path):
    text = "\n\\clearpage\n".join(map(render.latex, sheets()))
    (tmp_path / "tables.tex").write_text(DOCUMENT % text)
    answer = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"],
                            cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=60)
    assert answer.returncode == 0, answer.stdout[-2000:]
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \((\S+)pt too wide\)", answer.stdout)]
    assert max(wide, default=0) < 3, wide  # a word that is a little too long for its column


def test_latex_escapes():
    text = render.latex(NASTY)
    assert (r"50\% of \$a\_b \& \#c \{d\} \textasciitilde{} \textasciicircum{} \textbackslash{} "
            r"\textless{}e\textgreater{} \textbar{} f $\pm$ g.") in text
    assert r"\textbf{1.2 $\pm$ 0.5} $\downarrow$\textsuperscript{a}" in text
    assert r"A\textsubscript{b} & B" in text


def test_markdown_escapes():
    text = render.markdown(NASTY)
    assert r"| x\|y\*z_\<w\>\` | 2 things<sup>a</sup> | **1.2 ± 0.5** ↓<sup>a</sup> |" in text
    assert r"- <sup>a</sup> a\|b_c" in text and "↓ below" in text


def test_html_escapes_and_says_what_is_behind_a_figure():
    text = render.html(NASTY)
    assert text.isascii() and "x|y*z_&lt;w&gt;`" in text and "<e>" not in text
    text = render.html(sheet_named("detection", store_of_records()))
    title = re.search(r'title="([^"]*)"[^>]*>57.0 &#177; 1.0', text)[1]
    for fact in (toy().backbone["sha256"], "voc0712 f00d", toy().config_hash, "c" * 12):
        assert fact in title


def test_csv_is_unrounded_and_traceable():
    sheet = sheet_named("detection", store_of_records())
    rows = list(csv.DictReader(render.tidy_csv(sheet).splitlines()))
    assert len(rows) == 45 + 9 + 3
    (mine,) = [row for row in rows if row["row"].startswith("ours: bt") and row["metric"] == "AP75"]
    assert (mine["mean"], mine["std"], mine["n"], mine["published"]) == ("63.5", "0.5", "3", "63.4")
    assert (mine["low"], mine["high"], mine["verdict"]) == ("62.257931", "64.742069", "reproduced")
    assert mine["source"].split() == [toy(seed=seed).place for seed in range(3)]
    assert (mine["weights"], mine["config"]) == (toy().backbone["sha256"], toy().config_hash)
    assert (mine["data"], mine["devices"], mine["seconds"]) == ("voc0712 f00d", "1 x x86_64", "37.5")
    assert [row["note"] for row in rows if row["row"] == "SimSiam"][0] == "printed as 57 in the paper"
    assert next(csv.DictReader(render.tidy_csv(NASTY).splitlines()))["source"] == 'here, "there"'


def test_a_long_list_of_changes_goes_below_the_table_and_whole_into_the_csv():
    scaled = {f"SECTION.KEY_{number}": [number, -number] for number in range(1, 12)}
    sheet = sheet_named("rehearsal", [toy(scaled=scaled)])
    text = render.markdown(sheet)
    assert "| 11 settings<sup>a</sup> |" in text and "- <sup>a</sup> SECTION.KEY_1 -1 (1), SECTION" in text
    row = next(csv.DictReader(render.tidy_csv(sheet).splitlines()))
    assert row["scaled"].count(",") == 10 and row["scaled"].endswith("SECTION.KEY_11 -11 (11)")


@pytest.mark.parametrize("form", [render.markdown, render.latex, render.tidy_csv, render.html, render.plain])
def test_every_sheet_renders_with_and_without_records(form):
    for sheet in sheets():
        text = form(sheet)
        assert text.endswith("\n") and "None" not in text


def test_plain_text_stays_narrow():
    for sheet in assembly.build(store_of_records()):
        rows = [line for line in render.plain(sheet).splitlines() if "  " in line.strip()]
        rows = [line for line in rows if not line.startswith("  ")] or rows[:1]
        assert max(map(len, rows)) <= 170, sheet.name
