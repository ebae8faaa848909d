"""SimSiam and BYOL with the variance and covariance terms of VICReg beside their loss, and SimSiam without
parts of its own: Table 4 of VICReg's paper (arXiv 2105.04906, section 5).

Source: the paper's text alone; none of it is in the released code. The weights of the terms are not
published; the defaults keep VICReg's proportion of 25 to 25 to 1.
"""
from dataclasses import dataclass

import torch
from torch import nn

from parallel.collectives import gather_rows
from pretrain import backbones
from pretrain.methods.byol import BYOL, BYOLRecipe
from pretrain.methods.simsiam import SimSiam, SimSiamRecipe
from pretrain.methods.vicreg import vicreg_terms
from pretrain.recipe import Value, require, setting, switch


@dataclass(frozen=True)
class Weights:
    """What both recipes add to those of the methods."""
    std_coeff: float = setting(1.0, "weight of the variance term, the mean of both views'")
    cov_coeff: float = setting(0.04, "weight of the covariance term, the sum of both views'")

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # that of the method's recipe
        for name in ("std_coeff", "cov_coeff"):
            require(getattr(self, name) >= 0, self, name, "at least 0")  # type: ignore[arg-type]

    def add(self, loss: torch.Tensor, outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, dict]:
        """Return the loss with both terms, of the first two outputs, and these."""
        terms = vicreg_terms(*map(gather_rows, outputs[:2]))
        del terms["loss_invariance"]
        variance, covariance = terms.values()
        return (loss + self.std_coeff * variance + self.cov_coeff * covariance,
                {name: term.detach() for name, term in terms.items()})


@dataclass(frozen=True)
class SimSiamRegularisedRecipe(Weights, SimSiamRecipe):
    """The recipe of SimSiam, the terms' weights, and which parts it has."""
    method: str = "simsiam_regularised"
    projector_norm: bool = setting(True, "batch norm in the projector", switch)
    with_predictor: bool = setting(True, "whether there is a predictor", switch)


class SimSiamRegularised(SimSiam):
    """As SimSiam; without a predictor the predictions are the embeddings."""

    Recipe = SimSiamRegularisedRecipe
    PRESETS: dict[str, dict[str, Value]] = {name: SimSiam.PRESETS[name] for name in ("code", "cifar10")}

    def __init__(self, recipe: SimSiamRegularisedRecipe):
        super().__init__(recipe)
        self.recipe = recipe
        if not recipe.projector_norm:
            self.encoder.fc = backbones.build_plain_projector(self.width, recipe.projector)
        if not recipe.with_predictor:
            self.predictor = nn.Sequential()

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.recipe.add(super().loss(outputs, targets, step)[0], outputs)


@dataclass(frozen=True)
class BYOLRegularisedRecipe(Weights, BYOLRecipe):
    """The recipe of BYOL, and the terms' weights."""
    method: str = "byol_regularised"


class BYOLRegularised(BYOL):
    """As BYOL."""

    Recipe = BYOLRegularisedRecipe
    PRESETS: dict[str, dict[str, Value]] = {
        name: BYOL.PRESETS[name] for name in ("code", "epochs100", "cifar10")}

    def __init__(self, recipe: BYOLRegularisedRecipe):
        super().__init__(recipe)
        self.recipe = recipe

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.recipe.add(super().loss(outputs, targets, step)[0], outputs)
