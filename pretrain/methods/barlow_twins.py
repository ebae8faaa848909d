"""Barlow Twins (Zbontar et al., arXiv 2103.03230, ICML 2021).

Sources: code = facebookresearch/barlowtwins at 8e8d284, main.py; paper = the arXiv version; solo-learn =
vturrisi/solo-learn at 9187ea3; mix-bt = wgcban/mix-bt at e2c6af0.
"""
from dataclasses import dataclass

import torch
from torch import nn

from pretrain import backbones
from pretrain.methods.correlation import Objective, correlation_loss
from pretrain.methods.method import Method
from pretrain.recipe import CIFAR, SOLO_LEARN, Recipe, Value, require, setting


@dataclass(frozen=True)
class BarlowTwinsRecipe(Recipe):
    """The shared recipe, whose defaults are Barlow Twins', and the weight of the redundancy term."""
    lambd: float = setting(0.0051, "weight of the off-diagonal terms (code line 39; the paper says 5e-3)")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.lambd >= 0, self, "lambd", "at least 0")


# Batch size -> base rate of weights, searched by the authors with 300 epochs (paper Fig. 2; values:
# barlowtwins issue 7). Their loss had the factor 0.024 then and one rate, so biases have 0.024 of it.
SEARCHED_RATES = {128: 0.7, 256: 0.4, 512: 0.3, 1024: 0.25, 2048: 0.2, 4096: 0.2}

OWN = {"loss_scale": 0.1, "lambd": 0.0051}  # solo-learn: method_kwargs.scale_loss; lamb's default
SMALL = CIFAR | OWN | {"blur": (0.0, 0.0), "solarise": (0.0, 0.2)}  # cifar/augmentations/asymmetric.yaml
# No published run of plain Barlow Twins with LARS is known for these two, so the optimiser is solo-learn's
# for CIFAR, and stem and views are mix-bt's (model.py, utils.py), which trains with Adam.
MIX_BT_SMALL = SMALL | {
    "stem": "small", "image_size": 64, "crop_scale": (0.2, 1.0), "saturation": 0.4, "grey": 0.1,
    "blur": (0.0, 0.0), "solarise": (0.0, 0.0),
}


class BarlowTwins(Method):
    """Two views -> their embeddings (n, D), one view after the other, so that each has its own batch
    statistics (main.py:208).

    `bn` has no parameters and is not called: the loss normalises by itself and keeps bn's running
    statistics, so that the state dict is the official one: backbone.*, projector.*, bn.*.
    """

    Recipe = BarlowTwinsRecipe
    PRESETS: dict[str, dict[str, Value]] = {
        "code": {},
        "paper": {"weight_decay": 1.5e-6, "lambd": 5e-3},  # section 2.2
        "ablation300": {"epochs": 300},  # paper section 4: all ablations
        "imagenet100": SOLO_LEARN | OWN | {"epochs": 400},  # imagenet-100/augmentations: the official views
        "cifar10": SMALL,
        "cifar100": SMALL,
        "stl10": MIX_BT_SMALL,
        "tiny-imagenet": MIX_BT_SMALL,
        **{f"batch{size}": {"epochs": 300, "batch_size": size, "learning_rate_weights": rate,
                            "learning_rate_biases": round(0.024 * rate, 6)}
           for size, rate in SEARCHED_RATES.items()},
    }

    def __init__(self, recipe: BarlowTwinsRecipe):
        super().__init__()
        self.objective = Objective(recipe.lambd)
        self.backbone, self.width = backbones.build_backbone(recipe.arch, recipe.stem)
        self.projector = backbones.build_projector(self.width, recipe.projector)
        self.bn = nn.BatchNorm1d(self.projector[-1].out_features, affine=False)  # type: ignore[arg-type]

    def forward(self, y1: torch.Tensor, y2: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.projector(self.backbone(y1)), self.projector(self.backbone(y2))

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        z1, z2 = outputs
        loss, seen = correlation_loss(z1, z2, self.objective, running=self.bn)
        return loss, seen.health()
