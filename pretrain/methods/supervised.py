"""Supervised classification, the baseline of every table: cross-entropy on one view.

Sources: code = pytorch/vision references/classification (train.py at 017e9b9, presets.py), the recipe of
torchvision's IMAGENET1K_V1 weights; SupContrast = HobbitLong/SupContrast at 66a8fe5 (README, main_ce.py).

Not taken over: bilinear crops (ours are bicubic), batch-norm statistics of each process by itself (ours are
joint), residual branches that start at 1 (ours at 0), and of SupContrast CIFAR's own pixel statistics and a
warm-up from 0.01.
"""
import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from parallel.collectives import all_reduce_sum, gather_rows
from pretrain import backbones
from pretrain.methods.correlation import working_type
from pretrain.methods.method import Method
from pretrain.pictures.augment import ViewRecipe
from pretrain.recipe import Recipe, Value, require, setting


@dataclass(frozen=True)
class SupervisedRecipe(Recipe):
    """The shared recipe with the code's defaults."""
    labelled: ClassVar[bool] = True
    method: str = "supervised"
    epochs: int = 90  # --epochs
    batch_size: int = 256  # 8 GPUs with --batch-size 32
    optimizer: str = "sgd"
    learning_rate_weights: float = 0.1  # --lr, for all parameters
    learning_rate_biases: float = 0.1
    weight_decay: float = 1e-4  # --weight-decay, on all parameters
    warmup_epochs: int = 0  # --lr-warmup-epochs
    schedule: str = "step"  # --lr-step-size 30, --lr-gamma 0.1
    reference_world_size: int | str = 1  # the mean over images: DDP's gradient is exact
    projector: str = "none"
    jitter: float = 0.0  # presets.py: a crop and a flip
    grey: float = 0.0
    blur: tuple[float, float] = (0.0, 0.0)
    solarise: tuple[float, float] = (0.0, 0.0)
    precision: str = "fp32"
    classes: int = setting(1000, "of the pictures, whose labels are 0 to this less 1 (code: the folders)")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.classes >= 2, self, "classes", "at least 2")
        require(self.projector == "none", self, "projector", "none, since the classifier is one layer,")

    def view_recipes(self) -> tuple[ViewRecipe, ...]:
        return super().view_recipes()[:1]

    def check_labels(self, labels: np.ndarray | None) -> None:
        super().check_labels(labels)
        if labels is not None and not 0 <= labels.min() <= labels.max() < self.classes:
            raise ValueError(f"--classes {self.classes}: expected labels from 0 to {self.classes - 1}, found "
                             f"{labels.min()} to {labels.max()}")


CIFAR: dict[str, Value] = {  # SupContrast: --batch_size 1024 --learning_rate 0.8 --cosine
    "stem": "cifar", "image_size": 32, "epochs": 500, "batch_size": 1024, "learning_rate_weights": 0.2,
    "learning_rate_biases": 0.2, "warmup_epochs": 10, "schedule": "cosine", "crop_scale": (0.2, 1.0)}


class Supervised(Method):
    """One view and its class -> features (n, width) and scores of the classes (n, K).

    State dict: a bare ResNet with fc, torchvision's names.
    """

    Recipe = SupervisedRecipe
    PRESETS: dict[str, dict[str, Value]] = {
        "code": {},
        "cifar10": CIFAR | {"classes": 10},
        "cifar100": CIFAR | {"classes": 100},
    }

    def __init__(self, recipe: SupervisedRecipe):
        super().__init__()
        resnet, self.width = backbones.build_backbone(recipe.arch, recipe.stem)
        resnet.fc = nn.Linear(self.width, recipe.classes)
        for name, layer in resnet.named_children():
            self.add_module(name, layer)
        self.resnet = (resnet,)  # in a tuple, so that its layers have no second names

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]  # its layers are this module's own
        bare = copy.copy(self.resnet[0])
        bare._modules = {name: self._modules[name] for name in bare._modules} | {"fc": nn.Identity()}
        return bare

    def targets(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return inputs[1:]

    def forward(self, y: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = self.backbone(y)
        return h, self.get_submodule("fc")(h)

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        scores, labels = outputs[1], targets[0]
        with torch.autocast(scores.device.type, enabled=False):
            losses = gather_rows(functional.cross_entropy(scores.to(working_type(scores)), labels,
                                                          reduction="none"))
        right = all_reduce_sum((scores.argmax(1) == labels).sum().to(losses.dtype)) / len(losses)
        return losses.mean(), {"training_accuracy": right}
