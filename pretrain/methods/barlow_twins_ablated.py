"""Barlow Twins without one of its parts, or with one of another method's: Tables 5 and 6 of its paper
(arXiv 2103.03230, section 4), and its row of VICReg's Table 5 (arXiv 2105.04906).

Source: the papers' text alone; none of it is in the released code. Where the text leaves a choice, `setting`
says what was chosen. The loss is the plain formulation, with its D x D matrix.
"""
from dataclasses import dataclass

import torch
from torch.nn import functional

from parallel.collectives import gather_rows
from pretrain import backbones
from pretrain.methods.barlow_twins import BarlowTwins, BarlowTwinsRecipe
from pretrain.methods.correlation import working_type
from pretrain.recipe import Value, require, require_model, require_widths, setting, switch

NORMALISATIONS = ("batch", "features", "none")


@dataclass(frozen=True)
class BarlowTwinsAblatedRecipe(BarlowTwinsRecipe):
    """The recipe of the method itself, and its parts."""
    method: str = "barlow_twins_ablated"
    on_diagonal: float = setting(1.0, "weight of the terms on the diagonal (paper: 1, or 0)")
    hidden_norm: bool = setting(True, "batch norm in the projector's hidden layers", switch)
    normalisation: str = setting(
        "batch", "of embeddings: batch (C is the cross-correlation); features (centred, each image's to "
        "length 1, C is their product without a division by the batch size, as we read `unnormalised "
        "covariance`); none (C is the cross-covariance)")
    temperature: float = setting(
        0.0, "above 0: the cross-entropy form, -log sum exp(C_ii / T) + lambd log sum exp(max(C_ij, 0) / T); "
        "the paper gives neither T nor lambd")
    stop_gradient: bool = setting(False, "no gradient through the second view", switch)
    predictor: str = setting("none", "widths of the hidden layers of a predictor behind the first view's "
                             "embeddings, or none (paper: 8192)")
    second: str = setting("shared", "network of the second view: shared, or a ResNet with weights of its own "
                          "(VICReg's Table 5)")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("on_diagonal", "temperature"):
            require(getattr(self, name) >= 0, self, name, "at least 0")
        require(self.normalisation in NORMALISATIONS, self, "normalisation",
                f"one of {', '.join(NORMALISATIONS)}")
        require(not self.stop_gradient or self.second == "shared", self, "stop_gradient", "no with a second "
                "network, which would never be trained,")
        require_model(self, "second", "shared")
        if self.predictor != "none":
            require_widths(self, "predictor")


class BarlowTwinsAblated(BarlowTwins):
    """Two views -> their embeddings (n, D), the first one's behind the predictor, if there is one.

    State dict: that of Barlow Twins, predictor.*, second.*; bn is not kept.
    """

    Recipe = BarlowTwinsAblatedRecipe
    PRESETS: dict[str, dict[str, Value]] = {
        name: BarlowTwins.PRESETS[name] for name in ("code", "ablation300", "cifar10")}

    def __init__(self, recipe: BarlowTwinsAblatedRecipe):
        super().__init__(recipe)
        self.recipe = recipe
        build = backbones.build_projector if recipe.hidden_norm else backbones.build_plain_projector
        if not recipe.hidden_norm:
            self.projector = build(self.width, recipe.projector)
        self.predictor = backbones.build_predictor(recipe.projector, recipe.predictor)
        self.second = backbones.build_second(recipe.second, recipe.stem, recipe.projector, build)

    def forward(self, y1: torch.Tensor, y2: torch.Tensor) -> tuple[torch.Tensor, ...]:
        z1 = self.predictor(self.projector(self.backbone(y1)))
        return z1, self.second(y2) if self.second else self.projector(self.backbone(y2))

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        recipe, (z1, z2) = self.recipe, outputs
        with torch.autocast(z1.device.type, enabled=False):
            rows1, rows2 = (gather_rows(z).to(working_type(z)) for z in (z1, z2))
            c = matrix(rows1, rows2.detach() if recipe.stop_gradient else rows2, recipe.normalisation)
            # Without the last element, rows one longer than C's begin with an element of the diagonal.
            diagonal, off_diagonal = c.diagonal(), c.flatten()[:-1].view(len(c) - 1, len(c) + 1)[:, 1:]
            if recipe.temperature:
                on = -(diagonal / recipe.temperature).logsumexp(0)
                off = (off_diagonal.relu() / recipe.temperature).flatten().logsumexp(0)
            else:
                on, off = (diagonal - 1).square().sum(), off_diagonal.square().sum()
            figures = {"diagonal_mean": diagonal.detach().mean(),
                       "off_diagonal_rms": off_diagonal.detach().square().mean().sqrt()}
            return recipe.on_diagonal * on + recipe.lambd * off, figures


def matrix(z1: torch.Tensor, z2: torch.Tensor, normalisation: str) -> torch.Tensor:
    """Return C (D, D) of the joint batch's embeddings (N, D), for one of NORMALISATIONS."""
    z1, z2 = (z - z.mean(0) for z in (z1, z2))
    if normalisation == "features":
        return functional.normalize(z1, dim=1).T @ functional.normalize(z2, dim=1)
    if normalisation == "batch":
        z1, z2 = (z * (z.square().mean(0) + 1e-5).rsqrt() for z in (z1, z2))
    return z1.T @ z2 / len(z1)
