"""What only the papers' ablations need: the losses of the variants, restated from the papers' text."""

import pytest
import torch
from torch.nn import functional

from pretrain import methods
from pretrain.methods import recipe


def views(count=7, width=5):
    torch.manual_seed(0)
    return [torch.randn(count, width, dtype=torch.float64).requires_grad_() for _ in range(2)]


def small(method, **changes):
    return methods.build(recipe(method=method, arch="resnet18", projector="8-5", **changes))


def standardised(z):
    return (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()


def correlation(z1, z2):
    return standardised(z1).T @ standardised(z2) / len(z1)


def covariance(z1, z2):
    return (z1 - z1.mean(0)).T @ (z2 - z2.mean(0)) / len(z1)


def unit_images(z1, z2):
    """Centred over the batch, then each image's embedding to length 1; the covariance is not divided."""
    return sum(torch.outer(a / a.norm(), b / b.norm()) for a, b in zip(z1 - z1.mean(0), z2 - z2.mean(0)))


def squares(c, on=1.0, lambd=0.0051):
    """Equation 1 of Barlow Twins, element by element."""
    return sum((1 - c[i, i]) ** 2 * on if i == j else lambd * c[i, j] ** 2
               for i in range(len(c)) for j in range(len(c)))


def cross_entropy(c, temperature=0.1, lambd=1.0):
    diagonal = torch.stack([(c[i, i] / temperature).exp() for i in range(len(c))]).sum()
    rest = torch.stack([(c[i, j].clamp(min=0) / temperature).exp()
                        for i in range(len(c)) for j in range(len(c)) if i != j]).sum()
    return -diagonal.log() + lambd * rest.log()


TABLE5 = {  # row -> settings, and the loss from the embeddings
    "baseline": ({}, lambda z1, z2: squares(correlation(z1, z2))),
    "invariance": (dict(lambd=0.0), lambda z1, z2: squares(correlation(z1, z2), lambd=0.0)),
    "redundancy": (dict(on_diagonal=0.0), lambda z1, z2: squares(correlation(z1, z2), on=0.0)),
    "features": (dict(normalisation="features"), lambda z1, z2: squares(unit_images(z1, z2))),
    "none": (dict(normalisation="none"), lambda z1, z2: squares(covariance(z1, z2))),
    "cross-entropy": (dict(temperature=0.1, lambd=1.0), lambda z1, z2: cross_entropy(correlation(z1, z2))),
    "stop-gradient": (dict(stop_gradient=True), lambda z1, z2: squares(correlation(z1, z2.detach()))),
}


def assert_same(ours, theirs, outputs):
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
    for a, b in zip(torch.autograd.grad(ours, outputs, allow_unused=True),
                    torch.autograd.grad(theirs, outputs, allow_unused=True)):
        assert (a is None or not a.any()) if b is None else torch.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("row", TABLE5)
def test_rows_of_barlow_twins_tables_5_and_6(row):
    settings, book = TABLE5[row]
    outputs = views()
    ours, _ = small("barlow_twins_ablated", **settings).loss(tuple(outputs), (), 0)
    assert_same(ours, book(*outputs), outputs)


def vicreg_by_the_book(z1, z2):
    """Equations 1 to 6 of VICReg with the code's halves, element by element."""
    loss = 25 * sum((a - b).square().mean() for a, b in zip(z1, z2)) / len(z1)
    for z in (z1, z2):
        centred = z - z.mean(0)
        for j in range(z.shape[1]):
            deviation = (centred[:, j].square().sum() / (len(z) - 1) + 1e-4).sqrt()
            loss = loss + 25 / 2 * functional.relu(1 - deviation) / z.shape[1]
            for k in range(z.shape[1]):
                if j != k:
                    loss = loss + ((centred[:, j] @ centred[:, k]) / (len(z) - 1)) ** 2 / z.shape[1]
    return loss


@pytest.mark.parametrize("norm, normalised", [
    ("none", lambda z: z), ("std", standardised), ("l2", lambda z: torch.stack([a / a.norm() for a in z])),
], ids=["none", "std", "l2"])
def test_rows_of_vicregs_table_8(norm, normalised):
    outputs = views()
    ours, _ = small("vicreg_ablated", normalisation=norm).loss(tuple(outputs), (), 0)
    assert_same(ours, vicreg_by_the_book(*map(normalised, outputs)), outputs)


@pytest.mark.parametrize("method", ["simsiam", "byol"])
def test_rows_of_vicregs_table_4_add_both_terms(method):
    """The added terms are VICReg's loss without its invariance."""
    torch.manual_seed(1)
    outputs = tuple(torch.randn(7, 5, dtype=torch.float64).requires_grad_() for _ in range(4))
    targets = tuple(torch.randn(7, 5, dtype=torch.float64) for _ in range(2)) if method == "byol" else ()
    plain, _ = small(method).loss(outputs, targets, 0)
    ours, _ = small(f"{method}_regularised", std_coeff=25.0, cov_coeff=1.0).loss(outputs, targets, 0)
    z1, z2 = outputs[:2]
    added = vicreg_by_the_book(z1, z2) - 25 * (z1 - z2).square().mean()
    assert_same(ours, plain + added, outputs)


@pytest.mark.parametrize("method, settings, gone", [
    ("barlow_twins_ablated", dict(hidden_norm=False), "BatchNorm1d"),
    ("vicreg_ablated", dict(hidden_norm=False), "BatchNorm1d"),
    ("simsiam_regularised", dict(projector_norm=False, with_predictor=False), "BatchNorm1d"),
])
def test_heads_without_batch_norm_have_none(method, settings, gone):
    network = small(method, **settings)
    heads = [module for name, module in network.named_modules()
             if name.split(".")[0] in ("projector", "predictor") or ".fc" in name]
    assert heads and not any(type(module).__name__ == gone for module in heads)
    assert all(module.bias is not None for module in heads if isinstance(module, torch.nn.Linear))


@pytest.mark.parametrize("method", ["barlow_twins_ablated", "vicreg_ablated"])
def test_the_second_view_may_have_a_network_of_its_own(method):
    network = small(method, second="resnet34", stem="small").eval()
    images = torch.randn(2, 3, 32, 32)
    one, two = network(images, images)
    assert one.shape == two.shape and not torch.allclose(one, two)
    assert sum("second" in name for name in network.state_dict()) > 200  # a ResNet-34 and its projector
