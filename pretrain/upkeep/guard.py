"""Steps that must not count: a loss that is not finite, and spikes. They are skipped and counted."""
import math

import torch

WEIGHT = 0.02  # of the newest loss in the running mean: about the last 50 steps
JUDGE_AFTER = 20  # losses before a mean says anything


class Guard:
    """A judge of each step, before the update. All processes see the same numbers, so they judge alike.

    spike_factor: a loss above this many times its running mean is a spike; 0: no loss is.
    """

    def __init__(self, network: torch.nn.Module, spike_factor: float):
        self.spike_factor = spike_factor
        self.buffers = list(network.buffers())
        self.before = [buffer.clone() for buffer in self.buffers]
        self.mean, self.counted, self.skipped, self.in_a_row = 0.0, 0, 0, 0

    @torch.no_grad()
    def begin(self) -> None:
        """Remember the running statistics before a step, since a forward pass changes them."""
        torch._foreach_copy_(self.before, self.buffers)

    def judge(self, loss: float, norms: list[float]) -> str:
        """Return why the step must be skipped, "" for a good one. norms: of the groups' gradients."""
        reason = ""
        if not math.isfinite(loss):
            reason = f"the loss is {loss}"
        elif not all(map(math.isfinite, norms)):
            reason = "the gradient is not finite"
        elif self.spike_factor and self.counted >= JUDGE_AFTER and loss > self.spike_factor * self.mean:
            reason = f"the loss rose to {loss:.4g}, more than {self.spike_factor:g} times its running mean " \
                     f"{self.mean:.4g}"
        if reason:
            self.skipped += 1
            self.in_a_row += 1
            return reason
        self.in_a_row = 0
        self.counted += 1
        self.mean += max(WEIGHT, 1 / self.counted) * (loss - self.mean)
        return ""

    @torch.no_grad()
    def undo(self) -> None:
        """Restore the running statistics after a skipped step."""
        torch._foreach_copy_(self.buffers, self.before)

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in ("mean", "counted", "skipped", "in_a_row")}

    def load_state_dict(self, state: dict) -> None:
        for name, value in state.items():
            setattr(self, name, value)


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
