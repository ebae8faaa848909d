"""What benchmarks measure with, and that their plain formulations compute the same as ours."""
import importlib
import types
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as runner
from benchmarks import common, lars, loss
from pretrain.methods import recipe

CPU = torch.device("cpu")


def test_competitors_take_turns_after_a_warm_up():
    calls = []
    seconds = common.compare({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=3,
                             least_seconds=0)
    assert "".join(calls[6:]) == "abc" + "bca" + "cab"
    assert {name: len(rounds) for name, rounds in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratio_is_of_medians_with_the_spread_of_rounds():
    found = common.ratio([4.0, 6.0, 90.0], [2.0, 2.0, 3.0])
    assert found == common.Ratio(3.0, 2.0, 30.0) and str(found) == "3.00 (2.00-30.00)"


ROWS = [common.Row("8 x 4", "time, plain over ours", common.Ratio(3.0, 2.0, 4.5), "2", "7 MiB"),
        common.Row("8 x 4", "MiB of ours", 1234.5)]


def test_rows_are_a_table():
    lines = common.table(ROWS, "github").splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        "8 x 4", "time, plain over ours", "3.00", "2.00 to 4.50", "2", "7 MiB"]
    assert [cell.strip() for cell in lines[3].strip("|").split("|")][2:] == ["1,234", "", "", ""]


@pytest.mark.parametrize("device, status", [("cpu", 1), ("cuda", 0)])
def test_a_missed_target_counts_on_a_cpu(device, status, monkeypatch, capsys):
    monkeypatch.setattr(common, "lack", lambda _: "")
    row = common.Row("8 x 4", "time", 0.5, missed=True)
    assert common.main("What it is.", {"device": device}, lambda args: [row], []) == status
    assert ("target missed: 8 x 4, time" in capsys.readouterr().err) == bool(status)


@pytest.fixture
def toys(monkeypatch):
    """Three benchmarks: one of a CPU, one of either device, one of a GPU."""
    kinds = {"lars": {}, "loss": {"device": "cpu"}, "detection_step": {"device": "cuda"}}
    modules = {f"benchmarks.{name}": types.SimpleNamespace(__doc__=f"What {name} is.\nMore.", FLAGS=flags,
                                                           measure=lambda args: ROWS)
               for name, flags in kinds.items()}
    monkeypatch.setattr(importlib, "import_module", modules.__getitem__)
    monkeypatch.setattr(common, "in_fresh_process", lambda function, *args: function(*args))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return modules


def test_a_part_is_run_and_the_other_sections_stay(toys, tmp_path, capsys):
    out = tmp_path / "speed.md"
    assert runner.main(["lars", "detection_step", "--out", str(out)]) == 0
    first = out.read_text()
    assert first.index("## lars\n") < first.index("## detection_step, GPU\n\nLeft out: expected a GPU")
    assert "What lars is.\n\n2" in first and f"torch {torch.__version__}".partition("+")[0] in first
    assert "| 3.00     | 2.00 to 4.50 |" in first
    toys["benchmarks.lars"].measure = lambda args: [common.Row("other", "time", 5.0)]
    out.write_text(first.replace("Left out: expected", "Measured on a GPU: expected"))
    assert runner.main(["loss", "detection_step", "--out", str(out)]) == 0
    second = out.read_text()
    assert [line for line in second.splitlines() if line.startswith("## ")] == [
        "## loss", "## lars", "## detection_step, GPU"]
    assert "Measured on a GPU: expected" in second and "8 x 4" in second.partition("## lars")[2]
    assert runner.main(["lars", "--out", str(out)]) == 0
    assert "8 x 4" not in out.read_text().partition("## lars")[2]
    assert runner.main(["loss", "lars", "--device", "cuda", "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("left out: ") == 4 and "## loss, GPU" not in out.read_text()


def test_a_benchmark_that_fails_or_misses_does_not_stop_the_others(toys, tmp_path, capsys):
    out = tmp_path / "speed.md"
    toys["benchmarks.lars"].measure = lambda args: 1 / 0
    toys["benchmarks.loss"].measure = lambda args: [common.Row("8 x 4", "time", 0.5, missed=True)]
    assert runner.main(["lars", "loss", "--out", str(out)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err and "## loss" in out.read_text()
    assert runner.main(["nothing"]) == 2


def test_every_benchmark_is_run():
    files = {path.stem for path in Path(runner.__file__).parent.glob("*.py") if "FLAGS" in path.read_text()}
    assert files - {"__main__", "common"} == set(runner.NAMES)


def half_a_gigabit():
    torch.ones(16 * common.MIB)  # float32, given back at once


def measured():
    return common.peak_bytes(half_a_gigabit, CPU)


def test_peak_memory_is_seen_though_it_was_given_back():
    assert common.in_fresh_process(measured) / common.MIB == pytest.approx(64, abs=8)


@pytest.mark.parametrize("name", loss.LOSSES)
def test_formulations_of_a_loss_agree(name):
    """Value and gradients; lightly's, too, where it is installed."""
    embeddings, found = loss.prepared(name, 32, 256, CPU)
    assert set(found) >= set(loss.formulations(name))
    ours, *others = [kind for kind in ("ours", "plain", "lightly") if kind in loss.formulations(name)]
    wanted = found[ours]()
    gradients = torch.autograd.grad(wanted, embeddings, allow_unused=True, materialize_grads=True)
    for other in others:
        value = found[other]()
        assert value.item() == pytest.approx(wanted.item(), rel=1e-4), other
        theirs = torch.autograd.grad(value, embeddings, allow_unused=True, materialize_grads=True)
        for a, b in zip(gradients, theirs, strict=True):
            assert (a - b).norm() <= 1e-3 * a.norm(), other


def test_lars_both_formulations_agree(monkeypatch):
    monkeypatch.setitem(lars.NETWORKS, "toy", recipe("cifar10", projector="8-8"))
    monkeypatch.setattr(lars, "RATE", 0.1)
    found = []
    for name in ("plain", "ours"):
        optimiser = lars.optimisers("toy", CPU)[name]
        for _ in range(2):
            optimiser.step()
        parameters = optimiser.parameters if name == "plain" else [
            p for group in optimiser.param_groups for p in group["params"]]
        found.append(sorted((p.sum().item(), p.norm().item()) for p in parameters))
    assert torch.allclose(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-5, atol=1e-4)
