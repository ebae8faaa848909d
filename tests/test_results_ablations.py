"""The papers' ablations as tables and plots: ours beside the published, what failed or was not run said."""

import json
import shutil
from dataclasses import replace

import pytest

from parallel.places import RUNS
from results import ablations, panels, plots, store

DECLARED = {
    "experiment": "vicreg12", "scale": "cifar10", "flags": "--epochs 2", "title": "Dimension",
    "table": "VICReg, Table 12", "task": "cifar10_probe", "varied": "dimension", "log": True,
    "notes": ["a remark"],
    "rows": [{"name": f"width-{width}", "label": f"width {width}", "number": width,
              "published": [f"expander dimension {width}", "top1"]} for width in (256, 512, 1024)]}


def stats(folder, knn):
    folder.mkdir(parents=True)
    lines = ["pretrain/main.py", {"epoch": 0, "step": 0, "knn": 10.0},
             {"epoch": 0, "step": 5, "effective_rank": 3.0}, {"epoch": 0, "step": 9, "knn": 20.0},
             {"epoch": 1, "step": 15, "effective_rank": 4.0}, {"epoch": 1, "step": 19, "knn": knn}]
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "stats.txt").write_text(text + "\n")


@pytest.fixture
def study(tmp_path):
    """Two rows of three; the second one's probe is missing, as after a training that failed."""
    folder = tmp_path / "vicreg12-cifar10"
    stats(folder / "width-256", 25.0)
    stats(folder / "width-512", None)
    (folder / "experiment.json").write_text(json.dumps(DECLARED))
    record = next(one for one in store.load(RUNS)[0] if one.task == "cifar10_probe")
    backbone = {**record.backbone, "name": "width-256"}
    store.save(replace(record, backbone=backbone, metrics={"top1": 40.0}), folder / "records")
    return tmp_path


def test_a_table_has_ours_beside_the_published(study):
    (one,), problems = ablations.load(study)
    assert not problems
    sheet = ablations.sheet(one)
    figures = [[getattr(cell, "mean", cell) for cell in row] for row in sheet.body[0]]
    assert figures == [["width 256", 40.0, 10.0, 25.0, 4.0, 55.9], ["width 512", None, 10.0, None, 4.0, 59.2]]
    assert one.at_start() == 10
    assert {cell.origin for *_, cell in sheet.facts} == {"scaled", "published"}
    assert "scaled: cifar10" in sheet.title
    assert "1 of the experiment's 3 rows were not run" in sheet.notes and "a remark" in sheet.notes


def test_plots_show_ours_and_the_published_over_the_number(study, monkeypatch):
    drawn = {}
    monkeypatch.setattr(plots, "sweep", lambda series, *rest: drawn.update(series) or _figure())
    (one,), _ = ablations.load(study)
    draw = panels.Drawing(None)
    panels.ablation(one, draw)
    assert drawn == {"ours": ([256], [40.0]), "published, ImageNet": ([256, 512], [55.9, 59.2])}
    assert [name.rpartition("-")[2] for name in draw.names] == ["top1", "epochs"]


def _figure():
    return plots.curves({"": ([0, 1], [0.0, 1.0])}, "x", "y")


def test_what_cannot_be_trusted_is_named(study):
    for name, damage in (("no-object", "[]"), ("no-json", "{"), ("too-little", '{"rows": []}')):
        shutil.copytree(study / "vicreg12-cifar10", study / name)
        (study / name / "experiment.json").write_text(damage)
    kept, problems = ablations.load(study)
    assert [one.name for one in kept] == ["vicreg12-cifar10"]
    assert len(problems) == 3 and all("expected a JSON object with" in line for line in problems)


def test_the_committed_ablations_can_be_read():
    kept, problems = ablations.load()
    assert kept and not problems
