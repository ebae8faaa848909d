"""What a filled table is made of (results/cells.py)."""

from results import assembly, cells, render
from tests.test_results_record import toy


def test_remarks_beyond_z_go_on_with_two_letters():
    """A bare | would end a cell of Markdown, a bare brace the group of LaTeX."""
    results = [toy(config={"n": n}, scaled={f"SECTION.A_LONG_NAME_{n}_{key}": [1, 2] for key in range(4)})
               for n in range(30)]
    sheet = next(sheet for sheet in assembly.build(results) if sheet.name == "rehearsal")
    marks = list(cells.remarks(sheet).values())
    assert marks == [*"abcdefghijklmnopqrstuvwxyz", "aa", "ab", "ac", "ad"]
    assert "4 settings<sup>aa</sup> |" in render.markdown(sheet)
    assert r"4 settings\textsuperscript{ad} &" in render.latex(sheet)
