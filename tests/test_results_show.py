"""From a record to how it was made, and the plan of a suite (results/show.py, plan.py)."""

import dataclasses
import json
import os

import pytest

from parallel.attachments import attach
from results import plan, show, store
from tests.test_results_record import departing, toy

SOURCE = ("python transfer/run.py --task all --weights 'my nets/bt.pth' --seeds=5 --num-gpus 8 --output out "
          "--resume --data /data")


def test_everything_about_a_record_is_shown(tmp_path, capsys):
    result = dataclasses.replace(
        departing("voc07_svm", {"mAP": 56.0}, image_size=64), seed=3, source=SOURCE, dirty=True,
        data={**toy().data, "counts": {"train": 5, "test": 4952}}, seconds=7200.0)
    store.save(result, tmp_path / "runs")
    (tmp_path / "record").mkdir()
    (tmp_path / "record" / "curve.json").write_text("[]")
    attach(tmp_path / "record", "features.json",
           {"effective_rank": 138.46, "features": 2048, "pictures": 25600})
    store.keep(result, tmp_path / "runs", tmp_path / "record")
    assert show.main([result.place, "--runs", str(tmp_path / "runs")]) == 0
    text = capsys.readouterr().out
    for fact in ("voc07_svm, bt [1a2b3c4d], seed 3", "mAP 56.00", "c" * 40 + ", with changes",
                 result.backbone["sha256"], "fingerprint f00d", "torch 2.14.1", "1 x x86_64 (cpu)",
                 "2 h 0 min, started 2026-01-31T12:00:00", "curve.json", result.config_hash,
                 "effective rank 138.5 of 2,048 by 25,600 pictures\n",
                 "image_size 64 (224)", "data.train 5 images (5011)", "config    13 settings; --config",
                 "python transfer/run.py --task voc07_svm --seed 3 "
                 "--rerun --weights 'my nets/bt.pth' --num-gpus 8 --data /data\n"):
        assert fact in text, fact
    assert "image_size = 64" not in text
    assert show.main([result.place, "--config", "--runs", str(tmp_path / "runs")]) == 0
    assert "  image_size = 64" in capsys.readouterr().out
    assert show.main([result.place, "--json", "--runs", str(tmp_path / "runs")]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["rerun"] == show.rerun(result) and found["metrics"] == {"mAP": 56.0}
    assert found["config"] == result.config and found["scaled"]["data.train"] == [5011, 5]


def test_many_metrics_are_wrapped_between_figures():
    result = toy("voc07_lowshot", {f"mAP_of_{k}_images": 10.0 for k in range(16)})
    lines = show.describe(result, "nowhere").split("\n  rerun")[0].splitlines()[1:]
    assert len(lines) > 2 and all(len(line) <= 100 and line.endswith("10.00") for line in lines)


def test_overrides_stay_behind_the_flags():
    source = "python transfer/run.py --weights bt.pth --task voc_det --seed 4 SOLVER.STEPS '(1, 2)'"
    result = toy(source=source, seed=4)
    assert show.rerun(result) == ("python transfer/run.py --task voc_det --seed 4 --rerun --weights bt.pth "
                                  "SOLVER.STEPS '(1, 2)'")


@pytest.mark.parametrize("given", ["", " --num-gpus=2"], ids=["by torchrun", "by the flag"])
def test_a_rerun_is_on_as_many_processes(given):
    device = {"type": "cuda", "name": "A", "count": 2}
    words = show.rerun(toy(source=f"python transfer/run.py --weights bt.pth{given}", device=device)).split()
    assert " ".join(words).replace("=", " ").count("--num-gpus 2") == 1


def test_a_record_is_found_by_file_from_anywhere_and_several_are_shown(tmp_path, monkeypatch, capsys):
    paths = [store.save(toy(seed=seed), tmp_path / "runs") for seed in range(2)]
    monkeypatch.chdir(tmp_path)
    assert show.main([str(paths[0]), os.path.relpath(paths[1])]) == 0
    assert capsys.readouterr().out.count("bt [1a2b3c4d], seed") == 2


@pytest.mark.parametrize("spoil, message", [
    (lambda path: path.unlink(), "expected a record's file or its place"),
    (lambda path: path.write_text("{"), "damaged"),
    (lambda path: path.write_text(path.read_text().replace("56.0", "65.0")), "edited or damaged"),
], ids=["missing", "torn", "edited"])
def test_what_cannot_be_shown_is_an_error(tmp_path, capsys, spoil, message):
    spoil(store.save(toy(), tmp_path))
    assert show.main([toy().place, "--runs", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


# The plan of a suite


def drafts(count, **changes):
    return [toy(seed=seed, metrics={}, **changes) for seed in range(count)]


def test_plan_counts_what_is_stored_and_estimates_from_the_same_config_and_devices():
    records = [toy(seed=0, seconds=100.0), toy(seed=9, seconds=300.0), toy(seed=8, seconds=200.0),
               toy(seed=7, seconds=1.0, config={"steps": 1}, scaled={"steps": [2, 1]}),
               toy(seed=6, seconds=1.0, device={"type": "cuda", "name": "x", "count": 8})]
    assert plan.line(drafts(3), records, False) == ("1 stored, 2 to run, about 7 min (from 3 earlier)", 400.0)
    assert plan.line(drafts(1), records, False) == ("1 stored", 0.0)
    assert plan.line(drafts(2, config={"other": 1}), records, False) == ("0 stored, 2 to run, time -", None)
    assert plan.line(drafts(1), records, True) == ("0 stored, 1 to run, about 3 min (from 3 earlier)", 200.0)


def test_total_says_what_it_does_not_know():
    assert plan.total([60.0, 0.0]) == "in all about 60 s"
    assert plan.total([]) == "nothing can run" and plan.total([0.0]) == "in all about 0 s"
    assert plan.total([None, None]) == "no earlier run shows how long; tasks: 2"
    assert plan.total([7200.0, None, None]) == "in all about 2 h 0 min; tasks of unknown time: 2"


@pytest.mark.parametrize("seconds, text", [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (5400, "1 h 30 min")])
def test_duration(seconds, text):
    assert plan.duration(seconds) == text
