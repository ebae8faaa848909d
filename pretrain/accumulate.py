"""The gradient of a batch's loss: of the whole batch at once, or from micro-batches if it does not fit.

The loss compares all images of a batch, so the gradients of the micro-batches' own losses do not add up to
its gradient. Two passes do it (gradient caching, Gao et al., arXiv 2101.06983). The first computes all
embeddings without a graph, and the loss gives their gradient. The second computes each micro-batch again and
propagates that gradient. This costs one more forward pass. Both passes compute the same, since the network
draws no random numbers.

Batch norm inside the network has the statistics of a micro-batch (of all processes). That is the only
difference from the whole batch at once.
"""
import contextlib
from collections.abc import Callable
from typing import TypeVar

import torch

Tensors = tuple[torch.Tensor, ...]
Extra = TypeVar("Extra")
LossOf = Callable[[Tensors], tuple[torch.Tensor, Extra]]
Autocast = Callable[[], contextlib.AbstractContextManager]  # makes the context for the network


def plain_backward(model: torch.nn.Module, inputs: Tensors, loss_of: LossOf[Extra],
                   autocast: Autocast) -> tuple[Extra, Tensors]:
    """Compute the gradients of the loss of the whole batch at once. Arguments and result are as below."""
    with autocast():
        outputs = model(*inputs)
    objective, extra = loss_of(outputs)
    objective.backward()
    return extra, tuple(z.detach() for z in outputs)


def accumulated_backward(network: torch.nn.Module, model: torch.nn.Module, inputs: Tensors, count: int,
                         loss_of: LossOf[Extra], autocast: Autocast) -> tuple[Extra, Tensors]:
    """Add the gradients of the joint loss to the parameters.

    network, model: the bare network, and the same one wrapped for several processes (or not).
    inputs: n rows each, of this process; they are cut into `count` micro-batches.
    loss_of(outputs) -> (what to differentiate, anything else): called once with all n rows of each output.
    Returns the second of loss_of's values, and the outputs (n, ...).
    """
    parts = list(zip(*(tensor.tensor_split(count) for tensor in inputs)))
    with torch.no_grad(), autocast():
        cached = [network(*part) for part in parts]
    outputs = tuple(torch.cat(pieces).requires_grad_() for pieces in zip(*cached))
    objective, extra = loss_of(outputs)
    objective.backward()
    buffers = list(network.buffers())
    once = [buffer.clone() for buffer in buffers]  # loss_of moved those of the embeddings
    sizes = [len(part[0]) for part in parts]
    found = (torch.zeros_like(z) if z.grad is None else z.grad for z in outputs)  # not all are in every loss
    gradients = list(zip(*(gradient.split(sizes) for gradient in found)))
    for number, (part, gradient) in enumerate(zip(parts, gradients)):
        last = number == len(parts) - 1
        # Processes exchange gradients once, in the last micro-batch's backward.
        quiet = (contextlib.nullcontext() if last or model is network
                 else model.no_sync())  # type: ignore[operator]
        with quiet:
            with autocast():
                pieces = model(*part)
            torch.autograd.backward(pieces, gradient)
    with torch.no_grad():  # each micro-batch was seen twice but counts once
        for buffer, value in zip(buffers, once):
            buffer.copy_(value)
    return extra, tuple(z.detach() for z in outputs)
