"""The optimisers, their parameter groups, and the learning rate as a function of the step."""
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd

from pretrain.methods.method import Method
from pretrain.recipe import Recipe

CHUNK = 2 ** 22  # elements; on a GPU each chunk takes a few kernel launches


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (arXiv 1708.03888), main.py:224-263 of the official code.

    For a weight p with gradient g: d = g + weight_decay p; d *= eta |p| / |d| (1 if either norm is 0); mu =
    momentum mu + d; p -= lr mu. One-dimensional parameters (biases, batch norm) have neither weight decay nor
    the ratio, unless `adapt_biases`. The official options `weight_decay_filter` and `lars_adaptation_filter`
    say so; with them the official code can continue from our checkpoints. The state's name `mu` is official,
    too.

    found_inf: None, or a scalar on the device; 1 leaves the update out, as in torch's fused optimisers.

    clip: the ratio is min(eta |p| / (|d| lr), 1), and a weight moves by at most lr |d|. This is solo-learn's
    clip_lr, except that solo-learn has |g| + weight_decay |p| in place of |d|.
    """

    found_inf: torch.Tensor | None = None

    def __init__(self, parameters: ParamsT, lr: float = 0.0, weight_decay: float = 0.0,
                 momentum: float = 0.9, eta: float = 0.001, clip: bool = False, adapt_biases: bool = False):
        super().__init__(parameters, dict(lr=lr, weight_decay=weight_decay, momentum=momentum, eta=eta,
                                          clip=clip, weight_decay_filter=not adapt_biases,
                                          lars_adaptation_filter=not adapt_biases))

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameters in chunks([p for p in group["params"] if p.grad is not None]):
                self.move(parameters, group)

    def move(self, parameters: list[torch.Tensor], group: dict[str, Any]) -> None:
        """Update some of a group's parameters, all of them with gradients."""
        for p in parameters:
            if "mu" not in self.state[p]:
                self.state[p]["mu"] = torch.zeros_like(p)
        plain = [p for p in parameters if p.ndim == 1 and group["lars_adaptation_filter"]]
        scaled = [p for p in parameters if p.ndim != 1 or not group["lars_adaptation_filter"]]
        updates = [p.grad for p in plain] + scaled_updates(scaled, group["weight_decay"], group["eta"],
                                                           group["lr"] if group["clip"] else None)
        momenta = [self.state[p]["mu"] for p in plain + scaled]
        sgd(plain + scaled, updates, momenta, fused=True, found_inf=self.found_inf,  # type: ignore[arg-type]
            weight_decay=0.0, momentum=group["momentum"], lr=group["lr"], dampening=0.0, nesterov=False,
            maximize=False)


class Adam(torch.optim.Adam):
    """torch's, fused, so that `found_inf` can leave an update out on the device."""

    found_inf: torch.Tensor | None = None

    def __init__(self, parameters: ParamsT, weight_decay: float):
        super().__init__(parameters, lr=0.0, weight_decay=weight_decay, fused=True)


class SGD(torch.optim.SGD):
    """torch's with momentum 0.9 and weight decay on all parameters, fused as above."""

    found_inf: torch.Tensor | None = None

    def __init__(self, parameters: ParamsT, weight_decay: float):
        super().__init__(parameters, lr=0.0, momentum=0.9, weight_decay=weight_decay, fused=True)

    def step(self) -> None:  # type: ignore[override]
        # torch's kernel would leave a momentum without values behind if it skipped the first step.
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        super().step()


def chunks(parameters: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Yield the parameters in lists of at most CHUNK elements, or of a single parameter. `scaled_updates`
    copies their gradients, so it need not copy all of them at once."""
    chunk: list[torch.Tensor] = []
    size = 0
    for p in parameters:
        if chunk and size + p.numel() > CHUNK:
            yield chunk
            chunk, size = [], 0
        chunk.append(p)
        size += p.numel()
    if chunk:
        yield chunk


def scaled_updates(parameters: list[torch.Tensor], weight_decay: float, eta: float,
                   clip_at: float | None = None) -> list[torch.Tensor]:
    """Return (gradient + weight decay) x trust ratio for each parameter. The gradients are not changed.
    clip_at: the learning rate, if the ratio is clipped."""
    if not parameters:
        return []
    gradients = [p.grad for p in parameters]
    updates = list(torch._foreach_add(gradients, parameters, alpha=weight_decay))  # type: ignore[arg-type]
    weight_norms = torch.stack(list(torch._foreach_norm(parameters)))
    update_norms = torch.stack(list(torch._foreach_norm(updates)))
    ratios = eta * weight_norms / update_norms
    if clip_at is not None:
        ratios = (ratios / clip_at).clamp(max=1)  # at rate 0, the first step, the ratio is 1
    ratios = torch.where((weight_norms > 0) & (update_norms > 0), ratios, torch.ones_like(ratios))
    torch._foreach_mul_(updates, list(ratios.unbind()))
    return updates


def parameter_groups(model: torch.nn.Module,
                     constant: tuple[str, ...] = ()) -> list[dict[str, list[torch.nn.Parameter]]]:
    """Return two groups: weights, and one-dimensional parameters (biases and batch norm), each in the model's
    order. Parameters without gradients are left out.

    constant: beginnings of the names of parameters whose rates follow no schedule; if there are any, they are
        a third and a fourth group.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    parts = [[p for name, p in named if name.startswith(constant) == apart]
             for apart in ((False, True) if constant else (False,))]
    return [{"params": [p for p in part if (p.ndim == 1) == flat]}
            for part in parts for flat in (False, True)]


def build_optimizer(recipe: Recipe, model: Method) -> LARS | Adam | SGD:
    """Return the recipe's optimiser for the model's parameters, in the groups of `parameter_groups`."""
    groups = parameter_groups(model, model.constant_rate)
    if recipe.optimizer == "adam":
        return Adam(groups, recipe.weight_decay)
    if recipe.optimizer == "sgd":
        return SGD(groups, recipe.weight_decay)
    return LARS(groups, weight_decay=recipe.weight_decay, eta=recipe.trust_coefficient,
                clip=recipe.clip_ratio, adapt_biases=recipe.adapt_biases)


def slots(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """Return the names of what an optimiser keeps for each parameter."""
    names = {LARS: ("mu",), SGD: ("momentum_buffer",), Adam: ("step", "exp_avg", "exp_avg_sq")}
    return names[type(optimizer)]


def learning_rate_factor(step: int, steps_per_epoch: int, epochs: int, warmup_epochs: int = 10,
                         schedule: str = "cosine", start: float = 0.0) -> float:
    """Return the share (0-1) of the peak rate at a step, counted from the start of the run: linear warm-up
    from the share `start`, then constant, a tenth after each third of the run's epochs (step), or a cosine
    down to 1/1000 (arXiv 2103.03230, 2.2; main.py:155-168)."""
    warmup = warmup_epochs * steps_per_epoch
    if step < warmup:
        return start + (1 - start) * step / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return 0.1 ** (3 * step // (epochs * steps_per_epoch))
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (epochs * steps_per_epoch - warmup)))
    return cosine + 0.001 * (1 - cosine)


def schedule_factor(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the share (0-1) of a recipe's peak rate at a step."""
    return learning_rate_factor(step, steps_per_epoch, recipe.epochs, recipe.warmup_epochs, recipe.schedule,
                                recipe.warmup_start)


def learning_rates(recipe: Recipe, step: int, steps_per_epoch: int) -> tuple[float, float, float, float]:
    """Return the rates of weights and of one-dimensional parameters, then both without the schedule. The base
    rates belong to 256 images a step."""
    factor = schedule_factor(recipe, step, steps_per_epoch) * recipe.batch_size / 256
    return (factor * recipe.learning_rate_weights, factor * recipe.learning_rate_biases, *recipe.peak_rates())
