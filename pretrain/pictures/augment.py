"""The two asymmetric views (BYOL's, arXiv 2006.07733), numbers as main.py:290-321 of the official code.

`sample` draws what is done to a picture; a backend does it. A picture's two draws depend on (seed, epoch,
index) alone, so neither the number of workers nor the backend changes them.

pil     the official operations of Pillow, the reference (views_pil.py)
fast    the same on a CPU with tensors, about four times faster (views_fast.py)
device  crop in the worker, the rest on the accelerator, one batch at a time (views_device.py)

RGB always means Pillow's convert("RGB"), also for 16 bits, CMYK and palettes. Transparency is dropped, and
EXIF's rotation is not applied.
"""
import dataclasses
import functools
import importlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch

from parallel.pixels import MEAN, STD


@dataclass(frozen=True)
class ViewRecipe:
    """Probabilities and ranges of one view."""
    blur: float  # probability
    solarise: float  # probability
    size: int = 224  # side in pixels
    scale: tuple[float, float] = (0.08, 1.0)  # share of the picture's area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grey: float = 0.2
    blur_radius: tuple[float, float] = (0.1, 2.0)  # Pillow's radius, in pixels of the view


VIEWS = (ViewRecipe(blur=1.0, solarise=0.0), ViewRecipe(blur=0.1, solarise=0.2))


def sized(size: int, views: tuple[ViewRecipe, ...] = VIEWS) -> tuple[ViewRecipe, ...]:
    """Return the same views with size x size pixels each."""
    return tuple(dataclasses.replace(one, size=size) for one in views)


@dataclass(frozen=True)
class ViewParameters:
    """What is done to one picture, in this order."""
    box: tuple[int, int, int, int]  # left, top, width, height in the picture's pixels
    flip: bool
    jitter: tuple[tuple[str, float], ...]  # operations with their factors, in their order; empty: none
    grey: bool
    blur: float | None  # Pillow's radius
    solarise: bool


def sample(recipe: ViewRecipe, width: int, height: int, draw: random.Random) -> ViewParameters:
    """Draw one view of a width x height picture. Everything is drawn whether it is used or not, so a changed
    probability does not affect the other operations."""
    box = sample_box(recipe, width, height, draw)
    flip = draw.random() < recipe.flip
    operations = [(name, draw.uniform(1 - reach, 1 + reach)) for name, reach in (
        ("brightness", recipe.brightness), ("contrast", recipe.contrast), ("saturation", recipe.saturation))]
    operations.append(("hue", draw.uniform(-recipe.hue, recipe.hue)))
    draw.shuffle(operations)
    jitter = tuple(operations) if draw.random() < recipe.jitter else ()
    grey = draw.random() < recipe.grey
    radius = draw.uniform(*recipe.blur_radius)
    blur = radius if draw.random() < recipe.blur else None
    return ViewParameters(box, flip, jitter, grey, blur, draw.random() < recipe.solarise)


def sample_box(recipe: ViewRecipe, width: int, height: int, draw: random.Random) -> tuple[int, int, int, int]:
    """Try ten times to draw a box of random area and aspect, then take the largest central one, like
    torchvision's RandomResizedCrop."""
    found = None
    low, high = math.log(recipe.ratio[0]), math.log(recipe.ratio[1])
    for _ in range(10):
        share, aspect = draw.uniform(*recipe.scale), draw.uniform(low, high)
        if found is None:
            area, aspect = width * height * share, math.exp(aspect)
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                found = draw.randint(0, width - w), draw.randint(0, height - h), w, h
    if found:
        return found
    low, high = recipe.ratio
    w = min(width, round(height * high))
    h = min(height, round(width / low))
    return (width - w) // 2, (height - h) // 2, w, h


def draws(views: tuple[ViewRecipe, ...], width: int, height: int, seed: int, epoch: int,
          index: int) -> list[ViewParameters]:
    """Return what is done to a width x height picture in this epoch, one entry for each view."""
    draw = random.Random(f"{seed} {epoch} {index}")  # Python hashes the text, the same everywhere
    return [sample(recipe, width, height, draw) for recipe in views]


def normalise(levels: torch.Tensor) -> torch.Tensor:
    """Convert (n, 3, H, W) levels 0-255, uint8 or float32, to float32 with ImageNet's statistics, like
    ToTensor and Normalize."""
    mean, std = statistics(levels.device)
    return levels.float().div(255).sub_(mean).div_(std)


@functools.cache
def statistics(device: torch.device) -> tuple[torch.Tensor, ...]:
    """Return ImageNet's mean and deviation, (3, 1, 1) each. Made once: a GPU's host waits for each copy."""
    return tuple(torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))


Picture = TypeVar("Picture")


class Backend(Protocol[Picture]):
    """What makes the views, from RGB pictures in a form of its own."""

    def decode(self, data: bytes | np.ndarray) -> Picture:
        """Return the picture of an encoded file's bytes or of a uint8 array (H, W, 3). Raises ValueError with
        the reason if that fails."""

    def views(self, picture: Picture, seed: int, epoch: int, index: int) -> tuple[torch.Tensor, ...]:
        """Return tensors, which the default collate stacks."""

    def finish(self, batch: Sequence[torch.Tensor], device: torch.device | str) -> tuple[torch.Tensor, ...]:
        """Return the stacked tensors as views (n, 3, size, size) float32, normalised, on the device."""


class Views:
    """What the backends share: any number of views, each of its own size, which `finish` takes as uint8."""

    def __init__(self, views: tuple[ViewRecipe, ...] = VIEWS):
        self.recipes = views

    def finish(self, batch: Sequence[torch.Tensor], device: torch.device | str) -> tuple[torch.Tensor, ...]:
        return tuple(normalise(view.to(device, non_blocking=True)) for view in batch)


BACKENDS = {"pil": "PillowViews", "fast": "FastViews", "device": "DeviceViews"}


def make_backend(name: str, views: tuple[ViewRecipe, ...] = VIEWS) -> Backend:
    """Return the backend `name` for such views. Raises ValueError for an unknown name."""
    if name not in BACKENDS:
        raise ValueError(f"--views expected one of {', '.join(BACKENDS)}, found {name!r}")
    return getattr(importlib.import_module(f"pretrain.pictures.views_{name}"), BACKENDS[name])(views)
