"""SimSiam (Chen, He, arXiv 2011.10566, CVPR 2021).

Sources: code = facebookresearch/simsiam at a7bc177, main_simsiam.py and simsiam/builder.py with
--fix-pred-lr, as its README runs it; paper = the arXiv version, its appendix D as quoted in
PatrickHua/SimSiam#3 and simsiam#9; solo-learn = vturrisi/solo-learn at 9187ea3.

Not taken over: the code's rate changes once an epoch and ends at 0 (ours changes each step and ends at
1/1000). The code trains in fp32 and so does the default here.
"""
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from parallel.collectives import gather_rows
from pretrain import backbones
from pretrain.methods.correlation import working_type
from pretrain.methods.method import Method
from pretrain.recipe import CIFAR, Recipe, Value, require, setting, switch


@dataclass(frozen=True)
class SimSiamRecipe(Recipe):
    """The shared recipe with the code's defaults."""
    method: str = "simsiam"
    epochs: int = 100
    batch_size: int = 512
    optimizer: str = "sgd"
    learning_rate_weights: float = 0.05  # --lr, for all parameters
    learning_rate_biases: float = 0.05
    weight_decay: float = 1e-4  # --wd, on all parameters
    warmup_epochs: int = 0
    reference_world_size: int | str = 1  # the mean over images: DDP's gradient is exact
    projector: str = "2048-2048-2048"  # --dim
    crop_scale: tuple[float, float] = (0.2, 1.0)  # the views are MoCo v2's, both alike
    saturation: float = 0.4
    blur: tuple[float, float] = (0.5, 0.5)
    solarise: tuple[float, float] = (0.0, 0.0)
    spike_factor: float = 0.0
    precision: str = "fp32"
    predictor: int = setting(512, "width of the predictor's hidden layer (code: --pred-dim)")
    fixed_predictor: bool = setting(True, "yes: the predictor's rate follows no schedule (code: "
                                    "--fix-pred-lr)", switch)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.predictor >= 1, self, "predictor", "at least 1")
        require(self.spike_factor == 0, self, "spike_factor", "0, since the loss is negative,")


class SimSiam(Method):
    """Two views -> their embeddings z and predictions p, (n, D) each, one view after the other.

    State dict: encoder.*, a ResNet whose fc is the projector, and predictor.*. The projector ends with a
    batch norm without scale and shift; the bias before it stays as it was drawn (builder.py).
    """

    Recipe = SimSiamRecipe
    PRESETS: dict[str, dict[str, Value]] = {
        "code": {},
        "batch256": {"batch_size": 256},  # README and paper Table 4
        "cifar10": {  # paper, appendix D
            "arch": "resnet18", "stem": "cifar", "image_size": 32, "epochs": 800, "projector": "2048-2048",
            "learning_rate_weights": 0.03, "learning_rate_biases": 0.03, "weight_decay": 5e-4,
            "blur": (0.0, 0.0)},
        **dict.fromkeys(("solo-cifar10", "cifar100"), CIFAR | {  # solo-learn: symmetric_weak.yaml
            "warmup_epochs": 10, "learning_rate_weights": 0.5, "learning_rate_biases": 0.5,
            "weight_decay": 1e-5, "crop_scale": (0.08, 1.0)}),
        "imagenet100": {  # solo-learn: imagenet-100/simsiam.yaml, asymmetric.yaml
            "arch": "resnet18", "batch_size": 256, "epochs": 400, "warmup_epochs": 10,
            "learning_rate_weights": 0.5, "learning_rate_biases": 0.5, "weight_decay": 1e-5,
            "crop_scale": (0.08, 1.0), "saturation": 0.2, "blur": (1.0, 0.1), "solarise": (0.0, 0.2)},
    }

    def __init__(self, recipe: SimSiamRecipe):
        super().__init__()
        self.encoder, self.width = backbones.build_backbone(recipe.arch, recipe.stem)
        projector = backbones.build_projector(self.width, recipe.projector, bias=True)
        projector[-1].bias.requires_grad_(False)  # type: ignore[union-attr, operator]
        dimension = int(recipe.projector.split("-")[-1])
        self.encoder.fc = projector.append(nn.BatchNorm1d(dimension, affine=False))
        self.predictor = backbones.build_projector(dimension, f"{recipe.predictor}-{dimension}", bias=True)
        self.constant_rate = ("predictor.",) if recipe.fixed_predictor else ()

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]  # encoder is its name in the state dict
        return backbones.without_fc(self.encoder)

    def forward(self, y1: torch.Tensor, y2: torch.Tensor) -> tuple[torch.Tensor, ...]:
        z1, z2 = self.encoder(y1), self.encoder(y2)
        return z1, z2, self.predictor(z1), self.predictor(z2)

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        z1, z2, p1, p2 = outputs
        return -(mean_cosine(p1, z2.detach()) + mean_cosine(p2, z1.detach())) / 2, {}


def mean_cosine(p: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Return the mean cosine of the rows of p and z (n, D), over the images of all processes, a scalar.
    float32 also under autocast and for 16 bits, float64 for float64."""
    with torch.autocast(p.device.type, enabled=False):
        kind = working_type(p)
        return gather_rows(functional.cosine_similarity(p.to(kind), z.to(kind), dim=1)).mean()
