"""Supervised contrastive learning (Khosla et al., arXiv 2004.11362, NeurIPS 2020), the form with the sum
outside the logarithm.

Source: code = HobbitLong/SupContrast at 66a8fe5 (README, main_supcon.py, networks/resnet_big.py, losses.py).

Not taken over: the last batch norm of a residual branch starts at 1 (ours at 0), CIFAR's own pixel
statistics, a warm-up from 0.01, a rate that changes once an epoch. solo-learn's method of this name has the
sum inside the logarithm, which is another loss.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from pretrain import backbones
from pretrain.methods.contrast import contrastive_loss
from pretrain.methods.method import Method
from pretrain.recipe import Recipe, Value, require, setting


@dataclass(frozen=True)
class SupConRecipe(Recipe):
    """The shared recipe with the README's numbers for CIFAR-10."""
    labelled: ClassVar[bool] = True
    method: str = "supcon"
    batch_size: int = 1024
    optimizer: str = "sgd"
    learning_rate_weights: float = 0.125  # --learning_rate 0.5 at 1024 images, for all parameters
    learning_rate_biases: float = 0.125
    weight_decay: float = 1e-4
    reference_world_size: int | str = 1  # the mean over images, in one process
    loss_scale: float = 0.1 / 0.07  # losses.py: temperature / base_temperature
    projector: str = "2048-128"
    stem: str = "cifar"
    image_size: int = 32
    crop_scale: tuple[float, float] = (0.2, 1.0)  # both views alike
    saturation: float = 0.4
    blur: tuple[float, float] = (0.0, 0.0)
    solarise: tuple[float, float] = (0.0, 0.0)
    temperature: float = setting(0.1, "of the similarities (code: README)")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, self, "temperature", "more than 0")


class SupCon(Method):
    """Two views -> their embeddings (n, D), one view after the other; the loss needs the classes, too.

    State dict, as the code's: encoder.*, and head.*, linear layers with biases and ReLU between.
    """

    Recipe = SupConRecipe
    # The code's numbers are CIFAR-10's; README: the same with --dataset cifar100.
    PRESETS: dict[str, dict[str, Value]] = dict.fromkeys(("code", "cifar10", "cifar100"), {})

    def __init__(self, recipe: SupConRecipe):
        super().__init__()
        self.temperature = recipe.temperature
        self.encoder, self.width = backbones.build_backbone(recipe.arch, recipe.stem)
        self.head = backbones.build_plain_projector(self.width, recipe.projector)

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]  # encoder is its name in the state dict
        return self.encoder

    def targets(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return inputs[2:]

    def forward(self, y1: torch.Tensor, y2: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.head(self.encoder(y1)), self.head(self.encoder(y2))

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        (z1, z2), (labels,) = outputs, targets
        loss, accuracy = contrastive_loss(z1, z2, self.temperature, labels)
        return loss, {"nearest_is_positive": accuracy}
