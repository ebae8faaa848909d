"""The page of the methods has a row for each, with its published figure and the runs in results."""

from pretrain.methods import METHODS
from results import methods
from results.published import read_published


def test_every_method_has_its_row():
    assert {row.name for row in methods.METHODS} | set(methods.VARIANTS) == set(METHODS)
    assert all(row.compared and row.exact for row in methods.METHODS)


def test_the_published_figure_is_that_of_the_code():
    cells = {label: cell for label, _, _, cell in methods.sheet(runs={}).facts}
    assert cells["SimCLR"].mean == 64.5 and cells["SwAV"].mean == 75.3  # not SwAV's 70.1 without multi-crop
    assert cells["SupCon"].note == "on cifar10" and "HSIC" not in cells
    assert {cell.source for cell in cells.values()} <= {entry["source"] for entry in read_published()}


def test_runs_are_found_by_their_commands(tmp_path):
    for place, words in (("pretraining/a", ""), ("pretraining/b", " --method byol"),
                         ("ablations/fig4-cifar10/x", " --method=vicreg"),
                         ("ablations/fig4-cifar10/y", " --method vicreg")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "stats.txt").write_text(f"pretrain/main.py data{words}\n{{}}\n")
    assert methods.done(tmp_path) == {"barlow_twins": ["pretraining/a"], "byol": ["pretraining/b"],
                                      "vicreg": ["ablations/fig4-cifar10"]}
    body = {row[0]: row[3] for row in methods.sheet(runs=methods.done(tmp_path)).body[0]}
    assert (body["BYOL"], body["MoCo v2"]) == ("pretraining/b", None)
