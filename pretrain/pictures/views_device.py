"""The views in two parts. The worker decodes, crops and resizes; the accelerator does the rest for a whole
batch, each sample with its own parameters and, in the jitter, its own order."""
from collections.abc import Callable, Sequence

import numpy as np
import torch

from pretrain.pictures import colour
from pretrain.pictures.augment import ViewParameters, Views, draws, normalise
from pretrain.pictures.views_fast import crop, decode

OPERATIONS = tuple(colour.JITTER)
POSITIONS = len(OPERATIONS)
# A row of parameters: the operation at each position of the jitter (-1: none), their factors, flip, grey,
# solarise, and three weights of the blur (0: none).
FLIP, GREY, SOLARISE = range(2 * POSITIONS, 2 * POSITIONS + 3)
BLUR = slice(2 * POSITIONS + 3, 2 * POSITIONS + 6)


def pack(parameters: ViewParameters) -> list[float]:
    """Return what is left to do after the crop, as a row of numbers."""
    unused = POSITIONS - len(parameters.jitter)
    names = [OPERATIONS.index(name) for name, _ in parameters.jitter] + [-1] * unused
    factors = [colour.jitter_factor(*one) for one in parameters.jitter] + [0] * unused
    weights = (0, 0, 0) if parameters.blur is None else colour.box_weights(parameters.blur)
    return [*names, *factors, parameters.flip, parameters.grey, parameters.solarise, *weights]


def finish_views(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Do the rest of the work on crops x (n, 3, S, S), float32 levels, in place; rows (n, 14) of `pack`.

    The rows stay on the CPU, so no GPU waits while the samples for an operation are looked up.
    """
    moved = rows.to(x.device, non_blocking=True)

    def change(chosen: torch.Tensor, operation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        """Apply operation(pictures, their rows) to the chosen samples only."""
        members = chosen.nonzero()[:, 0].to(x.device, non_blocking=True)
        if len(members):
            x[members] = operation(x[members], moved[members])

    change(rows[:, FLIP] == 1, lambda y, row: y.flip(-1))
    for position in range(POSITIONS):
        for number, operation in enumerate(colour.JITTER.values()):
            change(rows[:, position] == number,
                   lambda y, row: operation(y, row[:, POSITIONS + position].view(-1, 1, 1, 1)))
    change(rows[:, GREY] == 1, lambda y, row: colour.grey(y))
    change(rows[:, BLUR][:, 0] > 0, lambda y, row: colour.blur(y, row[:, BLUR]))
    change(rows[:, SOLARISE] == 1, lambda y, row: colour.solarise(y))
    return x


class DeviceViews(Views):
    """views: the crops (size, size, 3) uint8 and what is left to do, (V, 14) float32."""

    def decode(self, data: bytes | np.ndarray) -> torch.Tensor:
        return decode(data)

    def views(self, picture: torch.Tensor, seed: int, epoch: int, index: int) -> tuple[torch.Tensor, ...]:
        height, width = picture.shape[1:]
        drawn = draws(self.recipes, width, height, seed, epoch, index)
        with torch.inference_mode():
            crops = [crop(picture, one, recipe.size) for recipe, one in zip(self.recipes, drawn)]
            return *crops, torch.tensor([pack(one) for one in drawn], dtype=torch.float32)

    def finish(self, batch: Sequence[torch.Tensor], device: torch.device | str) -> tuple[torch.Tensor, ...]:
        *crops, rows = batch
        with torch.no_grad(), torch.autocast(torch.device(device).type, enabled=False):
            return tuple(normalise(finish_views(planes(view.to(device, non_blocking=True)), rows[:, number]))
                         for number, view in enumerate(crops))


def planes(crops: torch.Tensor) -> torch.Tensor:
    """Convert (n, S, S, 3) uint8 to (n, 3, S, S) float32."""
    return crops.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
