"""transfer/execution.py from Python: a Request in, a record out."""
import dataclasses
from pathlib import Path

import pytest

from tests.test_run import catalogue, records, toy, toy_run, toy_task  # noqa: F401 (a fixture)
from transfer.execution import run
from transfer.request import Request

PLAIN = Request(task="toy_linear", weights="bt.pth", data="data", results="runs", device="cpu")


def test_a_request_becomes_a_record_once(toy, monkeypatch):  # noqa: F811
    contexts = []

    def counted(backbone, config, context):
        contexts.append(context)
        return toy_run(backbone, config, context)
    catalogue(monkeypatch, toy_task(monkeypatch, run=counted))
    first = run(dataclasses.replace(PLAIN, seed=2, pairs=("learning_rate", "0.1")))
    assert first.metrics == {"top1": 3.0, "top5": 50.0} and first.scaled == {"learning_rate": [0.3, 0.1]}
    assert [first] == records() and first.source == (
        "transfer.execution.run(Request(task='toy_linear', weights='bt.pth', data='data', results='runs', "
        "pairs=('learning_rate', '0.1'), seed=2, device='cpu'))")
    assert run(dataclasses.replace(PLAIN, seed=2, pairs=("learning_rate", "0.1"))) == first
    (context,) = contexts  # the second time it was stored already
    assert context.out == Path("output", first.place).with_suffix("") and not context.resume
    assert (context.seed, context.gpus, context.device) == (2, 1, "cpu")
    assert context.cache == Path("output/features")


def test_the_command_is_the_source_of_its_record(toy):  # noqa: F811
    assert toy("--task", "toy_linear", "--seed", "1") == 0
    (result,) = records()
    assert result.source.startswith("python transfer/run.py --weights bt.pth") and "--seed 1" in result.source


def test_a_check_returns_what_would_be_recorded(toy, tmp_path):  # noqa: F811
    draft = run(dataclasses.replace(PLAIN, check=True, smoke=True))
    assert draft.metrics == {} and draft.config["epochs"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize("changes, error, words", [
    ({"task": "toy_linaer"}, ValueError, "did you mean toy_linear"),
    ({"data": "nowhere"}, FileNotFoundError, "nowhere"),
    ({"pairs": ("epoch", "3")}, ValueError, "did you mean epochs"),
    ({"pairs": ("epochs",)}, ValueError, "left over"),
    ({"rescale": True}, ValueError, "--rescale is for detection"),
    ({"eval_only": True}, ValueError, "--eval-only is for detection"),
    ({"num_gpus": 0}, ValueError, "--num-gpus: expected 1 to 4096"),
    ({"seed": 2**31}, ValueError, "--seed: expected 0 to 2147483647"),
    ({"device": "tpu"}, ValueError, "cuda or cpu"),
    ({"resume": True, "rerun": True}, ValueError, "resume and rerun"),
], ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_bad_requests_are_one_clear_line(toy, changes, error, words):  # noqa: F811
    with pytest.raises(error) as found:
        run(dataclasses.replace(PLAIN, **changes))
    assert words in str(found.value) and "\n" not in str(found.value)
    assert not Path("runs").exists()


def test_several_runs_have_folders_of_their_own(toy):  # noqa: F811
    assert toy("--task", "all", "--seeds", "2", "--output", "out") == 0
    assert sorted(path.name for path in Path("out").iterdir() if path.is_dir()) == [
        "toy_linear-s0", "toy_linear-s1", "toy_other-s0", "toy_other-s1"]
