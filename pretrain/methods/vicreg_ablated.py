"""VICReg without one of its parts, or with one of another method's: Tables 4, 5 and 8 of its paper
(arXiv 2105.04906, section 5). Its Tables 7, 12 and 13 need settings of the method itself alone.

Source: the paper's text alone; none of it is in the released code. Where the text leaves a choice, `setting`
says what was chosen.
"""
from dataclasses import dataclass

import torch
from torch.nn import functional

from pretrain import backbones
from pretrain.methods.correlation import working_type
from pretrain.methods.vicreg import VICReg, VICRegRecipe
from pretrain.recipe import Value, require, require_model, require_widths, setting, switch

NORMALISATIONS = ("none", "std", "l2")


@dataclass(frozen=True)
class VICRegAblatedRecipe(VICRegRecipe):
    """The recipe of the method itself, and its parts."""
    method: str = "vicreg_ablated"
    hidden_norm: bool = setting(True, "batch norm in the expander's hidden layers", switch)
    normalisation: str = setting("none", "of embeddings: none, std (each dimension over the batch, as batch "
                                 "norm) or l2 (each image's, to length 1)")
    predictor: str = setting("none", "widths of the hidden layers of a predictor behind the first view's "
                             "embeddings, or none (the paper does not say where it is)")
    second: str = setting("shared", "network of the second view: shared, or a ResNet with weights of its own")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.normalisation in NORMALISATIONS, self, "normalisation",
                f"one of {', '.join(NORMALISATIONS)}")
        require_model(self, "second", "shared")
        if self.predictor != "none":
            require_widths(self, "predictor")


class VICRegAblated(VICReg):
    """Two views -> their embeddings (n, D), the first one's behind the predictor, if there is one. State
    dict: that of VICReg, predictor.*, second.*."""

    Recipe = VICRegAblatedRecipe
    PRESETS: dict[str, dict[str, Value]] = {
        name: VICReg.PRESETS[name] for name in ("code", "ablation100", "cifar10")}

    def __init__(self, recipe: VICRegAblatedRecipe):
        super().__init__(recipe)
        self.normalisation = recipe.normalisation
        build = backbones.build_biased_projector if recipe.hidden_norm else backbones.build_plain_projector
        if not recipe.hidden_norm:
            self.projector = build(self.width, recipe.projector)
        self.predictor = backbones.build_predictor(recipe.projector, recipe.predictor)
        self.second = backbones.build_second(recipe.second, recipe.stem, recipe.projector, build)

    def forward(self, y1: torch.Tensor, y2: torch.Tensor) -> tuple[torch.Tensor, ...]:
        z1 = self.predictor(self.projector(self.backbone(y1)))
        return z1, self.second(y2) if self.second else self.projector(self.backbone(y2))

    def joint(self, z: torch.Tensor) -> torch.Tensor:
        z = super().joint(z)
        with torch.autocast(z.device.type, enabled=False):
            z = z.to(working_type(z))
            if self.normalisation == "l2":
                return functional.normalize(z, dim=1)
            if self.normalisation == "std":
                return (z - z.mean(0)) * (z.var(0, correction=0) + 1e-5).rsqrt()
        return z
