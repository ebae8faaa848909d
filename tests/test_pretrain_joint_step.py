"""Two and four processes do what one does on the joint batch: loss, gradients, weights after a step."""
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from parallel.batchnorm import convert_sync_batchnorm
from parallel.collectives import rank, world_size
from parallel.launch import launch
from pretrain.methods.correlation import Objective, correlation_loss
from pretrain.optim import LARS, parameter_groups
from pretrain.trainer import gradient_factor

BATCH = 8
CASES = [("gram", 32), ("direct", 32), ("reference", 32), ("gram", "actual")]


class Toy(nn.Module):
    """A network of every kind of layer that matters: convolution, linear, biases, three batch norms."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                                 nn.Linear(36, 10), nn.BatchNorm1d(10), nn.ReLU(),
                                 nn.Linear(10, 12, bias=False))
        self.bn = nn.BatchNorm1d(12, affine=False)
        self.double()

    def forward(self, y1, y2):
        return self.net(y1), self.net(y2)


def views():
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(BATCH, 3, 5, 5, dtype=torch.float64, generator=generator) for _ in range(2))


def one_step(form, reference):
    toy = convert_sync_batchnorm(Toy())
    own = slice(rank() * BATCH // world_size(),
                (rank() + 1) * BATCH // world_size())
    model = toy if world_size() == 1 else DistributedDataParallel(toy)
    optimizer = LARS(parameter_groups(toy), lr=0.5, weight_decay=0.01)
    optimizer.param_groups[1]["lr"] = 0.2
    outputs = model(*(y[own] for y in views()))
    loss, _ = correlation_loss(*outputs, Objective(0.0051), form, running=toy.bn)
    (loss * gradient_factor(reference, world_size())).backward()
    gradients = [p.grad.clone() for p in toy.parameters()]
    optimizer.step()
    return loss.detach(), gradients, [p.detach() for p in toy.parameters()], list(toy.buffers())


def all_cases():
    return [one_step(*case) for case in CASES]


@pytest.fixture(scope="module")
def alone():
    return all_cases()


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_equal_one_on_the_joint_batch(alone, processes):
    found = launch(all_cases, processes)
    for (form, reference), one, many in zip(CASES, alone, found):
        # The official code's gradient is 1/W of the exact one (docs/protocols.md#biases).
        factor = processes if reference == "actual" else 1
        assert abs(one[0] - many[0]) < 1e-10, form
        for a, b in zip(one[1], many[1]):
            assert (a - factor * b).abs().max() < 1e-10, (form, reference)
        for a, b in zip(one[3], many[3]):
            assert (a.double() - b.double()).abs().max() < 1e-10, form
        if reference != "actual":
            for a, b in zip(one[2], many[2]):
                assert (a - b).abs().max() < 1e-10, form


def test_reference_world_size_scales_the_exact_gradient(alone):
    exact = one_step("reference", 1)
    for form, (_, gradients, _, _) in zip((form for form, _ in CASES), alone[:3]):
        for a, b in zip(exact[1], gradients):
            assert torch.allclose(a, 32 * b, atol=1e-10), form
