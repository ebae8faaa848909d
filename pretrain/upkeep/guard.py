"""Steps that must not count: a loss that is not finite, and spikes. They are skipped and counted.

All of it stays on the device, so that no step waits until the host has seen its loss. The host reads the
verdict later.
"""
import itertools
from typing import NamedTuple

import torch

WEIGHT = 0.02  # of the newest loss in the running mean: about the last 50 steps
JUDGE_AFTER = 20  # losses before a mean says anything
GOOD, OVERFLOW, LOSS, GRADIENT, SPIKE = range(5)  # verdicts; from LOSS on the step is skipped
KIND = -4  # place of the verdict among the numbers of a step
STATE = ("mean", "counted", "skipped", "in_a_row")  # of the losses; their number; skipped steps
Numbers = list[torch.Tensor]


class Verdict(NamedTuple):
    """What the host reads of a step. loss: that of the joint batch; norms: of the gradients of weights and of
    biases; mean: of the losses before it; skipped and in_a_row: steps so far, with this one."""
    loss: float
    norms: list[float]
    kind: int
    mean: float
    skipped: int
    in_a_row: int
    spike_factor: float

    @property
    def reason(self) -> str:
        """Return why the step was skipped, "" for a good one."""
        return {LOSS: f"the loss is {self.loss}", GRADIENT: "the gradient is not finite",
                SPIKE: f"the loss rose to {self.loss:.4g}, more than {self.spike_factor:g} times its running "
                       f"mean {self.mean:.4g}"}.get(self.kind, "")


class Guard:
    """A judge of each step, before the update. All processes see the same numbers, so they judge alike.

    spike_factor: a loss above this many times its running mean is a spike; 0: no loss is.
    """

    def __init__(self, network: torch.nn.Module, spike_factor: float):
        self.spike_factor = spike_factor
        buffers = sorted(network.buffers(), key=lambda buffer: str(buffer.dtype))
        self.buffers = [list(group) for _, group in itertools.groupby(buffers, lambda buffer: buffer.dtype)]
        self.state = torch.zeros(len(STATE), dtype=torch.float64, device=next(network.parameters()).device)

    @torch.no_grad()
    def begin(self) -> None:
        """Remember the running statistics before a step, since a forward pass changes them."""
        self.before = [joined(group) for group in self.buffers]

    @torch.no_grad()
    def judge(self, loss: torch.Tensor, norms: Numbers, may_overflow: torch.Tensor) -> torch.Tensor:
        """Return the verdict as numbers on the device, for `read`. norms: of the groups' gradients.
        may_overflow: a gradient that is not finite is no reason, because its scaler still can halve its
        factor; the update is left out all the same."""
        loss, found = loss.double(), torch.stack(norms).double()
        mean, counted, skipped, in_a_row = self.state.unbind()
        spike = (counted >= JUDGE_AFTER) & (loss > self.spike_factor * mean) & (self.spike_factor > 0)
        kind = torch.where(spike, SPIKE, GOOD)
        kind = torch.where(found.isfinite().all(), kind, torch.where(may_overflow, OVERFLOW, GRADIENT))
        kind = torch.where(loss.isfinite(), kind, LOSS)
        good, bad = kind == GOOD, kind >= LOSS
        counted = counted + good
        moved = mean + (1 / counted).clamp(min=WEIGHT) * (loss - mean)
        in_a_row = torch.where(bad, in_a_row + 1, torch.where(good, 0, in_a_row))
        numbers = torch.stack([loss, *found, kind.double(), mean, skipped + bad, in_a_row])
        self.state = torch.stack([torch.where(good, moved, mean), counted, skipped + bad, in_a_row])
        return numbers

    def read(self, numbers: list[float]) -> Verdict:
        """Return a verdict that arrived on the host."""
        loss, *norms, kind, mean, skipped, in_a_row = numbers
        return Verdict(loss, norms, int(kind), mean, int(skipped), int(in_a_row), self.spike_factor)

    @torch.no_grad()
    def restore(self, bad: torch.Tensor) -> None:
        """Restore the running statistics where the step was bad, a scalar on the device."""
        for group, before in zip(self.buffers, self.before):
            kept = torch.where(bad, before, joined(group)).split([buffer.numel() for buffer in group])
            torch._foreach_copy_(group, [values.view_as(buffer) for values, buffer in zip(kept, group)])

    def state_dict(self) -> dict:
        mean, *counts = self.state.tolist()
        return dict(zip(STATE, (mean, *map(int, counts))))

    def load_state_dict(self, state: dict) -> None:
        self.state.copy_(torch.tensor([state[name] for name in STATE], dtype=torch.float64))


def joined(tensors: Numbers) -> torch.Tensor:
    """Return a copy of all values in one line."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def gradient_norms(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Return the Euclidean norm of the gradients of each parameter group, scalars on the device."""
    norms = []
    for group in optimizer.param_groups:
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        norms.append(torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(gradients)))))
    return norms


def not_finite(network: torch.nn.Module) -> list[str]:
    """Return the names of the parameters that hold a value which is not finite."""
    named = list(network.named_parameters())
    finite = torch.stack(list(torch._foreach_norm([value for _, value in named]))).isfinite().tolist()
    return [name for (name, _), good in zip(named, finite) if not good]


def diagnosis(network: torch.nn.Module, outputs: tuple[torch.Tensor, ...]) -> str:
    """Return where the trouble is, in words. outputs (n, D) each: this process's, of the skipped step."""
    bad = not_finite(network)
    if bad:
        return f"{len(bad)} weights are not finite, first {bad[0]}"
    rows = sum((~z.isfinite().all(1)).sum().item() for z in outputs)
    if rows:
        return f"weights are finite, {rows} of {sum(map(len, outputs))} embeddings are not: too large " \
               "numbers inside the network"
    return "weights and embeddings are finite: the recipe lets the loss run away"
