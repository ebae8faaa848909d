"""Small pictures that stay on the device (--data-on device).

They are decoded once and kept there as uint8. Of each step's samples only numbers travel: which picture, its
boxes, and what is done to the crops. Order, draws and replacements are those of the other backends. The
crop is Pillow's, bit for bit (but see `resized`).
"""
import functools
import math
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from parallel import signals
from parallel.collectives import all_reduce_max
from parallel.packed import Index, Labels
from parallel.process import bar
from pretrain.pictures.augment import VIEWS, ViewRecipe, Views, draws, normalise
from pretrain.pictures.batches import patiently, reason
from pretrain.pictures.sources import Source
from pretrain.pictures.views_device import finish_views, pack
from pretrain.pictures.views_fast import decode
from pretrain.recipe import Recipe

if TYPE_CHECKING:  # it imports the feed, which imports this module
    from pretrain.trainer import Run

SHARE = 1 / 5  # of the device's memory that the pictures may take without being asked to
CHUNK = 256  # pictures that are decoded together
BITS = 22  # after the point, in Pillow's weights


class Misfit(ValueError):
    """Why these pictures cannot stay on the device."""


class Held:
    """A source whose pictures are on the device: an index stands for the picture.

    pixels (N, H, 3, W) uint8: the layout of `resized`. reasons: {index: why it could not be read or decoded}.
    """

    def __init__(self, source: Source, pixels: torch.Tensor, reasons: dict[int, str]):
        self.source, self.pixels, self.reasons = source, pixels, reasons
        self.fingerprint, self.name, self.place = source.fingerprint, source.name, source.place
        self.class_names = source.class_names

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> np.ndarray:
        if index in self.reasons:
            raise ValueError(self.reasons[index])
        return np.array(index)

    def labels(self, index: Index) -> Labels:
        return self.source.labels(index)

    def __getstate__(self) -> dict[str, Any]:
        """Loader workers need no pixels."""
        return self.__dict__ | {"pixels": None}


class ResidentViews(Views):
    """views: for each of them its picture's index, the box and what is left to do, (V, 19) float64."""

    def __init__(self, held: Held, views: tuple[ViewRecipe, ...] = VIEWS):
        super().__init__(views)
        self.held = held
        self.height, _, self.width = held.pixels.shape[1:]

    def decode(self, data: bytes | np.ndarray) -> int:
        return int(data)  # of Held.read

    def views(self, picture: int, seed: int, epoch: int, index: int) -> tuple[torch.Tensor, ...]:
        drawn = draws(self.recipes, self.width, self.height, seed, epoch, index)
        return torch.tensor([[picture, *one.box, *pack(one)] for one in drawn], dtype=torch.float64),

    def finish(self, batch: Sequence[torch.Tensor], device: torch.device | str) -> tuple[torch.Tensor, ...]:
        drawn, = batch
        where = drawn.to(device, non_blocking=True)[..., :5].long()
        rows = drawn[..., 5:].float()  # stay on the CPU
        with torch.no_grad(), torch.autocast(torch.device(device).type, enabled=False):
            return tuple(
                normalise(finish_views(resized(self.held.pixels, where[:, view], one.size), rows[:, view]))
                for view, one in enumerate(self.recipes))


# The crop

def resized(pixels: torch.Tensor, where: torch.Tensor, size: int) -> torch.Tensor:
    """Crop and resize as Pillow does with BICUBIC, first along the rows, then along the columns, rounded to
    whole levels after each (src/libImaging/Resample.c). Pillow 13 takes the columns first where a box is
    reduced much more in height than in width.

    pixels (N, H, 3, W) uint8; where (n, 5) int64: index, left, top, width, height. Returns (n, 3, size, size)
    float32 levels 0-255. float64 holds every sum of Pillow's integers exactly.
    """
    index, left, top, width, height = where.unbind(1)
    rows, columns = (
        (first[:, None] + torch.arange(length, device=where.device)).clamp_(max=length - 1)
        for first, length in ((top, pixels.shape[1]), (left, pixels.shape[3])))
    channels = torch.arange(3, device=where.device)[:, None]
    boxes = pixels[index.view(-1, 1, 1, 1), rows[:, :, None, None], channels, columns[:, None, None]].double()
    across = weights(pixels.shape[3], size, where.device)[width].transpose(1, 2)  # (n, W, size)
    down = weights(pixels.shape[1], size, where.device)[height]  # (n, size, H)
    lines = whole(boxes.flatten(1, 2) @ across)
    levels = whole(down @ lines.unflatten(1, (-1, 3)).flatten(2))
    return levels.unflatten(2, (3, size)).transpose(1, 2).to(torch.float32,
                                                             memory_format=torch.contiguous_format)


def whole(levels: torch.Tensor) -> torch.Tensor:
    """Round to whole levels as Pillow does, in place."""
    return levels.add_(0.5).floor_().clamp_(0, 255)


@functools.cache
def weights(length: int, size: int, device: torch.device) -> torch.Tensor:
    """Return (length + 1, size, length) float64: for each width of a box from 1 on, what each of its pixels
    counts in each pixel of a line of `size`; 0 for pixels beyond the box."""
    table = np.zeros((length + 1, size, length))
    pixel = np.arange(length)
    for width in range(1, length + 1):
        scale = width / size
        stretch = max(scale, 1.0)
        centre = (np.arange(size)[:, None] + 0.5) * scale
        first = (centre - 2 * stretch + 0.5).astype(int).clip(min=0)
        last = (centre + 2 * stretch + 0.5).astype(int).clip(max=width)
        counted = bicubic((pixel - centre + 0.5) * (1 / stretch)) * ((first <= pixel) & (pixel < last))
        counted /= counted.sum(1, keepdims=True)
        table[width] = np.trunc(counted * 2 ** BITS + np.copysign(0.5, counted)) / 2 ** BITS
    return torch.from_numpy(table).to(device)


def bicubic(x: np.ndarray) -> np.ndarray:
    """Return Pillow's bicubic filter at x: Keys' with a = -0.5."""
    a, x = -0.5, np.abs(x)
    return np.where(x < 1, ((a + 2) * x - (a + 3)) * x * x + 1,
                    np.where(x < 2, (((x - 5) * x + 8) * x - 4) * a, 0.0))


# Loading

def hold(source: Source, recipe: Recipe, run: "Run", device: torch.device) -> Held | None:
    """Return the source on the device, or None if it stays on the host. Every process calls it, and all come
    to the same end. Raises ValueError if --data-on device cannot be done."""
    asked = run.data_on == "device"
    if asked and recipe.views != "device":
        raise ValueError(f"--data-on device expected --views device, found --views {recipe.views}")
    if not asked and (run.data_on == "host" or recipe.views != "device" or device.type == "cpu"):
        return None
    held, misfit = None, None
    try:
        held = load(source, run.workers, device, memory_of(device) * (1 if asked else SHARE))
    except Misfit as error:
        misfit = error
    apart = all_reduce_max(torch.tensor(misfit is not None)).item()
    if asked and apart:
        raise misfit or Misfit("--data-on device: another process cannot hold the pictures; use --data-on "
                               "host")
    return None if apart else held


def memory_of(device: torch.device) -> int:
    """Return the bytes that the device has, used or not."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def load(source: Source, workers: int, device: torch.device, room: float) -> Held:
    """Decode all pictures. Raises Misfit if they are not of one size or take more bytes than `room`."""
    pixels: torch.Tensor | None = None
    reasons: dict[int, str] = {}
    for chunk in decoded(source, workers):
        reasons |= {index: found for index, found in chunk.items() if isinstance(found, str)}
        good = {index: found for index, found in chunk.items() if not isinstance(found, str)}
        if pixels is None and good:
            shape = next(iter(good.values())).shape
            size = len(source) * math.prod(shape)
            if size > room:
                raise Misfit(f"--data-on device: {len(source)} pictures of {shape[2]} x {shape[0]} take "
                             f"{size / 2**30:.2f} GiB, of {room / 2**30:.2f} GiB; use --data-on host")
            pixels = torch.zeros(len(source), *shape, dtype=torch.uint8, device=device)
        for index, found in good.items():
            if pixels is not None and found.shape != pixels.shape[1:]:
                raise Misfit("--data-on device expected pictures of one size, found "
                             f"{pixels.shape[3]} x {pixels.shape[1]} and, in {source.name(index)}, "
                             f"{found.shape[2]} x {found.shape[0]} pixels; use --data-on host")
        if pixels is not None and good:
            pixels[list(good)] = torch.from_numpy(np.stack(list(good.values()))).to(device)
    if pixels is None:
        raise Misfit(f"{source.name(0)}: {reasons[0]}; none of {len(source)} pictures can be read; repair "
                     "the data")
    return Held(source, pixels, reasons)


class Pictures(Dataset):
    """Item index -> the picture (H, 3, W) uint8, or the reason why it cannot be read or decoded."""

    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray | str]:
        try:
            return index, decode(patiently(self.source, index)).permute(1, 0, 2).numpy()
        except (OSError, ValueError) as error:
            return index, reason(error)


def decoded(source: Source, workers: int) -> Iterator[dict[int, np.ndarray | str]]:
    """Yield what becomes of all pictures, in their order, with a progress bar on a terminal."""
    loader = DataLoader(Pictures(source), CHUNK, num_workers=workers, collate_fn=dict,
                        worker_init_fn=signals.loader_worker, generator=torch.Generator())
    yield from bar(loader, "pictures to the device")
