"""One step on a batch that does not fit: the exact gradient of the whole batch's loss, from micro-batches.

The loss compares all images of a batch, so gradients of micro-batches' own losses do not add up to it. Two
passes do (gradient caching, Gao et al., arXiv 2101.06983): the first computes all embeddings without a graph,
the loss gives their gradient, and the second computes each micro-batch again and sends that gradient through.
It costs one more forward pass. Both passes do the same, since the network draws no random numbers.

Batch norm inside the network has the statistics of a micro-batch (of all processes), and that is the one
difference to the whole batch at once.
"""
import contextlib

import torch


def accumulated_backward(network, model, y1, y2, count, loss_of, autocast):
    """Gradients of the joint loss, added to the parameters.

    network, model: the bare network, and the same wrapped for several processes (or not).
    y1, y2: (n, 3, H, W) this process's views; they are cut into `count` micro-batches.
    loss_of(z1, z2) -> (what to differentiate, anything else): called once with all n embeddings.
    autocast: a function that gives the context for the network.
    Returns the second of loss_of's values, and z1, z2 (n, D).
    """
    parts = list(zip(y1.tensor_split(count), y2.tensor_split(count)))
    with torch.no_grad(), autocast():
        cached = [network(*part) for part in parts]
    z1, z2 = (torch.cat(views).requires_grad_() for views in zip(*cached))
    objective, extra = loss_of(z1, z2)
    objective.backward()
    buffers = list(network.buffers())
    once = [buffer.clone() for buffer in buffers]  # loss_of moved those of the embeddings
    sizes = [len(part[0]) for part in parts]
    gradients = list(zip(z1.grad.split(sizes), z2.grad.split(sizes)))
    for number, (part, gradient) in enumerate(zip(parts, gradients)):
        last = number == len(parts) - 1
        # Processes exchange gradients once, in the last micro-batch's backward.
        quiet = contextlib.nullcontext() if last or model is network else model.no_sync()
        with quiet:
            with autocast():
                embeddings = model(*part)
            torch.autograd.backward(embeddings, gradient)
    with torch.no_grad():  # each micro-batch was seen twice and counts once
        for buffer, value in zip(buffers, once):
            buffer.copy_(value)
    return extra, z1.detach(), z2.detach()
