"""The losses on CUDA against float64 on the CPU, on the same rounded embeddings: value and gradient.

Bounds, relative, of a gradient in its Euclidean norm. u is the unit roundoff.
- float32, u = 6e-8: sums of up to D = 2048 terms, whose errors add up like a random walk, and in batch norm's
  backward a difference a few times smaller than its terms: 4 sqrt(D) u = 1e-5.
- TF32 cuts each factor of a product to 10 bits, by up to u = 2^-10: two chained products, or the square of
  one, 4 u = 2^-8. Rounded instead of cut, in an emulation, the gradient is 7e-4 apart and the value 5e-6.
- 16 bits: the loss is computed in float32, so its bound stays; the gradient returns in 16 bits and is rounded
  once more, by at most u = 2^-8 for bfloat16 and 2^-11 for float16.
"""
import contextlib

import pytest
import torch

from pretrain.methods.correlation import Objective, correlation_loss
from pretrain.methods.vicreg import vicreg_terms
from transfer.precision import tf32

SHAPES = [(96, 512), (320, 128), (64, 2048)]  # Gram and direct are the cheaper form once each, and a wide one
BARLOW_TWINS, HSIC = Objective(0.0051), Objective(1 / 128, off_diagonal=-1.0, eps=0.0, correction=1)
SCALE = 1024.0  # a loss scale, so that no gradient of float16 is subnormal
VALUE, GRADIENT = 1e-5, 1e-5
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0 ** -8, torch.float16: 2.0 ** -11}


def correlation(objective, form):
    return lambda z1, z2: correlation_loss(z1, z2, objective, form)[0]


def vicreg(z1, z2):
    terms = vicreg_terms(z1, z2)
    return 25 * terms["loss_invariance"] + 25 * terms["loss_variance"] + terms["loss_covariance"]


LOSSES = {f"{name} {form}": correlation(objective, form)
          for name, objective in (("barlow twins", BARLOW_TWINS), ("hsic", HSIC))
          for form in ("gram", "direct", "reference")} | {"vicreg": vicreg}
EXACT = {"barlow twins": correlation(BARLOW_TWINS, "reference"), "hsic": correlation(HSIC, "reference"),
         "vicreg": vicreg}


def embeddings(count, width, unit):
    """Two noisy views; of deviations about 0.8, where VICReg's hinge is at work, or rows of length 1."""
    generator = torch.Generator().manual_seed(count)
    z1, noise = (torch.randn(count, width, generator=generator) for _ in range(2))
    views = z1 * 0.8 + 0.5, (z1 + 0.5 * noise) * 0.7
    return [torch.nn.functional.normalize(z, dim=1) for z in views] if unit else views


def value_and_gradients(loss_of, views, autocast=contextlib.nullcontext()):
    views = [z.detach().requires_grad_() for z in views]
    with autocast:  # the trainer, too, leaves it before backward
        loss = loss_of(*views)
    return loss.detach(), torch.autograd.grad(loss * SCALE, views)


_exact = {}


def wanted(method, views, key):
    """float64 on the CPU, computed once for each method and embeddings."""
    if (method, key) not in _exact:
        _exact[method, key] = value_and_gradients(EXACT[method], [z.double() for z in views])
    return _exact[method, key]


def distances(name, shape, dtype, device, autocast=contextlib.nullcontext()):
    """Relative distance of the value, and the largest of the two gradients."""
    method = name.removesuffix(" gram").removesuffix(" direct").removesuffix(" reference")
    views = [z.to(dtype) for z in embeddings(*shape, unit=method == "hsic")]
    value, gradients = wanted(method, views, (shape, dtype))
    found, found_gradients = value_and_gradients(LOSSES[name], [z.to(device) for z in views], autocast)
    assert found.dtype == torch.float32 and all(g.dtype == dtype for g in found_gradients)
    apart = [((a.cpu().double() - b).norm() / b.norm()).item() for a, b in zip(found_gradients, gradients)]
    print(f"{name:24} {shape} {dtype}: value {abs(found.item() / value.item() - 1):.1e}, gradient "
          f"{max(apart):.1e}")
    return abs(found.item() / value.item() - 1), max(apart)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.usefixtures("exact")
def test_float32(name, shape, device):
    value, gradient = distances(name, shape, torch.float32, device)
    assert value <= VALUE and gradient <= GRADIENT


@pytest.mark.parametrize("name", LOSSES)
def test_tf32(name, device):
    with tf32(allowed=True):
        value, gradient = distances(name, SHAPES[0], torch.float32, device)
    assert value <= 2.0 ** -8 and gradient <= 2.0 ** -8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.usefixtures("exact")
def test_16_bits_are_computed_in_float32_also_under_autocast(name, dtype, device):
    value, gradient = distances(name, SHAPES[0], dtype, device, torch.autocast(device.type, dtype=dtype))
    assert value <= VALUE and gradient <= GRADIENT + ROUNDING[dtype]
