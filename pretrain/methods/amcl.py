"""AMCL, adaptive multi-head contrastive learning (arXiv 2310.05615, ECCV 2024), on SimCLR and Barlow Twins.

Several projection heads, each with the objective of the method itself, where each pair has a temperature of
its own, the output of a small network phi that all heads share: tau = tau_min + (tau_max - tau_min) *
sigmoid(-phi(u).phi(v)). Omega(tau) = D/2 log tau + 1/tau regularises it.

Sources: code = LeiWangR/cl at 755799d, amcl/{losses,models,train}.py, which names the paper's equations.

The objective has no bound of its own: where a similarity exceeds `beta`, the term of a positive pair falls
without limit as tau goes to 0, so temperatures go to the bounds that they are given. The code's lower bound
is 1e-5; ours is 0.05, and the log has the temperatures.
No figure of the paper could be read, so none stands beside these recipes. Not taken over: a rate that changes
once an epoch and ends at 0 (ours changes each step and ends at 1/1000).
"""
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from parallel.collectives import batch_order, gather_rows, row_counts, shared
from pretrain import backbones
from pretrain.methods.barlow_twins_ablated import matrix
from pretrain.methods.correlation import working_type
from pretrain.methods.method import Method
from pretrain.recipe import Recipe, Value, require, setting


@dataclass(frozen=True)
class AMCLRecipe(Recipe):
    """The shared recipe with what both methods have in the code, for CIFAR-10."""
    batch_size: int = 512
    optimizer: str = "sgd"
    weight_decay: float = 5e-4
    warmup_epochs: int = 0
    reference_world_size: int | str = 1
    arch: str = "resnet18"
    stem: str = "cifar"
    image_size: int = 32
    saturation: float = 0.4  # --aug default: both views alike
    blur: tuple[float, float] = (0.0, 0.0)
    solarise: tuple[float, float] = (0.0, 0.0)
    spike_factor: float = 0.0
    max_norm: float = 1.0  # a safeguard, says the code
    heads: int = setting(3, "projection heads (code: --heads)")
    beta: float = setting(1e-4, "weight of the temperatures' regulariser (code: --beta)")
    tau_min: float = setting(0.05, "lowest temperature (code: --tau-min 1e-5)")
    tau_max: float = setting(2.0, "highest temperature (code: --tau-max)")
    tau_width: int = setting(128, "hidden width of phi (code: --temperature-hidden-dim)")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("heads", "tau_width"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        require(self.beta >= 0, self, "beta", "at least 0")
        require(0 < self.tau_min < self.tau_max, self, "tau_min", f"above 0 and below {self.tau_max}")
        require(self.spike_factor == 0, self, "spike_factor", "0, since the loss may be negative,")


@dataclass(frozen=True)
class AMCLSimCLRRecipe(AMCLRecipe):
    """The code's numbers for SimCLR."""
    method: str = "amcl_simclr"
    learning_rate_weights: float = 0.03  # 0.06 at 512 images, for all parameters
    learning_rate_biases: float = 0.03
    projector: str = "512-128"
    hardest: int = setting(100, "negatives of an image that count, the most similar ones (code: --topk)")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.hardest >= 1, self, "hardest", "at least 1")


@dataclass(frozen=True)
class AMCLBarlowTwinsRecipe(AMCLRecipe):
    """The code's numbers for Barlow Twins."""
    method: str = "amcl_barlow_twins"
    learning_rate_weights: float = 0.055  # 0.11 at 512 images, for all parameters
    learning_rate_biases: float = 0.055
    projector: str = "2048-2048-2048"
    beta: float = 1e-6
    lambd: float = setting(5e-3, "weight of the off-diagonal terms (code: lambd)")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.lambd >= 0, self, "lambd", "at least 0")
        require(self.accumulate == 1, self, "accumulate", "1, since phi takes a whole batch at once,")


class AMCL(Method):
    """Both methods. State dict, as the code's: encoder.*, projector.heads.N.net.* and
    criterion.temperature.phi.*."""

    PRESETS: dict[str, dict[str, Value]] = {
        "code": {}, "cifar10": {}, "cifar100": {},  # the code has one recipe for all
        "stl10": {"image_size": 96},
    }

    def __init__(self, recipe: AMCLRecipe, phi: int):
        super().__init__()
        self.recipe, self.dimension = recipe, int(recipe.projector.split("-")[-1])
        self.encoder, self.width = backbones.build_backbone(recipe.arch, recipe.stem)
        heads = [nn.ModuleDict({"net": self.head()}) for _ in range(recipe.heads)]
        self.projector = nn.ModuleDict({"heads": nn.ModuleList(heads)})
        network = nn.Sequential(nn.Linear(phi, recipe.tau_width), nn.ReLU(inplace=True),
                                nn.Linear(recipe.tau_width, phi))
        self.criterion = nn.ModuleDict({"temperature": nn.ModuleDict({"phi": network})})

    def head(self) -> nn.Sequential:
        """Return a projection head: features (n, width) -> (n, D)."""
        raise NotImplementedError

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]  # encoder is its name in the state dict
        return self.encoder

    @property
    def phi(self) -> nn.Module:
        """The network whose outputs give the temperatures."""
        return self.criterion.get_submodule("temperature.phi")

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return the embeddings (n, heads x D) of images, one head after the other."""
        features, heads = self.encoder(images), self.projector.get_submodule("heads").children()
        return torch.cat([head.get_submodule("net")(features) for head in heads], dim=1)

    def temperatures(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the temperature of each score, of any shape."""
        low, high = self.recipe.tau_min, self.recipe.tau_max
        return low + (high - low) * torch.sigmoid(-scores)

    def figures(self, positive: torch.Tensor, negative: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return for the log the mean temperature of positive and of negative pairs, and the lowest of
        all."""
        positive, negative = positive.detach(), negative.detach()
        return {"tau_positive": positive.mean(), "tau_negative": negative.mean(),
                "tau_lowest": torch.minimum(positive.min(), negative.min())}


def omega(tau: torch.Tensor, dimension: float) -> torch.Tensor:
    """Return the regulariser of each temperature."""
    return dimension / 2 * tau.log() + 1 / tau


class AMCLSimCLR(AMCL):
    """Two views -> their embeddings (n, heads x D) and what phi makes of these, of length 1 in each head. The
    loss is equation 2.1 with the most similar negatives in place of the one (equation 5)."""

    Recipe = AMCLSimCLRRecipe

    def __init__(self, recipe: AMCLSimCLRRecipe):
        super().__init__(recipe, int(recipe.projector.split("-")[-1]))
        self.hardest = recipe.hardest

    def head(self) -> nn.Sequential:
        return backbones.build_plain_projector(self.width, self.recipe.projector)

    def forward(self, y1: torch.Tensor, y2: torch.Tensor) -> tuple[torch.Tensor, ...]:
        embeddings = [self.embed(y) for y in (y1, y2)]
        return *embeddings, *(self.phi(self.unit(z)).flatten(1) for z in embeddings)

    def unit(self, z: torch.Tensor) -> torch.Tensor:
        """Return (n, heads, D), of length 1 in each head."""
        return functional.normalize(z.unflatten(1, (-1, self.dimension)), dim=2)

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with torch.autocast(outputs[0].device.type, enabled=False):
            z1, z2, u1, u2 = (gather_rows(rows.to(working_type(rows))) for rows in outputs)
            count, beta = len(z1), self.recipe.beta
            z, u = self.unit(torch.cat([z1, z2])), torch.cat([u1, u2]).unflatten(1, (-1, self.dimension))
            similarity = torch.einsum("icd,jcd->cij", z, z)  # (heads, 2N, 2N)
            tau = self.temperatures(torch.einsum("icd,jcd->cij", u, u))
            anchors = torch.arange(2 * count, device=z.device)
            partners = (anchors + count) % (2 * count)
            alike, tau_alike = similarity[:, anchors, partners], tau[:, anchors, partners]
            apart = similarity.detach().clone()
            apart[:, anchors, anchors] = apart[:, anchors, partners] = -torch.inf
            hardest = apart.topk(min(self.hardest, 2 * count - 2), dim=2).indices
            unlike, tau_unlike = similarity.gather(2, hardest), tau.gather(2, hardest)
            rows = (-alike / tau_alike + (unlike / tau_unlike).mean(2)
                    + beta * (omega(tau_alike, self.dimension) - omega(tau_unlike, 2).sum(2)))
            return rows.mean(1).sum(), self.figures(tau_alike, tau_unlike)


class AMCLBarlowTwins(AMCL):
    """Two views -> their embeddings (n, heads x D). The loss is equation 2.3: phi takes each dimension of the
    embeddings over the joint batch, in its order, so it belongs to one batch size."""

    Recipe = AMCLBarlowTwinsRecipe

    def __init__(self, recipe: AMCLBarlowTwinsRecipe):
        super().__init__(recipe, recipe.batch_size)
        self.lambd = recipe.lambd

    def head(self) -> nn.Sequential:
        layers = backbones.build_projector(self.width, self.recipe.projector, hidden_bias=True, bias=True)
        return layers.append(nn.BatchNorm1d(self.dimension, affine=False))

    def forward(self, y1: torch.Tensor, y2: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.embed(y1), self.embed(y2)

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with torch.autocast(outputs[0].device.type, enabled=False):
            order = batch_order(row_counts(len(outputs[0]))).to(outputs[0].device, non_blocking=True)
            views = [gather_rows(z.to(working_type(z)))[order] for z in outputs]
            # All processes use phi alike, and the gradients of its parameters are summed over them.
            weights = {name: shared(weight).to(views[0].dtype)
                       for name, weight in self.phi.named_parameters()}
            total, positive, negative = views[0].new_zeros(()), [], []
            for z1, z2 in zip(*(view.split(self.dimension, dim=1) for view in views)):
                p1, p2 = (functional_call(self.phi, weights, (z.T,)) for z in (z1, z2))  # (D, N)
                c, tau = matrix(z1, z2, "batch"), self.temperatures(p1 @ p2.T)
                on = (1 - c.diagonal() / tau.diagonal()).square().sum()
                off = c.square() / tau
                regular = omega(tau, self.dimension)
                total = total + on + self.lambd * (off.sum() - off.trace()) + self.recipe.beta * (
                    2 * regular.trace() - regular.sum())
                positive.append(tau.diagonal())
                negative.append(tau)
            return total, self.figures(torch.stack(positive), torch.stack(negative))
