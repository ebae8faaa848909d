"""A group of one process, gloo for tensors on the CPU and NCCL for those on the GPU: collectives, SyncBN's
kernels, and a step of the trainer in DistributedDataParallel.
"""
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules._functions import SyncBatchNorm

from parallel import groups
from parallel.batchnorm import CPUSyncBatchNorm
from parallel.collectives import agree, barrier, gather
from pretrain import trainer
from tests.gpu_toys import prepared, update
from tests.pretrain_toys import toy_backbone, write_pictures


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.backbones.build_backbone", toy_backbone)
    write_pictures(tmp_path, 16)
    return tmp_path


@pytest.fixture
def group(device):
    """This process in a group of its own."""
    groups.join(dist.HashStore(), 0, 1, lambda story: None)
    yield dist.group.WORLD
    groups.leave()
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_collectives_on_both_devices(device):
    for place in {torch.device("cpu"), device}:
        rows = torch.arange(6.0, device=place).view(3, 2)
        parts = [torch.empty_like(rows)]
        dist.all_gather(parts, rows)
        total = rows.clone()
        dist.all_reduce(total)
        dist.broadcast(total, 0)
        assert torch.equal(parts[0], rows) and torch.equal(total, rows)
    barrier()
    assert gather({"a": 1}) == [{"a": 1}] and agree(lambda: 5) == 5


@pytest.mark.usefixtures("exact")
def test_joint_batch_norm_is_that_of_float64(device, group):
    """torch's layer is plain batch norm in a group of one, so its function is called: kernels and gather."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, 5, 7, generator=generator) * 3 + 1
    direction = torch.randn(x.shape, generator=generator)
    layer = nn.BatchNorm2d(4)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2, generator=generator), layer.bias.uniform_(-1, 1, generator=generator)
    exact = nn.BatchNorm2d(4).double()
    exact.load_state_dict(layer.state_dict())
    wide = x.double().requires_grad_()
    (exact(wide) * direction.double()).sum().backward()

    own = x.to(device).requires_grad_()
    layer.to(device)
    if device.type == "cuda":
        y = SyncBatchNorm.apply(own, layer.weight, layer.bias, layer.running_mean, layer.running_var,
                                layer.eps, layer.momentum, group, 1)
    else:
        joint = CPUSyncBatchNorm(4)
        joint.weight, joint.bias = layer.weight, layer.bias
        y, layer = joint(own), joint
    (y * direction.to(device)).sum().backward()
    pairs = [(own.grad, wide.grad), (layer.weight.grad, exact.weight.grad),
             (layer.bias.grad, exact.bias.grad), *zip(layer.buffers(), exact.buffers())]
    for found, wanted in pairs[:5]:  # without the number of batches
        assert (found.cpu().double() - wanted).norm() <= 1e-5 * wanted.norm()


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_in_a_group_is_that_without_one(root, device, request, monkeypatch, accumulate):
    alone, seen = update(prepared(root, device, accumulate=accumulate))
    request.getfixturevalue("group")
    with monkeypatch.context() as patch:  # as for several processes
        patch.setattr(trainer, "world_size", lambda: 2)
        patch.setattr("parallel.batchnorm.world_size", lambda: 2)
        training = prepared(root, device, accumulate=accumulate)
    assert isinstance(training.model, nn.parallel.DistributedDataParallel)
    kind = nn.SyncBatchNorm if device.type == "cuda" else CPUSyncBatchNorm
    assert any(isinstance(module, kind) for module in training.network.modules())
    together, found = update(training)
    assert found.loss == pytest.approx(seen.loss, rel=1e-5)
    for a, b in zip(together, alone):
        assert (a - b).norm() <= 1e-3 * b.norm()
    assert trainer.between_steps(training)[0] == 0
