"""Batch normalisation over the rows of all processes."""
import pytest
import torch
from torch import nn

from parallel.batchnorm import convert_group_batchnorm, convert_sync_batchnorm
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


def test_groups_of_rows_have_their_own_statistics():
    torch.manual_seed(0)
    x, weights = torch.randn(6, 3, 4, 4), torch.randn(6, 3, 4, 4)
    layers = [torch.nn.BatchNorm2d(3) for _ in range(3)]
    grouped = convert_group_batchnorm(torch.nn.Sequential(torch.nn.BatchNorm2d(3)), 2)[0]
    assert grouped.state_dict().keys() == layers[0].state_dict().keys()
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = grouped(ours)
    expected = torch.cat([layer(part) for layer, part in zip(layers, theirs.split(2))])
    assert torch.allclose(y, expected, atol=1e-6)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        mean = torch.stack([getattr(layer, name).float() for layer in layers]).mean(0)
        assert torch.allclose(getattr(grouped, name).float(), mean, atol=1e-6)
    layers[0].load_state_dict(grouped.state_dict())
    assert torch.allclose(grouped.eval()(x[:5]), layers[0].eval()(x[:5]), atol=1e-6)
    with pytest.raises(ValueError, match="whole groups of 2 rows, found 5"):
        grouped.train()(x[:5])
