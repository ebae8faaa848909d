"""The views on a CPU with tensors: libjpeg-turbo directly, torch's antialiased resize on 8 bits, then one
picture's colour operations in float32 (colour.py). The levels are Pillow's except in the resize, the blur and
a few pixels of hue; tests/test_pretrain_views.py reports the differences.
"""

import math

import numpy as np
import simplejpeg
import torch
from PIL import Image

from pretrain.pictures import colour
from pretrain.pictures.augment import ViewParameters, Views, draws
from pretrain.pictures.views_pil import checked, open_rgb


def decode(data: bytes | np.ndarray) -> torch.Tensor:
    """Return (3, H, W) uint8, the pixels of Pillow's convert("RGB"). Anything but a sound grey or RGB JPEG
    file goes to Pillow, whose message then says what is wrong with it."""
    if isinstance(data, np.ndarray):
        pixels = np.array(checked(data))
    else:
        found = decode_jpeg(data)
        pixels = np.array(open_rgb(data)) if found is None else found
    return torch.from_numpy(pixels).permute(2, 0, 1)


def decode_jpeg(data: bytes) -> np.ndarray | None:
    """Return (H, W, 3) uint8, or None if data is not a grey or RGB JPEG file without any fault."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        small = height * width <= 2 * (Image.MAX_IMAGE_PIXELS or math.inf)  # as Pillow, against bombs
        if small and colours in ("YCbCr", "RGB", "Gray"):
            return simplejpeg.decode_jpeg(data)
    except ValueError:
        pass
    return None


def crop(picture: torch.Tensor, parameters: ViewParameters, size: int) -> torch.Tensor:
    """Do the first step of a view; returns (size, size, 3) uint8."""
    left, top, width, height = parameters.box
    box = picture[None, :, top:top + height, left:left + width]
    # From contiguous rows of RGB pixels the resize is half as fast again as from a slice of the picture.
    box = box.contiguous(memory_format=torch.channels_last)
    view = torch.nn.functional.interpolate(box, (size, size), mode="bicubic", antialias=True)
    return view[0].permute(1, 2, 0).contiguous()


def finish_view(view: torch.Tensor, parameters: ViewParameters) -> torch.Tensor:
    """Do the other steps of a cropped view: (size, size, 3) -> (3, size, size), both uint8."""
    size = len(view)
    pixels = view.numpy()[:, ::-1] if parameters.flip else view.numpy()
    levels = np.empty((1, 3, size, size), np.float32)  # NumPy converts several times faster than torch
    np.copyto(levels[0], pixels.transpose(2, 0, 1))
    x = torch.from_numpy(levels)
    for name, factor in parameters.jitter:
        x = colour.JITTER[name](x, colour.jitter_factor(name, factor))
    if parameters.grey:
        x = colour.grey(x)
    if parameters.blur is not None:
        x = colour.blur_one(x, colour.box_weights(parameters.blur))
    if parameters.solarise:
        x = colour.solarise(x)
    return torch.from_numpy(x[0].numpy().astype(np.uint8, order="C")).expand(3, -1, -1)


class FastViews(Views):
    """views: (3, size, size) uint8 each."""

    def decode(self, data: bytes | np.ndarray) -> torch.Tensor:
        return decode(data)

    def views(self, picture: torch.Tensor, seed: int, epoch: int, index: int) -> tuple[torch.Tensor, ...]:
        height, width = picture.shape[1:]
        drawn = draws(self.recipes, width, height, seed, epoch, index)
        with torch.inference_mode():
            return tuple(finish_view(crop(picture, one, recipe.size), one)
                         for recipe, one in zip(self.recipes, drawn))
