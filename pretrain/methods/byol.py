"""BYOL (Grill et al., arXiv 2006.07733, NeurIPS 2020).

Sources: code = google-deepmind/deepmind-research, byol/ (configs/byol.py at 4822a45, utils/networks.py at
500ffd8); solo-learn = vturrisi/solo-learn at 9187ea3.

The code is in JAX. The names of the state dict are those of its best known port, lucidrains/byol-pytorch,
so that what reads that port's files reads ours. Not taken over: a rate that ends at 0 (ours at 1/1000).
"""
import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from pretrain import backbones
from pretrain.methods.method import Method
from pretrain.methods.simsiam import mean_cosine
from pretrain.recipe import CIFAR, SOLO_LEARN, Recipe, Value, require, require_widths, setting


@dataclass(frozen=True)
class BYOLRecipe(Recipe):
    """The shared recipe with the code's numbers for 1000 epochs. Its views are Barlow Twins'."""
    method: str = "byol"
    batch_size: int = 4096
    learning_rate_biases: float = 0.2  # one rate for all parameters, as that of weights for 1000 epochs
    weight_decay: float = 1.5e-6
    reference_world_size: int | str = 1  # the mean over images, of all devices
    projector: str = "4096-256"
    predictor: str = setting("4096", "widths of the predictor's hidden layers (code: predictor_hidden_size)")
    tau: float = setting(0.996, "share of the target that stays in a step, at the start; it rises to 1 along "
                         "a cosine (code: base_target_ema)")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_widths(self, "predictor")
        require(0 <= self.tau <= 1, self, "tau", "a share from 0 to 1")


def epochs(count: int, rate: float, tau: float) -> dict[str, Value]:
    """Return a shorter run's numbers (code: _LR_PRESETS, _WD_PRESETS, _EMA_PRESETS)."""
    return {"epochs": count, "learning_rate_weights": rate, "learning_rate_biases": rate,
            "weight_decay": 1e-6, "tau": tau}


# solo-learn: byol.yaml for CIFAR and ImageNet-100; asymmetric.yaml has Barlow Twins' views.
OWN: dict[str, Value] = {"projector": "4096-256", "tau": 0.99}


class BYOL(Method):
    """Two views -> their embeddings z and predictions p, (n, D) each, one view after the other. The targets
    are the embeddings of an average of past networks, which has its own batch statistics.

    The hidden layers of projector and predictor have biases, the last ones have none (networks.py). State
    dict: online_encoder.net.*, online_encoder.projector.*, the same of target_encoder, online_predictor.*.
    """

    Recipe = BYOLRecipe
    PRESETS: dict[str, dict[str, Value]] = {
        "code": {},
        "epochs300": epochs(300, 0.3, 0.99),
        "epochs100": epochs(100, 0.45, 0.99),
        "epochs40": epochs(40, 0.45, 0.97),
        "imagenet100": SOLO_LEARN | OWN | {
            "epochs": 400, "learning_rate_weights": 0.5, "learning_rate_biases": 0.5, "weight_decay": 1e-6,
            "predictor": "8192"},
        **dict.fromkeys(("cifar10", "cifar100"), CIFAR | OWN | {
            "learning_rate_weights": 1.0, "learning_rate_biases": 1.0, "weight_decay": 1e-5,
            "blur": (0.0, 0.0), "solarise": (0.0, 0.2)}),
    }

    def __init__(self, recipe: BYOLRecipe):
        super().__init__()
        self.tau, self.epochs = recipe.tau, recipe.epochs
        self.online_encoder, self.width = encoder(recipe)
        dimension = int(recipe.projector.split("-")[-1])
        self.online_predictor = backbones.build_projector(dimension, f"{recipe.predictor}-{dimension}",
                                                          hidden_bias=True)
        self.target_encoder = encoder(recipe)[0].requires_grad_(False)  # drawn anew, as the code does

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]  # net is its name in the state dict
        return self.online_encoder.get_submodule("net")

    def targets(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.target_encoder(y) for y in inputs)

    def forward(self, y1: torch.Tensor, y2: torch.Tensor) -> tuple[torch.Tensor, ...]:
        z1, z2 = self.online_encoder(y1), self.online_encoder(y2)
        return z1, z2, self.online_predictor(z1), self.online_predictor(z2)

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        p1, p2 = outputs[2:]
        t1, t2 = targets
        return 4 - 2 * (mean_cosine(p1, t2) + mean_cosine(p2, t1)), {}

    def after_step(self, step: int, taken: torch.Tensor) -> None:
        """Move the target towards the online network; by nothing if the step was not taken."""
        move_towards(self.target_encoder, self.online_encoder, 1 - self.tau_at(step), taken)

    def tau_at(self, step: int) -> float:
        """Return the share of the target that stays after a step."""
        done = step / (self.epochs * self.steps_per_epoch)
        return 1 - (1 - self.tau) * (math.cos(math.pi * done) + 1) / 2


def encoder(recipe: BYOLRecipe) -> tuple[nn.Sequential, int]:
    """Return a backbone with a projector behind it, and the number of the backbone's features."""
    net, width = backbones.build_backbone(recipe.arch, recipe.stem)
    projector = backbones.build_projector(width, recipe.projector, hidden_bias=True)
    return nn.Sequential(OrderedDict(net=net, projector=projector)), width


@torch.no_grad()
def move_towards(average: nn.Module, network: nn.Module, share: float, taken: torch.Tensor) -> None:
    """Move the parameters of an averaged network by a share (0-1) of their way to those of another one.
    taken: a boolean scalar on the device; false moves nothing."""
    old, new = ([p.data for p in part.parameters()] for part in (average, network))
    ways = list(torch._foreach_sub(new, old))
    torch._foreach_mul_(ways, taken.to(old[0].dtype) * share)
    torch._foreach_add_(old, ways)
