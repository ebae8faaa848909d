"""Barlow Twins as a Hilbert-Schmidt independence criterion (Tsai et al., arXiv 2104.13712).

Source: yaohungt/Barlow-Twins-HSIC at a30baba, main.py with --corr_neg_one, model.py, utils.py.

Every pair of different dimensions is pulled to a correlation of -1 instead of 0. The code differs from
Barlow Twins in more than that, and all of it is followed here: embeddings are normalised to length 1 before
their batch norm, whose variance is unbiased and has no eps; the optimiser is Adam at a constant rate; both
views are drawn alike. Not taken over: its pictures are normalised with CIFAR's mean and deviation (ours with
ImageNet's), and it keeps the weights that are best on the test set (ours are the last).
"""
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from pretrain import backbones
from pretrain.methods.correlation import Objective, correlation_loss
from pretrain.methods.method import Method
from pretrain.recipe import Recipe, Value, require, setting


@dataclass(frozen=True)
class HSICRecipe(Recipe):
    """The shared recipe with the defaults of main.py for CIFAR-10."""
    method: str = "hsic"
    batch_size: int = 512
    optimizer: str = "adam"
    learning_rate_weights: float = 5e-4  # 1e-3 at 512 images
    learning_rate_biases: float = 5e-4
    schedule: str = "constant"
    warmup_epochs: int = 0
    reference_world_size: int | str = 1
    projector: str = "512-128"
    stem: str = "cifar"
    image_size: int = 32
    saturation: float = 0.4
    blur: tuple[float, float] = (0.0, 0.0)
    solarise: tuple[float, float] = (0.0, 0.0)
    lambd: float = setting(1 / 128, "weight of the off-diagonal terms (README: 1 / width of the embedding)")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.lambd >= 0, self, "lambd", "at least 0")


# utils.py for STL-10 and Tiny ImageNet; there the colours change before the crop.
SMALL: dict[str, Value] = {"stem": "small", "image_size": 64, "crop_scale": (0.2, 1.0), "grey": 0.1}


class HSIC(Method):
    """Two views -> their embeddings (n, D) of length 1, one view after the other.

    State dict, as model.py's: f.<number>.*, the ResNet's children in their order (without a max pooling that
    the stem has not), and g.*, the projector, whose last layer alone has a bias.
    """

    Recipe = HSICRecipe
    PRESETS = {
        "code": {},
        "cifar10": {},  # the code's numbers are CIFAR-10's
        "batch128": {"batch_size": 128,  # README
                     "learning_rate_weights": 2e-3, "learning_rate_biases": 2e-3},
        "stl10": SMALL,
        "tiny-imagenet": SMALL,
    }

    def __init__(self, recipe: HSICRecipe):
        super().__init__()
        self.objective = Objective(recipe.lambd, off_diagonal=-1.0, eps=0.0, correction=1)
        resnet, self.width = backbones.build_backbone(recipe.arch, recipe.stem)
        layers = {name: one for name, one in resnet.named_children() if not isinstance(one, nn.Identity)}
        self.names = tuple(layers)  # torchvision's names of f's children
        self.f = nn.Sequential(*layers.values(), nn.Flatten())
        self.g = backbones.build_projector(self.width, recipe.projector, bias=True)

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]  # f is its name in the state dict
        return self.f

    def torchvision_state(self) -> dict[str, torch.Tensor]:
        parts = ((*name.split(".", 1), value) for name, value in self.f.state_dict().items())
        return {f"{self.names[int(number)]}.{rest}": value for number, rest, value in parts}

    def forward(self, y1: torch.Tensor, y2: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(functional.normalize(self.g(self.f(y)), dim=1) for y in (y1, y2))

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        z1, z2 = outputs
        loss, seen = correlation_loss(z1, z2, self.objective)
        return loss, seen.health()
