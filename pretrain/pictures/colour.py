"""The colour operations of the views, in Pillow's arithmetic, on batches: pictures x (n, channels, H, W) of
whole levels 0-255 in float32, on any device.

Each works in place where it can and returns its result. Factors are numbers, or tensors (n, 1, 1, 1) with one
for each picture. Pillow works on 8 bits and truncates. So do these functions, and brightness, contrast,
saturation, grey and solarise therefore give Pillow's levels. Hue differs by one level where Pillow rounds its
saturation to 8 bits, and where it crosses red. The blur differs by Pillow's rounding between its six passes.
"""
import functools
import math
from collections.abc import Callable

import numpy as np
import torch

LIGHTNESS = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # Pillow's RGB to L, exact in float32
PASSES = 3  # box filters in each direction, Pillow's _gaussian_blur_radius
REACH = 2  # pixels to each side in one pass; enough for radii up to 2.2
BLOCK = 16  # pixels that a block of `blur` computes at once: the fastest of 16, 28 and 32 at 224 pixels


Factor = float | torch.Tensor


def grey(x: torch.Tensor) -> torch.Tensor:
    """Return the lightness (n, 1, H, W) of RGB pictures."""
    light = x[:, :1] * LIGHTNESS[0]
    light.add_(x[:, 1:2], alpha=LIGHTNESS[1]).add_(x[:, 2:], alpha=LIGHTNESS[2])
    return light.add_(0.5).floor_()


def brightness(x: torch.Tensor, factor: Factor) -> torch.Tensor:
    return x.mul_(factor).clamp_(max=255).floor_()


def contrast(x: torch.Tensor, factor: Factor) -> torch.Tensor:
    """Move levels away from the picture's mean lightness, which is a whole level."""
    mean = grey(x).mean((1, 2, 3)).add_(0.5).floor_()
    return blend(x, mean.view(-1, 1, 1, 1) if len(x) > 1 else mean[0], factor)  # a scalar is faster


def saturation(x: torch.Tensor, factor: Factor) -> torch.Tensor:
    return blend(x, grey(x), factor)


def blend(x: torch.Tensor, base: torch.Tensor, factor: Factor) -> torch.Tensor:
    """Return base + factor (x - base), clipped to 0-255: Pillow's Image.blend."""
    x.sub_(base).mul_(factor).add_(base)
    return (x.clamp_(0, 255) if torch.is_tensor(factor) or factor > 1 else x).floor_()


def hue(x: torch.Tensor, steps: Factor) -> torch.Tensor:
    """Turn the hue of RGB pictures by `steps` (whole, -84 to 84) of Pillow's steps, 256 to the circle.

    This is Pillow's conversion through 8-bit HSV, without its branches. Hue counts from red, positive towards
    green and negative towards blue; the sign only swaps green and blue.
    """
    red, green, blue = x.unbind(1)
    value, bottom = x.amax(1), x.amin(1)
    chroma = value.sub_(bottom)
    base = bottom.sub_(chroma)
    # Chroma times the distance from red in sixths of the circle: |green - blue| where red is the largest,
    # 2 chroma + min(green, blue) - red elsewhere. Both are this:
    angle = (green + blue).sub_(red).sub_(base)
    # 42.5 steps make a sixth. The millionth keeps whole quotients from falling short of themselves.
    angle.mul_(42.5 * (1 + 1e-6)).div_(chroma.clamp(min=1)).copysign_(green - blue).floor_()
    # Pillow counts 255 steps to the full circle but wraps at 256: pixels that cross red lose one there.
    # A channel is value - chroma * (2 - distance), where the distance of its own colour from the hue,
    # | |turned - own| - 3 | in sixths, is kept within 1 and 2. (Pillow cuts saturation to 8 bits first.)
    torch.add(steps * (6 / 255) - own_hues(x.device), angle.unsqueeze(1), alpha=6 / 255, out=x)
    x.abs_().sub_(3).abs_().clamp_(1, 2)
    return torch.addcmul(base.unsqueeze(1), x, chroma.unsqueeze(1), out=x).round_()  # there are no halves


@functools.cache
def own_hues(device: torch.device) -> torch.Tensor:
    """Return the hues of red, green and blue, in sixths of the circle from red, (3, 1, 1). Made once: a GPU's
    host waits for each copy."""
    return torch.tensor([0.0, 2.0, -2.0], device=device).view(3, 1, 1)


def solarise(x: torch.Tensor) -> torch.Tensor:
    """Invert levels from 128 on."""
    return x.sub_(127.5).abs_().neg_().add_(127.5)


JITTER: dict[str, Callable[[torch.Tensor, Factor], torch.Tensor]] = {
    "brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue,
}


def jitter_factor(name: str, factor: float) -> float:
    """Return what an operation of JITTER takes: the drawn factor; for hue, Pillow's whole steps."""
    return int(factor * 255) if name == "hue" else factor


def box_weights(radius: float) -> tuple[float, float, float]:
    """Return one pass of Pillow's GaussianBlur(radius), for radii from 0 to 2: the weights of the pixel
    itself and of those one and two pixels away on each side. It is a box of fractional width (Gwosdek et al.,
    SSVM 2011, as in Pillow's BoxBlur.c)."""
    variance = radius ** 2 / PASSES
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    full = 1 / (2 * (whole + part) + 1)
    return (full, full, full * part) if whole else (full, full * part, 0.0)


@functools.cache
def shift_products(length: int, device: torch.device | None = None) -> torch.Tensor:
    """Return (27, length, length): the products of three of the matrices that map a line to itself, to the
    sum of its shifts by one pixel to both sides, and by two pixels, with border pixels repeated."""
    line = torch.arange(length)
    moved = [torch.eye(length)[(line + offset).clamp(0, length - 1)] for offset in range(-REACH, REACH + 1)]
    shifts = torch.stack([moved[2], moved[1] + moved[3], moved[0] + moved[4]])
    pairs = shifts[:, None] @ shifts
    return (pairs[:, :, None] @ shifts).view(27, length, length).to(device)


def blur_matrices(weights: torch.Tensor, length: int) -> torch.Tensor:
    """Convert weights (n, 3) of `box_weights` to (n, length, length): the three passes along a line, with
    border pixels repeated in each pass, as in Pillow."""
    products = torch.einsum("na,nb,nc->nabc", weights, weights, weights).flatten(1)
    return (products @ shift_products(length, weights.device).flatten(1)).view(-1, length, length)


@functools.cache
def block_products(margin: int) -> torch.Tensor:
    """Return (27, 3, BLOCK, BLOCK + 2 margin): the blocks of `shift_products` along the diagonal (the first,
    any other, the last). What lies outside the picture has weight 0."""
    length = 3 * BLOCK
    padded = torch.nn.functional.pad(shift_products(length), (margin, margin))
    width = length + 2 * margin
    return padded.as_strided((27, 3, BLOCK, BLOCK + 2 * margin),
                             (length * width, BLOCK * width + BLOCK, width, 1)).contiguous()


def blur(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Apply Pillow's GaussianBlur. weights (n, 3) of `box_weights`, on x's device."""
    height, width = x.shape[-2:]
    rows = blur_matrices(weights, height).unsqueeze(1)
    columns = rows if width == height else blur_matrices(weights, width).unsqueeze(1)
    return torch.matmul(torch.matmul(rows, x), columns.transpose(-1, -2)).add_(0.5).floor_()


def blur_one(x: torch.Tensor, weights: tuple[float, float, float]) -> torch.Tensor:
    """Apply `blur` to one square picture on a CPU, in place and five times faster at 224 pixels: only the
    blocks near the matrix's diagonal are not zero, and all but the first and the last are equal. numpy takes
    two thirds of torch's time for products of such small matrices."""
    size, margin = x.shape[-1], PASSES * (REACH if weights[2] else 1)
    if size % BLOCK or size < 3 * BLOCK:
        return blur(x, torch.tensor([weights]))
    reach, count, channels = BLOCK + 2 * margin, size // BLOCK, x.shape[1]
    products = torch.tensor([a * b * c for a in weights for b in weights for c in weights])
    first, other, last = (products @ block_products(margin).flatten(1)).view(3, BLOCK, reach)
    blocks = torch.stack([first, *[other] * (count - 2), last])
    # Pixels outside the picture have weight 0, but must not be infinite.
    high = x.new_zeros(channels, size + 2 * margin, size)
    wide = x.new_zeros(channels, size, size + 2 * margin)
    high[:, margin:-margin] = x[0]
    np.matmul(blocks.numpy(), high.unfold(1, reach, BLOCK).transpose(2, 3).numpy(),
              out=wide[..., margin:-margin].unflatten(1, (count, BLOCK)).numpy())
    blocks = blocks.transpose(1, 2).contiguous()
    np.matmul(wide.unfold(2, reach, BLOCK).transpose(1, 2).numpy(), blocks.numpy(),
              out=x[0].unflatten(2, (count, BLOCK)).transpose(1, 2).numpy())
    return x.add_(0.5).floor_()
