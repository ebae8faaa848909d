"""What benchmarks measure with, and that their plain formulations compute the same as ours."""
import pytest
import torch

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


def half_a_gigabit():
    torch.ones(16 * common.MIB)  # float32, given back at once


def measured():
    return common.peak_bytes(half_a_gigabit, CPU)


def test_peak_memory_is_seen_though_it_was_given_back():
    assert common.in_fresh_process(measured) / common.MIB == pytest.approx(64, abs=8)


def test_loss_both_formulations_agree():
    generator = torch.Generator().manual_seed(0)
    found = []
    z1, z2 = (torch.randn(16, 24, generator=generator) for _ in range(2))
    for formulation in loss.FORMULATIONS.values():
        a, b = z1.clone().requires_grad_(), z2.clone().requires_grad_()
        bn = torch.nn.BatchNorm1d(24, affine=False)
        value = formulation(a, b, bn)
        value.backward()
        found.append((value.detach(), a.grad, b.grad, bn.running_mean, bn.running_var))
    for plain, ours in zip(*found, strict=True):
        assert torch.allclose(plain, ours, rtol=1e-4, atol=1e-5)


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
