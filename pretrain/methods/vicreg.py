"""VICReg (Bardes, Ponce, LeCun, arXiv 2105.04906, ICLR 2022).

Sources: code = facebookresearch/vicreg at 4e12602, main_vicreg.py; paper = the arXiv version; solo-learn =
vturrisi/solo-learn at 9187ea3.

The code's loss is the default, since the released weights came from it. It differs from the paper:
- It takes the mean of the two views' variance terms where the paper adds them. The preset `paper` doubles
  their weight, which is the same.
- Its invariance term is also a mean over dimensions, where the paper's equation adds them. No preset does
  that: 25 would weigh 8192 times as much beside the other two terms.
- Its views are Barlow Twins' asymmetric pair; the paper's are alike (appendix C). `paper` has those.
"""
from dataclasses import dataclass

import torch
from torch.nn import functional

from parallel.collectives import gather_rows
from pretrain import backbones
from pretrain.methods.correlation import working_type
from pretrain.methods.method import Method
from pretrain.recipe import CIFAR, SOLO_LEARN, Recipe, Value, require, setting

EPS = 1e-4  # added to the variance (code)


@dataclass(frozen=True)
class VICRegRecipe(Recipe):
    """The shared recipe with VICReg's weights."""
    method: str = "vicreg"
    learning_rate_biases: float = 0.2  # one rate for all parameters (code: --base-lr)
    reference_world_size: int | str = 1  # its gather hands the exact gradient back (code: FullGatherLayer)
    sim_coeff: float = setting(25.0, "weight of the invariance term")
    std_coeff: float = setting(25.0, "weight of the variance term, the mean of both views'")
    cov_coeff: float = setting(1.0, "weight of the covariance term, the sum of both views'")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sim_coeff", "std_coeff", "cov_coeff"):
            require(getattr(self, name) >= 0, self, name, "at least 0")


# solo-learn's weights, which follow the paper where both views' variance terms are added, and its views.
OWN: dict[str, Value] = {"std_coeff": 50.0, "crop_scale": (0.2, 1.0), "solarise": (0.1, 0.1)}


class VICReg(Method):
    """Two views -> their embeddings (n, D), one view after the other. The hidden layers of the projector have
    biases, the last has none (code lines 184-233). State dict: backbone.*, projector.*."""

    Recipe = VICRegRecipe
    PRESETS: dict[str, dict[str, Value]] = {
        "code": {},
        "paper": {"std_coeff": 50.0, "blur": (0.5, 0.5), "solarise": (0.1, 0.1)},  # appendix C
        "ablation100": {"epochs": 100, "learning_rate_weights": 0.3, "learning_rate_biases": 0.3,
                        "blur": (0.5, 0.5), "solarise": (0.1, 0.1)},  # appendix C; section 5: 100 epochs
        "short": {"epochs": 100, "batch_size": 512, "learning_rate_weights": 0.3,
                  "learning_rate_biases": 0.3},  # README of the code
        "imagenet100": SOLO_LEARN | OWN | {"epochs": 400, "blur": (0.5, 0.5)},
        **dict.fromkeys(("cifar10", "cifar100"), CIFAR | OWN | {"blur": (0.0, 0.0)}),
    }

    def __init__(self, recipe: VICRegRecipe):
        super().__init__()
        self.coefficients = recipe.sim_coeff, recipe.std_coeff, recipe.cov_coeff
        self.backbone, self.width = backbones.build_backbone(recipe.arch, recipe.stem)
        self.projector = backbones.build_projector(self.width, recipe.projector, hidden_bias=True)

    def forward(self, y1: torch.Tensor, y2: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.projector(self.backbone(y1)), self.projector(self.backbone(y2))

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        terms = vicreg_terms(*map(self.joint, outputs))
        invariance, variance, covariance = (weight * term for weight, term
                                            in zip(self.coefficients, terms.values()))
        return invariance + variance + covariance, {name: term.detach() for name, term in terms.items()}

    def joint(self, z: torch.Tensor) -> torch.Tensor:
        """Return what the loss is computed from: embeddings (N, D) of all processes."""
        return gather_rows(z)


def vicreg_terms(z1: torch.Tensor, z2: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the three terms of the joint batch's embeddings z1, z2 (N, D), scalars, unweighted. float32 also
    under autocast and for 16-bit embeddings, float64 for float64. Raises ValueError for fewer than 2 rows.

    The covariance term needs |Cov|_F^2 less the squared diagonal, and |X'X|_F = |XX'|_F: the smaller of the
    two products is computed.
    """
    with torch.autocast(z1.device.type, enabled=False):
        z1, z2 = (z.to(working_type(z)) for z in (z1, z2))
        count, width = z1.shape
        if count < 2:
            raise ValueError(f"the loss expected at least 2 images in the batch, found {count}")
        variance_term = covariance_term = z1.new_zeros(())
        for x in (z1, z2):
            x = x - x.mean(0)
            variances = torch.linalg.vecdot(x, x, dim=0) / (count - 1)
            product = x @ x.T if count < width else x.T @ x
            # Row by row, then in float64: one long float32 sum is wrong in the fourth digit.
            square = torch.linalg.vecdot(product, product).double().sum() / (count - 1) ** 2
            off_diagonal = square - variances.double().square().sum()
            covariance_term = covariance_term + off_diagonal.to(x.dtype) / width
            variance_term = variance_term + functional.relu(1 - (variances + EPS).sqrt()).mean() / 2
        return {"loss_invariance": functional.mse_loss(z1, z2), "loss_variance": variance_term,
                "loss_covariance": covariance_term}
