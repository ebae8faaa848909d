"""The contract of a method: all that the trainer asks of it."""
from collections.abc import Callable

import torch
from torch import nn

from pretrain.recipe import Recipe, Value


class Method(nn.Module):
    """An objective with its networks. A step is

        inputs  = method.inputs(views, draw)         views: a tensor (n, 3, H, W) for each, of this process
        targets = method.targets(*inputs)            without gradients
        outputs = method(*inputs)                    with gradients; wrapped in DDP for several processes
        loss, figures = method.loss(outputs, targets, step)
        method.after_step(step, taken)

    Rules that make a method right on any number of processes and micro-batches:
    - the state dict is the `model` of a checkpoint, under the names of the method's own published code;
      what outlives a step (averages, queues) is a parameter or a buffer in it;
    - all that is random in a step is drawn in `inputs`, from `draw`; `forward` is deterministic, and its
      inputs may be cut by rows;
    - `loss` is that of the joint batch of all processes, the same value in each, and the gradient of this
      process's outputs is their part of the joint loss's gradient (collectives.gather_rows);
    - a number that depends on time is a function of the global step (and of steps_per_epoch).
    """

    Recipe = Recipe  # the shared recipe with the method's own numbers
    PRESETS: dict[str, dict[str, Value]] = {"code": {}}  # name -> changes; `code` is the published program

    backbone: nn.Module  # images (n, 3, H, W) -> features (n, width)
    width: int
    constant_rate: tuple[str, ...] = ()  # beginnings of the names of parameters whose rates have no schedule
    steps_per_epoch: int = 1  # of the run; the trainer sets it
    forward: Callable[..., tuple[torch.Tensor, ...]]  # inputs -> outputs (n, ...), first one of each view

    def inputs(self, views: tuple[torch.Tensor, ...], draw: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Return what `forward` takes, n rows each; `draw` is of (seed, step), the same in every
        process. A method whose recipe
        is `labelled` gets the pictures' classes (n,), int64, after the views."""
        return views

    def as_fed(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows (n, ...), one a picture, in the order in which `forward` passes a view to the
        backbone."""
        return rows

    def targets(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the loss compares the outputs with and no gradient flows to."""
        return ()

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the scalar loss of the joint batch, and figures for the log: scalars without gradients."""
        raise NotImplementedError

    def after_step(self, step: int, taken: torch.Tensor) -> None:
        """Do what follows an update: averages, queues. taken: a boolean scalar on the device, false where the
        step does not count; then no parameter may change (buffers are restored after a skipped step)."""

    def torchvision_state(self) -> dict[str, torch.Tensor]:
        """Return the backbone's weights under torchvision's names, without fc."""
        return self.backbone.state_dict()
