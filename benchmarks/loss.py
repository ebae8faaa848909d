"""The loss, forward and backward: times and peak memory of the plain formulation over ours.

    python -m benchmarks.loss [--device cpu|cuda] [--rounds N]

A case is N x D. Exits with 1 when a target, the least ratio, is missed. Targets are for a CPU.
"""
import statistics
import sys

import torch
from torch import nn

from benchmarks import common
from pretrain.methods.correlation import Objective, correlation_loss

FLAGS = {"device": "cpu", "rounds": 5}
LAMBD = 0.0051
# (N, D): least ratio of time, of peak memory
TARGETS = {(256, 2048): (6, 6), (256, 8192): (35, 15), (1024, 8192): (5, 5), (2048, 8192): (2.5, 3)}


def plain(z1, z2, bn):
    """Compute the usual formulation, which autograd differentiates (main.py:207-222 of the official code): C
    by one product, then its diagonal and a copy of the rest, squared in place."""
    c = (bn(z1).T @ bn(z2)).div_(len(z1))
    width = len(c)
    diagonal = c.diagonal().add_(-1).pow_(2).sum()
    # Without the last element, in rows of D + 1, the diagonal is the first column.
    rest = c.flatten()[:-1].view(width - 1, width + 1)[:, 1:].flatten()
    return diagonal + LAMBD * rest.pow_(2).sum()


def ours(z1, z2, bn):
    return correlation_loss(z1, z2, Objective(LAMBD), running=bn)[0]


FORMULATIONS = {"plain": plain, "ours": ours}


def step(name, count, width, device):
    """Return a function that computes loss and gradients, on embeddings of a fixed seed with gradients in
    place."""
    generator = torch.Generator(device).manual_seed(0)
    z1, z2 = (torch.randn(count, width, device=device, generator=generator).requires_grad_()
              for _ in range(2))
    bn = nn.BatchNorm1d(width, affine=False).to(device)
    for z in (z1, z2):
        z.grad = torch.ones_like(z)  # written to, so its memory is really allocated
    return lambda: FORMULATIONS[name](z1, z2, bn).backward()


def peak(name, count, width, device):
    """Return the bytes above inputs and gradients. A small call first loads libraries and starts autograd's
    thread."""
    device = torch.device(device)
    step(name, 8, 32, device)()
    return common.peak_bytes(step(name, count, width, device), device)


def measure(args):
    device, rows = torch.device(args.device), []
    for (count, width), (least_time, least_memory) in TARGETS.items():
        # The median of three, since Linux sometimes counts a buffer that was just freed.
        mib = {name: statistics.median(common.in_fresh_process(peak, name, count, width, args.device)
                                       for _ in range(3)) / common.MIB for name in FORMULATIONS}
        steps = {name: step(name, count, width, device) for name in FORMULATIONS}
        seconds = common.compare(steps, args.rounds, synchronise=common.synchroniser(device))
        time, memory = common.ratio(seconds["plain"], seconds["ours"]), mib["plain"] / mib["ours"]
        shape = f"{count} x {width}"
        rows += [common.Row(shape, "time, plain over ours", time, f"{least_time}",
                            missed=time.median < least_time),
                 common.Row(shape, "memory, plain over ours", memory, f"{least_memory}",
                            f"{mib['plain']:.0f} and {mib['ours']:.0f} MiB", memory < least_memory)]
    return rows


if __name__ == "__main__":
    sys.exit(common.main(__doc__, FLAGS, measure))
