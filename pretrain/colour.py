"""The colour operations of the views, in Pillow's arithmetic, on batches: pictures x (n, channels, H, W) of
whole levels 0-255 in float32, on any device.

Each works in place where it can and returns its result. Factors are numbers, or tensors (n, 1, 1, 1) that
give each picture its own. Pillow works on 8 bits and cuts off what follows the point; the same is done here,
so that brightness, contrast, saturation, grey and solarise give Pillow's levels, and hue does but for rare
pixels one step aside. The blur leaves out Pillow's rounding between its six passes.
"""
import functools
import math

import torch

LIGHTNESS = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # Pillow's RGB to L, exact in float32
PASSES = 3  # box filters a direction, Pillow's _gaussian_blur_radius
REACH = 2  # pixels to each side in one pass; enough for radii up to 2.2
BLOCK = 16  # pixels that a block of `blur` makes at once: the quickest of 16, 28 and 32 at 224 pixels


def grey(x):
    """The lightness (n, 1, H, W) of RGB pictures."""
    light = x[:, :1] * LIGHTNESS[0]
    light.add_(x[:, 1:2], alpha=LIGHTNESS[1]).add_(x[:, 2:], alpha=LIGHTNESS[2])
    return light.add_(0.5).floor_()


def brightness(x, factor):
    return x.mul_(factor).clamp_(max=255).floor_()


def contrast(x, factor):
    """Away from the picture's mean lightness, a whole level."""
    mean = grey(x).mean((1, 2, 3)).add_(0.5).floor_()
    return blend(x, mean.view(-1, 1, 1, 1) if len(x) > 1 else mean[0], factor)  # a scalar is quicker


def saturation(x, factor):
    return blend(x, grey(x), factor)


def blend(x, base, factor):
    """base + factor (x - base), cut off to levels: Pillow's Image.blend."""
    return x.sub_(base).mul_(factor).add_(base).clamp_(0, 255).floor_()


def hue(x, steps):
    """Turn the hue of RGB pictures by `steps` (whole, -42 to 42) of Pillow's steps, 256 to the circle.

    Pillow's way through 8-bit HSV without its branches: hue counts from red, positive towards green and
    negative towards blue, which only swaps green and blue.
    """
    red, green, blue = x.unbind(1)
    high, low = torch.maximum(green, blue), torch.minimum(green, blue)
    over, under = (high - red).relu_(), (low - red).relu_()
    # Chroma times the distance from red in sixths of the circle: high - low where red is the largest,
    # 2 chroma + low - red elsewhere.
    angle = (high - low).add_(over).add_(under, alpha=2)
    value = over.add_(red)
    chroma = (value - low).add_(under)
    # 42.5 steps make a sixth. The millionth keeps whole quotients from falling short of themselves.
    angle.mul_(42.5 * (1 + 1e-6)).div_(chroma.clamp(min=1)).copysign_(green - blue).floor_()
    # Pillow counts 255 steps to the full circle but wraps at 256: one is lost on crossing red.
    turned = angle + (steps.squeeze(1) if torch.is_tensor(steps) else steps)
    turned.add_(angle.clamp_(-1, 0)).sub_(turned.clamp(-1, 0))
    saturated = chroma.mul_(255 * (1 + 1e-6)).div_(value.clamp(min=1)).floor_().mul_(value)  # times 255
    # A channel is value - saturated * (2 - distance), where the distance of its own colour from the hue,
    # | |turned - own| - 3 | in sixths, is kept within 1 and 2. Here distances are divided by 255.
    own = torch.tensor([0.0, 2 / 255, -2 / 255], device=x.device).view(3, 1, 1)
    torch.sub(turned.mul_(6 / 255 ** 2).unsqueeze(1), own, out=x)
    x.abs_().sub_(3 / 255).abs_().clamp_(1 / 255, 2 / 255).mul_(saturated.unsqueeze(1))
    return x.add_(value.sub_(saturated, alpha=2 / 255).add_(0.5).unsqueeze(1)).floor_()


def solarise(x):
    """Invert levels from 128 on."""
    return x.sub_(127.5).abs_().neg_().add_(127.5)


JITTER = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}


def jitter_factor(name, factor):
    """What an operation of JITTER takes: the drawn factor, for hue as Pillow's whole steps."""
    return int(factor * 255) if name == "hue" else factor


def box_weights(radius: float) -> tuple[float, float, float]:
    """One pass of Pillow's GaussianBlur(radius), 0 to 2: weights of the pixel itself and of those one and two
    pixels away, each side. A box of fractional width (Gwosdek et al., SSVM 2011, as in Pillow's BoxBlur.c).
    """
    variance = radius ** 2 / PASSES
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    full = 1 / (2 * (whole + part) + 1)
    return (full, full, full * part) if whole else (full, full * part, 0.0)


@functools.cache
def shifts(length, device=None):
    """(3, length, length): a line itself, and the sums of its shifts by one and two pixels to both sides with
    the border pixels repeated."""
    line = torch.arange(length)
    moved = [torch.eye(length)[(line + offset).clamp(0, length - 1)] for offset in range(-REACH, REACH + 1)]
    return torch.stack([moved[2], moved[1] + moved[3], moved[0] + moved[4]]).to(device)


def blur_matrices(weights, length):
    """Weights (n, 3) of `box_weights` -> (n, length, length): the three passes along a line, border pixels
    repeated in each pass as Pillow does."""
    once = (weights @ shifts(length, weights.device).flatten(1)).view(-1, length, length)
    return once @ once @ once


def blur(x, weights):
    """Pillow's GaussianBlur; weights (n, 3) of `box_weights`, on x's device."""
    height, width = x.shape[-2:]
    rows = blur_matrices(weights, height).unsqueeze(1)
    columns = rows if width == height else blur_matrices(weights, width).unsqueeze(1)
    return torch.matmul(torch.matmul(rows, x), columns.transpose(-1, -2)).add_(0.5).floor_()


def blur_one(x, weights):
    """`blur` of one square picture on a CPU, three times quicker at 224 pixels: only blocks near the matrix's
    diagonal are not zero, and all but the first and the last are the same."""
    size, margin = x.shape[-1], PASSES * (REACH if weights[2] else 1)
    weights = torch.tensor([weights])
    if size % BLOCK or size < 3 * BLOCK:
        return blur(x, weights)
    matrix = x.new_zeros(3 * BLOCK, 3 * BLOCK + 2 * margin)
    matrix[:, margin:-margin] = blur_matrices(weights, 3 * BLOCK)[0]
    reach, count, channels = BLOCK + 2 * margin, size // BLOCK, x.shape[1]
    blocks = matrix.as_strided((3, BLOCK, reach), (BLOCK * len(matrix[0]) + BLOCK, len(matrix[0]), 1))
    blocks = torch.cat([blocks[:1], blocks[1:2].expand(count - 2, -1, -1), blocks[2:]])
    # Pixels outside the picture have weight 0, but must not be infinite.
    wide = x.new_zeros(channels * size, size + 2 * margin)
    wide[:, margin:-margin] = x.view(channels * size, size)
    windows = wide.as_strided((count, channels * size, reach), (BLOCK, wide.stride(0), 1))
    across = torch.bmm(windows, blocks.transpose(1, 2)).view(count, channels, size, BLOCK)
    high = x.new_zeros(size + 2 * margin, channels, size)  # rows first: one product for all channels
    high[margin:-margin].unflatten(2, (count, BLOCK)).copy_(across.permute(2, 1, 0, 3))
    windows = high.as_strided((count, reach, channels * size), (BLOCK * high.stride(0), high.stride(0), 1))
    down = torch.bmm(blocks, windows).add_(0.5).floor_()
    return down.view(size, channels, size).transpose(0, 1).unsqueeze(0)
