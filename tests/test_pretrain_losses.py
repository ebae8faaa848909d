"""The losses on the cross-correlation: values worked by hand, all forms against the plain one, gradients."""
import pytest
import torch
from torch import nn

from pretrain.methods import correlation
from pretrain.methods.correlation import Objective, choose_form, correlation_loss

BARLOW_TWINS, HSIC = Objective(0.0051), Objective(0.0051, off_diagonal=-1.0, eps=0.0, correction=1)
SHAPES = [(2, 1), (2, 2), (2, 7), (3, 4), (5, 8), (6, 8), (7, 8), (9, 4), (16, 1)]  # 4N = 3D at (6, 8)


def embeddings(count, width, dtype=torch.float64):
    torch.manual_seed(count * 100 + width)
    z1 = torch.randn(count, width, dtype=dtype) * 3 + 1
    return z1.requires_grad_(), (z1.detach() + torch.randn(count, width, dtype=dtype)).requires_grad_()


def value_and_gradients(z1, z2, objective, form):
    loss, _ = correlation_loss(z1, z2, objective, form)
    return (loss.detach(), *torch.autograd.grad(loss * 1.7, (z1, z2)))  # a factor that backward has to use


@pytest.mark.parametrize("form", ["gram", "direct", "reference", "auto"])
def test_two_by_two_by_hand(form):
    # Columns of variance 1 and mean 0: normalising divides by sqrt(1 + 1e-5), so C = s [[1, -1], [1, -1]]
    # with s = 1 / 1.00001, and L = (s - 1)^2 + (-s - 1)^2 + 0.5 (s^2 + s^2) = 2 + 3 s^2.
    z1 = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    z2 = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    loss, terms = correlation_loss(z1 + 40, z2, Objective(0.5), form)  # a shift changes nothing
    assert loss.item() == pytest.approx(2 + 3 / 1.00001 ** 2, rel=1e-12)
    assert terms.diagonal.tolist() == pytest.approx([1 / 1.00001, -1 / 1.00001], rel=1e-12)
    health = terms.health()
    assert health["diagonal_mean"] == pytest.approx(0, abs=1e-12)
    assert health["off_diagonal_rms"] == pytest.approx(1 / 1.00001, rel=1e-12)


@pytest.mark.parametrize("form", ["gram", "direct", "reference", "auto"])
def test_two_by_two_by_hand_with_an_aim_of_minus_one(form):
    # Unbiased variance 2, so a and b are +-1/sqrt(2) and C = [[1, -1], [1, -1]] / 2 by the division by N = 2:
    # L = (1/2 - 1)^2 + (-1/2 - 1)^2 + 0.5 ((-1/2 + 1)^2 + (1/2 + 1)^2) = 2.5 + 1.25.
    z1 = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    z2 = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    loss, terms = correlation_loss(z1, z2, Objective(0.5, off_diagonal=-1.0, eps=0.0, correction=1), form)
    assert (terms.invariance.item(), terms.redundancy.item()) == pytest.approx((2.5, 1.25), rel=1e-12)
    assert loss.item() == pytest.approx(3.75, rel=1e-12)


@pytest.mark.parametrize("objective", [BARLOW_TWINS, HSIC], ids=["barlow twins", "hsic"])
@pytest.mark.parametrize("block", [1024, 3], ids=["one block", "blocks of 3"])
@pytest.mark.parametrize("count, width", SHAPES)
def test_forms_agree_in_float64(monkeypatch, count, width, block, objective):
    monkeypatch.setattr(correlation, "COLUMNS", block)
    monkeypatch.setattr(correlation, "STRIP", block)
    z1, z2 = embeddings(count, width)
    wanted = value_and_gradients(z1, z2, objective, "reference")
    for form in ("gram", "direct", "auto"):
        for a, b in zip(value_and_gradients(z1, z2, objective, form), wanted):
            assert (a - b).abs().max() <= 1e-11 * max(1.0, b.abs().max()), form


@pytest.mark.parametrize("objective", [BARLOW_TWINS, HSIC], ids=["barlow twins", "hsic"])
@pytest.mark.parametrize("form", ["gram", "direct", "reference", "auto"])
@pytest.mark.parametrize("count, width", [(2, 1), (2, 3), (6, 4), (4, 6)])
def test_gradients_against_finite_differences(form, count, width, objective):
    z1, z2 = embeddings(count, width)
    assert torch.autograd.gradcheck(lambda a, b: correlation_loss(a, b, objective, form)[0], (z1, z2))


@pytest.mark.parametrize("form", ["gram", "direct", "reference"])
def test_constant_columns_stay_finite(form):
    z1, z2 = embeddings(5, 4)
    with torch.no_grad():
        z1[:, 1], z2[:, 2] = 3.0, 0.0
    loss, g1, g2 = value_and_gradients(z1, z2, BARLOW_TWINS, form)
    for a, b in zip((loss, g1, g2), value_and_gradients(z1, z2, BARLOW_TWINS, "reference")):
        assert a.isfinite().all() and torch.allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("form", ["gram", "direct"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 3e-6), (torch.bfloat16, 5e-3)], ids=str)
def test_narrow_types_are_computed_in_float32(form, dtype, tolerance):
    """Also under autocast, whose 16-bit products would be wrong in the third digit of the loss. The gradient
    comes back in the embeddings' type; that rounding alone is 2^-9 for bfloat16."""
    z1, z2 = (z.detach().to(dtype).requires_grad_() for z in embeddings(64, 96, torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value_and_gradients(z1, z2, BARLOW_TWINS, form)
    wide = (z.detach().double().requires_grad_() for z in (z1, z2))
    exact = value_and_gradients(*wide, BARLOW_TWINS, "reference")
    assert found[0].dtype == torch.float32 and found[1].dtype == dtype
    assert abs(found[0].item() / exact[0].item() - 1) < 1e-5
    for a, b in zip(found[1:], exact[1:]):
        assert (a.double() - b).norm() / b.norm() < tolerance


@pytest.mark.parametrize("form", ["gram", "direct", "reference"])
def test_running_statistics_are_those_of_batch_norm(form):
    z1, z2 = embeddings(6, 4)
    ours, torchs = (nn.BatchNorm1d(4, affine=False).double() for _ in range(2))
    correlation_loss(z1, z2, BARLOW_TWINS, form, running=ours)
    torchs(z1), torchs(z2)
    for a, b in zip(ours.buffers(), torchs.buffers()):
        assert torch.allclose(a.double(), b.double(), rtol=1e-12)


def test_form_follows_the_cost():
    assert [choose_form(n, 8192) for n in (256, 6143, 6144, 9000)] == ["gram", "gram", "direct", "direct"]


@pytest.mark.parametrize("z1, z2, form, message", [
    ((4, 3), (4, 2), "auto", r"of one shape, found \(4, 3\) and \(4, 2\)"),
    ((4,), (4,), "auto", r"expected two \(N, D\)"),
    ((1, 3), (1, 3), "auto", "at least 2 images in the batch, found 1"),
    ((4, 3), (4, 3), "fast", "one of auto, gram, direct, reference, found 'fast'"),
], ids=["shapes", "dimensions", "one image", "form"])
def test_what_does_not_fit_is_refused(z1, z2, form, message):
    with pytest.raises(ValueError, match=message):
        correlation_loss(torch.zeros(z1), torch.zeros(z2), BARLOW_TWINS, form)


@pytest.mark.parametrize("form", ["gram", "direct"])
def test_a_scaled_loss_keeps_small_gradients_in_float16(form):
    """The gradient is below float16's normal numbers; the scaler's factor lifts it before it is rounded."""
    z1, z2 = ((100 * z.detach()).half().requires_grad_() for z in embeddings(256, 32))
    scaled = torch.autograd.grad(correlation_loss(z1, z2, BARLOW_TWINS, form)[0] * 2.0 ** 16, (z1, z2))
    wide = [z.detach().double().requires_grad_() for z in (z1, z2)]
    exact = torch.autograd.grad(correlation_loss(*wide, BARLOW_TWINS, "reference")[0], wide)
    assert all(0 < g.abs().max() < 6e-5 for g in exact)
    for g, wanted in zip(scaled, exact):
        assert (g.double() / 2 ** 16 - wanted).norm() <= 1e-3 * wanted.norm()
