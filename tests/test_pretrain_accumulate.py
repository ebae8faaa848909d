"""A batch in micro-batches: the exact gradient of the whole batch's loss (pretrain/accumulate.py)."""
import contextlib

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from parallel.batchnorm import convert_sync_batchnorm
from parallel.collectives import rank, world_size
from parallel.launch import launch
from pretrain.accumulate import accumulated_backward
from pretrain.methods.correlation import Objective, correlation_loss
from tests.pretrain_toys import lines, start, toy_backbone, write_pictures

BATCH, WIDTH = 12, 7


class Toy(nn.Module):
    def __init__(self, batch_norm):
        super().__init__()
        torch.manual_seed(5)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4) if batch_norm else nn.Tanh(),
                                 nn.Flatten(), nn.Linear(36, WIDTH))
        self.bn = nn.BatchNorm1d(WIDTH, affine=False)
        self.double()

    def forward(self, y1, y2):
        return self.net(y1), self.net(y2)


def views():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(BATCH, 3, 5, 5, dtype=torch.float64, generator=generator) for _ in range(2)]


def loss_of(toy):
    def function(outputs):
        loss, _ = correlation_loss(*outputs, Objective(0.0051), running=toy.bn)
        return loss, loss.detach()
    return function


def accumulated(batch_norm, count):
    """Loss, gradients summed over processes, and buffers; each process takes every so manyth image."""
    toy = convert_sync_batchnorm(Toy(batch_norm))
    model = toy if world_size() == 1 else DistributedDataParallel(toy)
    own = [y[rank()::world_size()] for y in views()]
    loss, (z1, _) = accumulated_backward(toy, model, own, count, loss_of(toy), contextlib.nullcontext)
    assert z1.shape == (len(own[0]), WIDTH) and not z1.requires_grad
    gradients = [p.grad * world_size() for p in toy.parameters()]
    return loss, gradients, [buffer.double() for buffer in toy.buffers()]


def plain(batch_norm, count):
    """The same with all micro-batches' graphs alive at once."""
    toy = Toy(batch_norm)
    parts = [toy(*part) for part in zip(*(y.tensor_split(count) for y in views()))]
    loss, _ = loss_of(toy)([torch.cat(z) for z in zip(*parts)])
    loss.backward()
    return loss.detach(), [p.grad for p in toy.parameters()], [buffer.double() for buffer in toy.buffers()]


def assert_equal(found, wanted):
    assert abs(found[0] - wanted[0]) < 1e-10
    for a, b in zip([*found[1], *found[2]], [*wanted[1], *wanted[2]], strict=True):
        assert (a - b).abs().max() < 1e-10


@pytest.mark.parametrize("count", [2, 3, 5])
def test_without_batch_norm_equals_the_whole_batch(count):
    assert_equal(accumulated(False, count), plain(False, 1))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_with_batch_norm_has_the_statistics_of_each_micro_batch_once(count):
    found, wanted = accumulated(True, count), plain(True, count)
    assert_equal(found, wanted)
    assert (found[0] - plain(True, 1)[0]).abs() > 1e-4  # it is another network than with the whole batch
    tracked = [buffer for buffer in found[2] if buffer.dim() == 0]
    assert [value.item() for value in tracked] == [2 * count, 2]  # the network's, then the embeddings' own


def test_two_processes_equal_one():
    assert_equal(launch(accumulated, 2, True, 3), accumulated(True, 3))


def test_a_run_says_that_batch_norm_is_per_micro_batch(tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.backbones.build_backbone", toy_backbone)
    write_pictures(tmp_path)
    for folder, count in (("whole", 1), ("parts", 2)):
        start(tmp_path, folder, accumulate=count, epochs=1)
    whole, parts = (lines(tmp_path / folder) for folder in ("whole", "parts"))
    assert all(line["batch_norm"] == "statistics of micro-batches of 2 images" for line in parts)
    assert "batch_norm" not in whole[0] and whole[0]["loss"] != parts[0]["loss"]
