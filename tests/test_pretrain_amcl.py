"""AMCL's two losses, restated from the paper's equations pair by pair."""

import pytest
import torch

from pretrain import methods
from pretrain.methods import recipe

HEADS, WIDTH, BATCH = 2, 4, 6


def network(method, **changes):
    torch.manual_seed(3)
    return methods.build(recipe(method=method, projector=f"8-{WIDTH}", heads=HEADS, batch_size=BATCH,
                                tau_width=5, **changes)).double()


def views():
    torch.manual_seed(0)
    return [torch.randn(BATCH, HEADS * WIDTH, dtype=torch.float64).requires_grad_() for _ in range(2)]


def unit(z):
    return z / (z @ z).sqrt()


def tau_of(phi, u, v, low=0.05, high=2.0):
    return low + (high - low) / (1 + (phi(u) @ phi(v)).exp())


def omega(tau, dimension):
    return dimension / 2 * tau.log() + 1 / tau


def simclr_by_the_book(phi, z1, z2, hardest, beta=1e-4):
    total = 0
    for head in range(HEADS):
        part = slice(head * WIDTH, (head + 1) * WIDTH)
        rows = [unit(z[part]) for z in (*z1, *z2)]
        for i, anchor in enumerate(rows):
            partner = (i + BATCH) % (2 * BATCH)
            tau = tau_of(phi, anchor, rows[partner])
            total = total - anchor @ rows[partner] / tau + beta * omega(tau, WIDTH)
            others = sorted((row for j, row in enumerate(rows) if j not in (i, partner)),
                            key=lambda row: -(anchor @ row).item())[:hardest]
            for row in others:
                tau = tau_of(phi, anchor, row)
                total = total + anchor @ row / tau / len(others) - beta * (tau.log() + 1 / tau)
    return total / (2 * BATCH)


def barlow_twins_by_the_book(phi, z1, z2, beta=1e-6, lambd=5e-3):
    total = 0
    for head in range(HEADS):
        part = slice(head * WIDTH, (head + 1) * WIDTH)
        a, b = z1[:, part], z2[:, part]
        x, y = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (a, b))
        for k in range(WIDTH):
            for m in range(WIDTH):
                c, tau = x[:, k] @ y[:, m] / BATCH, tau_of(phi, a[:, k], b[:, m])
                total = total + ((1 - c / tau) ** 2 + beta * omega(tau, WIDTH) if k == m
                                 else lambd * c ** 2 / tau - beta * omega(tau, WIDTH))
    return total


@pytest.mark.parametrize("method, settings", [
    ("amcl_simclr", dict(hardest=3)), ("amcl_simclr", dict(hardest=100)), ("amcl_barlow_twins", {}),
], ids=["SimCLR, some negatives", "SimCLR, all negatives", "Barlow Twins"])
def test_losses_are_the_papers(method, settings):
    z1, z2 = views()
    net = network(method, **settings)
    phi, weights, outputs = net.phi, list(net.phi.parameters()), (z1, z2)
    if method == "amcl_simclr":
        outputs += tuple(phi(net.unit(z)).flatten(1) for z in (z1, z2))
        theirs = simclr_by_the_book(phi, z1, z2, **settings)
    else:
        theirs = barlow_twins_by_the_book(phi, z1, z2)
    ours, figures = net.loss(outputs, (), 0)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-11)
    for a, b in zip(torch.autograd.grad(ours, [z1, z2, *weights]),
                    torch.autograd.grad(theirs, [z1, z2, *weights])):
        assert torch.allclose(a, b, atol=1e-10)
    assert 0.05 < figures["tau_lowest"] <= figures["tau_positive"] < 2


@pytest.mark.parametrize("method", ["amcl_simclr", "amcl_barlow_twins"])
def test_names_are_the_codes(method):
    """amcl/models.py of LeiWangR/cl: heads in a list, each a `net`; phi in the criterion, once."""
    names = network(method).state_dict().keys()
    assert {"encoder.conv1.weight", "projector.heads.0.net.0.weight", "projector.heads.1.net.0.bias",
            "criterion.temperature.phi.0.weight", "criterion.temperature.phi.2.bias"} <= names
    assert not any(name.startswith("phi") for name in names)
