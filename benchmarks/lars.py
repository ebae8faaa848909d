"""One LARS step over all parameters: time of a plain loop over ours, and the extra memory of both.

    python -m benchmarks.lars [--device cpu|cuda] [--rounds N]

On a GPU the gain comes from a few large kernel launches instead of thousands. On a CPU, which starts work at
once, it comes from fewer copies of the gradients. There is no target: the step is a small share of training.
"""
import sys

import torch

from benchmarks import common
from pretrain.methods import build, recipe
from pretrain.optim import LARS, parameter_groups

FLAGS = {"device": "cpu", "rounds": 5}
NETWORKS = {"resnet50, 8192-8192-8192": recipe("code"), "resnet18, 2048-2048-2048": recipe("cifar10")}
RATE, DECAY, MOMENTUM, ETA = 1e-3, 1e-6, 0.9, 0.001


class Plain(torch.optim.Optimizer):
    """LARS a parameter at a time (arXiv 1708.03888; main.py:224-263 of the official code)."""

    def __init__(self, parameters):
        super().__init__(parameters, {})
        self.parameters = parameters
        self.momenta = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self):
        for p, momentum in zip(self.parameters, self.momenta):
            update = p.grad
            if p.ndim != 1:
                update = update.add(p, alpha=DECAY)
                weight_norm, update_norm = p.norm(), update.norm()
                one = torch.ones_like(weight_norm)
                ratio = ETA * weight_norm / update_norm
                update = update.mul(torch.where((weight_norm > 0) & (update_norm > 0), ratio, one))
            momentum.mul_(MOMENTUM).add_(update)
            p.add_(momentum, alpha=-RATE)


def optimisers(network, device):
    """Return both optimisers. They share parameters and gradients of a fixed seed: a step of either hardly
    moves the parameters."""
    torch.manual_seed(0)
    model = build(NETWORKS[network]).to(device)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    ours = LARS(parameter_groups(model), lr=RATE, weight_decay=DECAY, momentum=MOMENTUM, eta=ETA)
    return {"plain": Plain(list(model.parameters())), "ours": ours}


def peak(name, network, device):
    """Return the bytes above parameters, gradients and momenta."""
    device = torch.device(device)
    optimiser = optimisers(network, device)[name]
    optimiser.step()
    return common.peak_bytes(optimiser.step, device)


def measure(args):
    device, rows = torch.device(args.device), []
    for network in NETWORKS:
        mib = [common.in_fresh_process(peak, name, network, args.device) / common.MIB
               for name in ("plain", "ours")]
        steps = {name: one.step for name, one in optimisers(network, device).items()}
        seconds = common.compare(steps, args.rounds, synchronise=common.synchroniser(device))
        rows.append(common.Row(network, "time, plain over ours",
                               common.ratio(seconds["plain"], seconds["ours"]),
                               beside=f"{mib[0]:.0f} and {mib[1]:.0f} MiB"))
    return rows


if __name__ == "__main__":
    sys.exit(common.main(__doc__, FLAGS, measure))
