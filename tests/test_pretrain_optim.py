"""LARS against a plain loop, and the learning rate at named steps."""
import pytest
import torch
from torch import nn

from pretrain.methods import recipe
from pretrain.optim import LARS, SGD, learning_rate_factor, learning_rates, parameter_groups


def plain_lars(p, g, mu, lr, weight_decay, biases=False):
    """Section 1.1 of the protocols, one parameter at a time, in Python. biases: as apex' LARC, too."""
    if p.dim() > 1 or biases:
        g = g + weight_decay * p
        p_norm, g_norm = (p ** 2).sum() ** 0.5, (g ** 2).sum() ** 0.5
        if p_norm > 0 and g_norm > 0:
            g = g * 0.001 * p_norm / g_norm
    mu = 0.9 * mu + g
    return p - lr * mu, mu


@pytest.mark.parametrize("biases", [False, True])
def test_lars_equals_a_plain_loop_over_three_steps(biases):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Conv1d(4, 2, 1), nn.Linear(2, 2, bias=False))
    net.double()
    with torch.no_grad():
        net[3].weight.zero_()  # no norm: ratio 1
    optimizer = LARS(parameter_groups(net), weight_decay=0.1, adapt_biases=biases)
    wanted = {name: (p.detach().clone(), torch.zeros_like(p)) for name, p in net.named_parameters()}
    for step in range(3):
        for group, rate in zip(optimizer.param_groups, (0.5 + step, 0.01)):
            group["lr"] = rate
        for name, p in net.named_parameters():
            p.grad = torch.zeros_like(p) if name == "2.weight" and step == 0 else torch.randn_like(p)
            rate = 0.01 if p.dim() == 1 else 0.5 + step
            wanted[name] = plain_lars(wanted[name][0], p.grad, wanted[name][1], rate, 0.1, biases)
        before = [p.grad.clone() for p in net.parameters()]
        optimizer.step()
        assert all(torch.equal(p.grad, b) for p, b in zip(net.parameters(), before))
    for name, p in net.named_parameters():
        assert torch.allclose(p, wanted[name][0], rtol=1e-12, atol=1e-14), name
        assert torch.allclose(optimizer.state[p]["mu"], wanted[name][1], rtol=1e-12, atol=1e-14), name


def test_lars_one_step_golden():
    """p = (3, 4), g = (0, 0.5): norm 5, d = (0.03, 0.54), ratio 0.001 x 5 / |d|. By hand."""
    p = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    p.grad = torch.tensor([[0.0, 0.5]], dtype=torch.float64)
    LARS([p], lr=2.0, weight_decay=0.01).step()
    ratio = 0.005 / (0.03 ** 2 + 0.54 ** 2) ** 0.5
    assert p.detach()[0].tolist() == pytest.approx([3 - 2 * ratio * 0.03, 4 - 2 * ratio * 0.54], rel=1e-12)


def test_parameters_without_a_gradient_stay():
    p, q = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    LARS([p, q], lr=1.0, weight_decay=1.0).step()
    assert torch.equal(p.detach(), torch.ones(2, 2)) and torch.equal(q.detach(), torch.ones(2))


def test_groups_are_weights_and_one_dimensional_parameters():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    weights, rest = parameter_groups(net)
    assert [tuple(p.shape) for p in weights["params"]] == [(3, 2)]
    assert [tuple(p.shape) for p in rest["params"]] == [(3,), (3,), (3,)]


def test_some_rates_follow_no_schedule():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    shapes = [[tuple(p.shape) for p in group["params"]] for group in parameter_groups(net, ("1.",))]
    assert shapes == [[(3, 2)], [(3,)], [(4, 3)], [(4,)]]
    assert learning_rates(recipe(), 0, 625) == pytest.approx((0, 0, 1.6, 0.0384))


def test_sgd_is_torchs_and_a_skipped_first_step_leaves_nothing_behind():
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(3, 2))
    q = nn.Parameter(p.detach().clone())
    ours, theirs = SGD([p], weight_decay=0.1), torch.optim.SGD([q], 0.5, momentum=0.9, weight_decay=0.1)
    ours.param_groups[0]["lr"] = 0.5
    for step in range(4):
        p.grad = torch.randn(3, 2)
        q.grad = p.grad.clone()
        ours.found_inf = torch.tensor(float(step == 0))
        ours.step()
        if step:
            theirs.step()
        assert torch.allclose(p, q, rtol=1e-6)


# 1000 epochs of 625 steps (1,281,167 images at 2048, the last batch left out), 10 of them warm-up.
@pytest.mark.parametrize("step, factor", [
    (0, 0.0), (1, 1 / 6250), (3125, 0.5), (6249, 6249 / 6250), (6250, 1.0),
    (6250 + 309375, 0.5 * 1.001),  # half of the cosine
    (624999, 0.001 + 0.999 * 6.444e-12),  # (pi / 2 / 618750)^2: one step before the end
], ids=["first", "second", "half warm", "last warm", "peak", "half", "last"])
def test_schedule_at_named_steps(step, factor):
    assert learning_rate_factor(step, 625, 1000) == pytest.approx(factor, rel=1e-9, abs=1e-15)


def test_the_rate_falls_in_steps():
    """torch's StepLR with step size 30 over 90 epochs of 7 steps, one a batch."""
    found = [learning_rate_factor(step, 7, 90, 0, "step") for step in (0, 209, 210, 419, 420, 629)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_rates_of_the_paper_at_2048():
    # docs/protocols.md#barlow-twins
    assert learning_rates(recipe(), 6250, 625)[:2] == pytest.approx((1.6, 0.0384))


@pytest.mark.parametrize("epochs, warmup, start, wanted", [
    (1, 10, 0.0, [0.0, 0.05]), (1, 0, 0.5, [1.0, 0.5005]), (2, 1, 0.0, [0.0, 0.5]), (2, 1, 0.2, [0.2, 0.6])])
def test_short_runs_have_a_schedule_too(epochs, warmup, start, wanted):
    found = [learning_rate_factor(step, 2, epochs, warmup, start=start) for step in range(2)]
    assert found == pytest.approx(wanted)
