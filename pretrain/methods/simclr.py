"""SimCLR (Chen, Kornblith, Norouzi, Hinton, arXiv 2002.05709, ICML 2020).

Sources: code = google-research/simclr at 383d414 (README, run.py, model_util.py, objective.py, data_util.py);
paper = the arXiv version; VISSL = facebookresearch/vissl at 09270ed; solo-learn = vturrisi/solo-learn at
9187ea3.

The code is in TensorFlow. The names of the state dict are those of Spijkervet/SimCLR, so that what reads that
port's files reads ours. Not taken over: pixels from 0 to 1 (ours are normalised with ImageNet's statistics),
a blur whose kernel is a tenth of the picture (ours is Pillow's), a rate that ends at 0 (ours at 1/1000).
"""
from dataclasses import dataclass

import torch
from torch import nn

from pretrain import backbones
from pretrain.methods.contrast import contrastive_loss
from pretrain.methods.method import Method
from pretrain.recipe import CIFAR, SOLO_LEARN, Recipe, Value, require, setting, switch


@dataclass(frozen=True)
class SimCLRRecipe(Recipe):
    """The shared recipe with the code's numbers for ImageNet."""
    method: str = "simclr"
    epochs: int = 100
    batch_size: int = 4096
    learning_rate_weights: float = 0.3  # one rate for all parameters
    learning_rate_biases: float = 0.3
    weight_decay: float = 1e-4
    reference_world_size: int | str = 1  # the mean over images; its gather hands the exact gradient back
    loss_scale: float = 2.0  # objective.py adds the two views' means
    projector: str = "2048-2048-128"  # --num_proj_layers, --proj_out_dim
    jitter: float = 2.0  # --color_jitter_strength 1: 0.8, 0.8, 0.8, 0.2; both views alike
    saturation: float = 0.4
    blur: tuple[float, float] = (0.5, 0.5)
    solarise: tuple[float, float] = (0.0, 0.0)
    temperature: float = setting(0.1, "of the similarities (code: README)")
    projector_norm: bool = setting(True, "batch norm after each layer of the projector, the last without "
                                   "offset (code: yes; VISSL and solo-learn: none)", switch)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, self, "temperature", "more than 0")


# solo-learn: simclr.yaml and symmetric.yaml for CIFAR and ImageNet-100; a loss that is the mean of all rows.
OWN: dict[str, Value] = {"temperature": 0.2, "loss_scale": 1.0, "projector_norm": False}


class SimCLR(Method):
    """Two views -> their embeddings (n, D), one view after the other. State dict: encoder.*, projector.*."""

    Recipe = SimCLRRecipe
    PRESETS: dict[str, dict[str, Value]] = {
        "code": {},
        "paper": {"epochs": 1000, "projector": "2048-128", "weight_decay": 1e-6},  # 4.2, B.6; VISSL
        "code-cifar10": {  # README
            "arch": "resnet18", "stem": "cifar", "image_size": 32, "projector": "512-512-128", "epochs": 1000,
            "batch_size": 512, "learning_rate_weights": 1.0, "learning_rate_biases": 1.0,
            "temperature": 0.5, "jitter": 1.0, "blur": (0.0, 0.0)},
        "imagenet100": SOLO_LEARN | OWN | {"projector": "4096-512", "epochs": 400},
        **dict.fromkeys(("cifar10", "cifar100"), CIFAR | OWN | {
            "projector": "2048-256", "learning_rate_weights": 0.4, "learning_rate_biases": 0.4}),
    }

    def __init__(self, recipe: SimCLRRecipe):
        super().__init__()
        self.temperature = recipe.temperature
        self.encoder, self.width = backbones.build_backbone(recipe.arch, recipe.stem)
        if recipe.projector_norm:
            last = nn.BatchNorm1d(int(recipe.projector.split("-")[-1]))
            last.bias.requires_grad_(False)
            self.projector = backbones.build_projector(self.width, recipe.projector).append(last)
        else:
            self.projector = backbones.build_plain_projector(self.width, recipe.projector)

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]  # encoder is its name in the state dict
        return self.encoder

    def forward(self, y1: torch.Tensor, y2: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.projector(self.encoder(y1)), self.projector(self.encoder(y2))

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        z1, z2 = outputs
        loss, accuracy = contrastive_loss(z1, z2, self.temperature)
        return loss, {"nearest_is_positive": accuracy}
