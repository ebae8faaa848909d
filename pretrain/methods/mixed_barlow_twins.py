"""Mixed Barlow Twins (Bandara, De Melo, Patel, arXiv 2312.02151).

Sources: code = wgcban/mix-bt at e2c6af0, main_imagenet.py; small = its main.py and scripts for small sets.

The embedding of a mixed picture is to correlate with the views as the mixture of the embeddings does. With
pi a permutation of the batch, a share a and x_m = a x_1 + (1 - a) x_2[pi]:

    L = L_BT + w sum_v |C(m, v) - a C(1, v) - (1 - a) C(2[pi], v)|_F^2,  v = 1, 2

C(u, v) = U'V / N of the standardised embeddings. With R = M - a A - (1 - a) B[pi], a term is |R'V|_F^2 / N^2
= <RR', VV'> / N^2, which needs no D x D matrix.

The code differs from this in ways that are not taken over:
- Each process permutes its own rows and standardises by their own statistics, and the gradient passes by the
  sum over processes. Here all of it is joint, so the step is the same on any number of processes.
- For v = 2 main_imagenet.py has a C(2, 2) in place of a C(1, 2); main.py and the README have this.
- In main.py epochs count from 1, so its warm-up starts a tenth in; and the weights that are best on the test
  set are kept (ours are the last).
"""
from dataclasses import dataclass

import torch
from torch.nn import functional

from parallel.collectives import all_gather_rows, batch_order, gather_rows, rank, row_counts
from pretrain import backbones
from pretrain.methods.correlation import Objective, correlation_loss, working_type
from pretrain.methods.method import Method
from pretrain.recipe import Recipe, Value, require, setting, switch


@dataclass(frozen=True)
class MixedBarlowTwinsRecipe(Recipe):
    """The shared recipe with the code's numbers for ImageNet. Rates and views are Barlow Twins'."""
    method: str = "mixed_barlow_twins"
    epochs: int = 300
    batch_size: int = 1024
    lambd: float = setting(0.0051, "weight of the off-diagonal terms (code: --lambd)")
    mixing: float = setting(0.5, "weight of the mixing terms, times lambd (code: half of --lambda_mixup, 1; "
                            "small: --mixup_loss_scale)")
    mixing_warmup_epochs: int = setting(10, "in which that weight rises from 0 (code: adjust_mixup_scale)")
    unit_length: bool = setting(False, "yes: a bias in the projector's last layer, and embeddings of length "
                                "1 before they are standardised (code: no; small: yes)", switch)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lambd", "mixing", "mixing_warmup_epochs"):
            require(getattr(self, name) >= 0, self, name, "at least 0")


SMALL: dict[str, Value] = {  # scripts for ResNet-18 and --lr_shed cosine
    "arch": "resnet18", "projector": "512-1024", "unit_length": True, "epochs": 2000, "batch_size": 256,
    "optimizer": "adam", "learning_rate_weights": 0.01, "learning_rate_biases": 0.01,
    "reference_world_size": 1, "mixing_warmup_epochs": 0, "saturation": 0.4, "blur": (0.0, 0.0),
    "solarise": (0.0, 0.0),
}
LARGER: dict[str, Value] = SMALL | {"stem": "small", "image_size": 64, "crop_scale": (0.2, 1.0), "grey": 0.1}


class MixedBarlowTwins(Method):
    """Two views and their mixture -> three embeddings (n, D), one after the other. The variance in the loss
    is unbiased and has no eps. State dict, as the code's for ImageNet: backbone.*, projector.*."""

    Recipe = MixedBarlowTwinsRecipe
    PRESETS: dict[str, dict[str, Value]] = {
        "code": {},
        "epochs1000": {"epochs": 1000, "mixing": 1.0},  # README: --lambda_mixup 2 is best there
        **dict.fromkeys(("cifar10", "cifar100"), SMALL | {
            "stem": "cifar", "image_size": 32, "lambd": 0.0078125, "mixing": 4.0}),
        "stl10": LARGER | {"lambd": 0.0078125, "mixing": 2.0},
        "tiny-imagenet": LARGER | {"lambd": 1 / 1024, "mixing": 4.0},  # 1 / width of the embedding
    }

    def __init__(self, recipe: MixedBarlowTwinsRecipe):
        super().__init__()
        self.objective = Objective(recipe.lambd, eps=0.0, correction=1)
        self.weight, self.warmup_epochs = recipe.mixing * recipe.lambd, recipe.mixing_warmup_epochs
        self.unit_length = recipe.unit_length
        self.backbone, self.width = backbones.build_backbone(recipe.arch, recipe.stem)
        self.projector = backbones.build_projector(self.width, recipe.projector, bias=recipe.unit_length)

    def inputs(self, views: tuple[torch.Tensor, ...], draw: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Return both views, their mixtures, and for each of these its partner, a row of all processes' (in
        the order of ranks), and the share of view 1 (0-1), the same for all.

        The partner is drawn from the whole batch, so all processes' second views are gathered.
        """
        y1, y2 = views
        counts = row_counts(len(y1))
        share = torch.rand((), generator=draw, dtype=torch.float64)  # Beta(1, 1)
        first = sum(counts[:rank()])
        partners = permuted(counts, draw)[first:first + len(y1)].to(y1.device, non_blocking=True)
        mixed = share * y1 + (1 - share) * all_gather_rows(y2, counts)[partners]
        return y1, y2, mixed, partners, share.expand(len(y1)).to(y1.device, non_blocking=True)

    def targets(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return inputs[3:]

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        embeddings = (self.projector(self.backbone(y)) for y in inputs[:3])
        return tuple(functional.normalize(z, dim=1) if self.unit_length else z for z in embeddings)

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        z1, z2, zm = outputs
        partners, share = targets
        loss, seen = correlation_loss(z1, z2, self.objective)
        mixing = mixing_terms(z1, z2, zm, partners, share)
        warmup = self.warmup_epochs * self.steps_per_epoch
        weight = self.weight * min(1.0, step / warmup if warmup else 1.0)
        return loss + weight * mixing, seen.health() | {"loss_mixing": mixing.detach() / z1.size(1)}


def permuted(counts: list[int], draw: torch.Generator) -> torch.Tensor:
    """Return a random permutation (N,) of the rows of all processes, in the order of ranks. counts: by rank.

    It is drawn for the pictures of the batch: on any number of processes, a picture has the same partner.
    """
    pictures = batch_order(counts)
    order = torch.randperm(len(pictures), generator=draw)
    return pictures[order][pictures.argsort()]


def mixing_terms(z1: torch.Tensor, z2: torch.Tensor, zm: torch.Tensor, partners: torch.Tensor,
                 share: torch.Tensor) -> torch.Tensor:
    """Return the sum of both mixing terms over the joint batch of all processes, unweighted, a scalar.

    z1, z2, zm: (n, D) embeddings of this process; partners, share (n,): see `inputs`. float32 also under
    autocast and for 16-bit embeddings, float64 for float64. Of the two forms the smaller product is computed.
    """
    with torch.autocast(z1.device.type, enabled=False):
        a, b, m = (standardised(gather_rows(z).to(working_type(z))) for z in (z1, z2, zm))
        part = all_gather_rows(share).to(a.dtype)[:, None]
        rest = m - part * a - (1 - part) * b[all_gather_rows(partners)]
        count, width = a.shape
        total = a.new_zeros((), dtype=torch.float64)
        for view in (a, b):
            if count < width:
                terms = torch.linalg.vecdot(rest @ rest.T, view @ view.T)
            else:
                product = rest.T @ view
                terms = torch.linalg.vecdot(product, product)
            total = total + terms.double().sum() / count ** 2  # row by row, then in float64
        return total.to(a.dtype)


def standardised(x: torch.Tensor) -> torch.Tensor:
    """Return (N, D) with mean 0 and unbiased variance 1 in each column."""
    x = x - x.mean(0)
    return x / (torch.linalg.vecdot(x, x, dim=0) / (len(x) - 1)).sqrt()
