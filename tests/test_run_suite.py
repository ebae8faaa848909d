"""transfer/run.py on a whole suite: the plan, what is skipped, kept files, the tables at the end."""

import json
import re
from pathlib import Path

from results import running, store
from tests.test_run import catalogue, records, toy, toy_task  # noqa: F401 (a fixture)
from transfer import suite


def test_the_plan_runs_nothing(toy, capsys, tmp_path):  # noqa: F811
    assert toy("--task", "all", "--seeds", "3", "--plan") == 0
    assert capsys.readouterr().out.splitlines() == [
        "toy_linear           0 stored, 3 to run, time -", "toy_other            0 stored, 3 to run, time -",
        "no earlier run shows how long; tasks: 2"]
    assert toy("--task", "toy_linear", "--seeds", "3", "--plan", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out).values()
    assert len(row["places"]) == 3 and (row["stored"], row["seconds"]) == (0, None)
    assert toy("--list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["toy_other"]["metrics"] == ["top1", "top5"]
    assert toy("--task", "all", "--json") == 2 and "--json: expected --list or" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_a_suite_skips_what_is_stored_and_ends_with_the_tables(toy, capsys):  # noqa: F811
    assert toy("--task", "toy_linear", "--seeds", "2") == 0
    capsys.readouterr()
    assert toy("--task", "all", "--seeds", "3") == 0
    text = capsys.readouterr().out
    assert re.match(r"toy_linear           2 stored, 1 to run, about 0 s \(from 2 earlier\)\n"
                    r"toy_other            0 stored, 3 to run, time -\n"
                    r"in all about 0 s; tasks of unknown time: 1\n", text)
    assert text.count("stored already") == 2 and len(records()) == 6
    assert "top1 4.0 ± 1.0" in text.partition("without a published figure here")[2]
    assert toy("--task", "all", "--seeds", "3", "--plan") == 0
    assert capsys.readouterr().out.count("3 stored\n") == 2


def test_rescaling_leaves_those_tasks_of_a_suite_alone_that_have_no_such_rule(toy):  # noqa: F811
    assert toy("--task", "all", "--rescale") == 0
    assert {result.task: result.scaled for result in records()} == {"toy_linear": {}, "toy_other": {}}


def test_a_suite_leaves_its_plan_and_its_runs_for_the_live_page(toy, monkeypatch):  # noqa: F811
    def fails(backbone, config, context):
        seen.update({place.state: place.job for _, places in running.state([Path("output")])[1]
                     for place in places if place.task == "toy_other"})
        raise ValueError("loss is nan; lower the rate")

    seen = {}
    catalogue(monkeypatch, toy_task(monkeypatch), toy_task(monkeypatch, "toy_other", run=fails))
    assert toy("--task", "all", "--seeds", "2") == 1
    assert seen.keys() == {"running", "waiting"} and seen["running"].cost < 1
    jobs, ((name, places),) = running.state([Path("output")])
    assert [(place.task, place.seed, place.state, place.problem) for place in places] == [
        ("toy_linear", "0", "finished", ""), ("toy_linear", "1", "finished", ""),
        *[("toy_other", seed, "stopped", "loss is nan; lower the rate") for seed in "01"]]
    assert places[0].result == records()[0] and name == records()[0].backbone["name"]
    assert sorted((job.task, job.state) for job in jobs) == [
        ("toy_linear", "finished"), ("toy_linear", "finished"), ("toy_other", "running")]  # as this process


def test_suites_of_the_same_weights_leave_a_plan_each(toy):  # noqa: F811
    for words in (["all"], ["all"], ["all", "--seeds", "2"], ["toy_other,toy_linear"]):
        assert toy("--task", *words) == 0
    assert len(running.find([Path("output")])[1]) == 3


def test_a_suite_goes_on_where_its_plan_cannot_be_written(toy, monkeypatch):  # noqa: F811
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(suite, "write_whole", full)
    assert toy("--task", "all") == 0 and len(records()) == 2


def test_what_is_run_again_counts_as_done_once_it_has_run_again(toy, monkeypatch):  # noqa: F811
    def run(backbone, config, context):
        ((_, places),) = running.state([Path("output")])[1]
        seen.append([place.state for place in places])
        return {"top1": 1.0, "top5": 2.0}

    seen = []
    catalogue(monkeypatch, toy_task(monkeypatch, run=run), toy_task(monkeypatch, "toy_other", run=run))
    assert toy("--task", "all") == toy("--task", "all", "--rerun") == 0
    assert seen == 2 * [["running", "waiting"], ["finished", "running"]]


def test_a_plan_names_what_cannot_run(toy, monkeypatch, capsys):  # noqa: F811
    def no_data(config, context):
        raise FileNotFoundError("data/imagenet: no such folder")

    catalogue(monkeypatch, toy_task(monkeypatch), toy_task(monkeypatch, "toy_other", data=no_data))
    assert toy("--task", "all", "--plan") == 0
    assert "cannot run: data/imagenet: no such folder" in capsys.readouterr().out


def test_what_a_task_leaves_for_its_record_is_kept_beside_it(toy, monkeypatch):  # noqa: F811
    def run(backbone, config, context):
        (context.out / "record").mkdir()
        (context.out / "record" / "curve.json").write_text("[]")
        return {"top1": 1.0, "top5": 2.0}

    catalogue(monkeypatch, toy_task(monkeypatch, run=run))
    assert toy("--task", "toy_linear") == 0
    (result,) = records()
    assert store.read_kept(result, "runs") == ({"curve.json": b"[]"}, [])
