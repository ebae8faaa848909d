"""What a training step will cost, before anything is measured: the step itself, on tensors without values.

It takes seconds on any machine and needs no GPU. The process is one of `processes`, whose collectives are
noted and not sent.
Batch norms are counted as torch's SyncBatchNorm works on a GPU. Not counted are workspaces of cuDNN and
cuBLAS, the CUDA context (about 0.5 GiB) and NCCL, a data set kept on the device, and what --compile changes.
"""
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from parallel.collectives import rehearsing
from parallel.ledger import Kernel, Ledger, renewed
from pretrain import methods
from pretrain.optim import build_optimizer
from pretrain.recipe import Recipe
from pretrain.trainer import Run, Training, backward
from pretrain.upkeep.guard import Guard

BUCKET = 25 * 2 ** 20  # bytes of gradients in one collective of DDP
MARGIN = 0.9  # share of a device's memory that can be planned with


class Message(NamedTuple):
    """A collective of one step: all-reduce, all-gather or broadcast, and the bytes of its whole result."""
    kind: str
    bytes: int


@dataclass(frozen=True)
class Forecast:
    """One step of one process. peak_bytes: the most that tensors take at once, weights and momenta included;
    checkpoint_bytes: of a checkpoint's tensors; traffic: {"batch norm", "loss", "gradients", "buffers"}."""
    images: int
    peak_bytes: int
    checkpoint_bytes: int
    kernels: list[Kernel]
    traffic: dict[str, list[Message]]

    @property
    def flops(self) -> int:
        return sum(kernel.flops for kernel in self.kernels)

    def fits(self, device_gib: float) -> bool:
        """Return whether a device of so many GiB has room, with a margin for workspaces."""
        return self.peak_bytes < MARGIN * device_gib * 2**30

    def sentence(self, device_gib: float | None = None) -> str:
        """Return the costs in words. device_gib: memory of the process's device, if that is known."""
        need = self.peak_bytes / 2**30
        text = f"{self.flops / 1e12:.3g} TFLOP a step, {need:.2f} GiB at most in each process, " \
               "without workspaces"
        if device_gib is None:
            return f"{text}; a device of {math.ceil(need / MARGIN)} GiB has room for it"
        if self.fits(device_gib):
            return f"{text}; a device of {device_gib:.1f} GiB has room for it"
        return f"{text}; a device of {device_gib:.1f} GiB has no safe room for it: lower --batch-size, " \
               "raise --accumulate or take more processes"


def forecast(recipe: Recipe, processes: int = 1, device: str = "cuda") -> Forecast:
    """Return what a step costs in one of so many processes, each with as many images, rounded up. On a GPU
    (device "cuda") the next step's views are there, too."""
    images = math.ceil(recipe.batch_size / processes)
    traffic: dict[str, list[Message]] = {name: [] for name in ("batch norm", "loss", "gradients", "buffers")}

    def note(kind: str, size: int) -> None:
        traffic["loss"].append(Message(kind, size))

    with torch.device("meta"):  # fake tensors cannot be copied as some methods copy a network
        network = methods.build(recipe)
    with FakeTensorMode(), Ledger() as ledger, rehearsing(processes, note):
        renewed(network)
        if processes > 1:
            for layer in network.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.forward = functools.partial(joint_batch_norm, layer,  # type: ignore[method-assign]
                                                      traffic["batch norm"], processes)
        # No data set and no log take part. On the CPU autocast knows the same 16-bit operations as on a GPU.
        training = Training(recipe, Run(Path(), Path()), torch.device("cpu"), cast(Any, None), network,
                            network, build_optimizer(recipe, network),
                            torch.amp.GradScaler("cpu", enabled=recipe.precision == "fp16"),
                            Guard(network, recipe.spike_factor))
        views = empty_views(recipe, images)
        upcoming = tuple(map(torch.empty_like, views)) if device == "cuda" else ()  # noqa: F841  feed.py
        for step in range(2):  # the first makes the momenta
            ledger.restart()
            for messages in traffic.values():
                messages.clear()
            training.optimizer.zero_grad(set_to_none=processes == 1)  # DDP's buckets stay
            training.guard.begin()
            backward(training, step, views)
            training.optimizer.step()
        peak, kernels = ledger.peak, ledger.kernels
        kept = [*network.state_dict().values(), *tree_leaves(training.optimizer.state_dict()["state"])]
    if processes > 1:
        gradients = sum(p.nbytes for p in network.parameters())
        count = math.ceil(gradients / BUCKET)
        traffic["gradients"] = [Message("all-reduce", gradients // count)] * count
        traffic["buffers"] = [Message("broadcast", sum(b.nbytes for b in network.buffers()))]
    return Forecast(images, peak, sum(one.nbytes for one in kept if isinstance(one, torch.Tensor)), kernels,
                    traffic)


def forward_flops(recipe: Recipe) -> int:
    """Return the operations of all forward passes of one picture: each view, through each network."""
    with torch.device("meta"):
        network = methods.build(recipe)
    with FakeTensorMode(), torch.no_grad(), Ledger() as ledger, rehearsing(1, lambda kind, size: None):
        renewed(network)
        inputs = network.inputs(empty_views(recipe, recipe.batch_size), torch.Generator())
        network.targets(*inputs)
        network(*inputs)
        return ledger.flops // recipe.batch_size


def empty_views(recipe: Recipe, images: int) -> tuple[torch.Tensor, ...]:
    """Return what the feed hands to a method, (n, 3, H, W) each, and classes (n,) if it asks for them."""
    views = tuple(torch.empty(images, 3, one.size, one.size) for one in recipe.view_recipes())
    return views + ((torch.empty(images, dtype=torch.int64),) if recipe.labelled else ())


def joint_batch_norm(layer: nn.modules.batchnorm._BatchNorm, messages: list[Message], processes: int,
                     x: torch.Tensor) -> torch.Tensor:
    """Compute a batch norm on x (n, C, ...) with the memory and the collectives of torch's SyncBatchNorm,
    which runs on GPUs only: mean, deviation and count of each process travel forward, two sums backward."""
    messages.append(Message("all-gather", 4 * (2 * layer.num_features + 1) * processes))
    if torch.is_grad_enabled():
        messages.append(Message("all-reduce", 4 * 2 * layer.num_features))
    # Without the running statistics, whose unbiased variance one row does not have; the joint batch has.
    return torch.batch_norm(x, layer.weight, layer.bias, None, None, True, 0.0, layer.eps, False)
