"""Batch normalisation over the rows of all processes."""
import pytest
import torch
from torch import nn

from parallel.batchnorm import convert_sync_batchnorm
from parallel.collectives import all_gather_rows, all_reduce_sum, rank
from parallel.launch import launch


def layers():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 6, bias=False),
                         nn.BatchNorm1d(6, momentum=None), nn.BatchNorm1d(6, affine=False)).double()


def joint_statistics(images, sizes):
    """Outputs, gradients and buffers of this process's share; gradients of parameters summed over ranks."""
    net = convert_sync_batchnorm(layers())
    start = sum(sizes[:rank()])
    mine = images[start:start + sizes[rank()]].clone().requires_grad_()
    for _ in range(2):  # twice, so that running averages are more than their first value
        y = net(mine)
    (y.sin() * torch.arange(1, 7)).sum().backward()
    gradients = [all_reduce_sum(p.grad.clone()) for p in net.parameters()]
    return (all_gather_rows(y), all_gather_rows(mine.grad), gradients,
            list(net.buffers()), list(net.state_dict()))


@pytest.mark.parametrize("sizes", [(5, 5), (1, 9), (2, 3, 1, 4)], ids=str)
def test_sync_batchnorm_equals_one_process_on_the_joint_batch(sizes):
    images = torch.randn(10, 2, 5, 5, dtype=torch.float64) * 3 + 10
    wanted = joint_statistics(images, (10,))
    found = launch(joint_statistics, len(sizes), images, sizes)
    assert found[4] == wanted[4]
    for a, b in zip([*found[:2], *found[2], *found[3]], [*wanted[:2], *wanted[2], *wanted[3]]):
        a, b = a.double(), b.double()
        assert (a - b).abs().max() <= 1e-12 * max(1.0, b.abs().max())
