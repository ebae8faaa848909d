"""SwAV (Caron et al., arXiv 2006.09882, NeurIPS 2020) with multi-crop: two large crops and some small ones.

Sources: code = facebookresearch/swav at 06b1b7c, main_swav.py and src/resnet50.py with
scripts/swav_<epochs>ep*_pretrain.sh; solo-learn = vturrisi/solo-learn at 9187ea3.

The code's optimiser is apex' LARC around SGD. Its ratio is eta |p| / (|g| + decay |p| + 1e-8), ours
eta |p| / |g + decay p|. Not taken over: batch-norm statistics of eight processes (ours are of all), residual
branches that start at 1, and a queue in a file of each process (ours is of the joint batch and in the
checkpoint).
"""
import copy
import dataclasses
import itertools
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from parallel.collectives import all_reduce_sum, gather_batch, gather_rows
from pretrain import backbones
from pretrain.methods.correlation import working_type
from pretrain.methods.method import Method
from pretrain.pictures.augment import ViewRecipe
from pretrain.recipe import CIFAR, SOLO_LEARN, Recipe, Value, pair, require, setting


@dataclass(frozen=True)
class SwAVRecipe(Recipe):
    """The shared recipe with the code's numbers for two crops of 224 pixels and six of 96."""
    method: str = "swav"
    epochs: int = 800
    batch_size: int = 4096  # 64 GPUs with 64 each
    learning_rate_weights: float = 0.3  # --base_lr 4.8 at 4096
    learning_rate_biases: float = 0.3
    warmup_start: float = 0.0625  # --start_warmup 0.3 of 4.8
    adapt_biases: bool = True  # apex' LARC around all parameters
    reference_world_size: int | str = 1  # the mean over images: DDP's gradient is exact
    projector: str = "2048-128"  # hidden_mlp, --feat_dim
    crop_scale: tuple[float, float] = (0.14, 1.0)  # --min_scale_crops, --max_scale_crops
    jitter: float = 2.0  # multicropdataset.py: 0.8, 0.8, 0.8, 0.2; all views alike
    saturation: float = 0.4
    blur: tuple[float, float] = (0.5, 0.5)
    solarise: tuple[float, float] = (0.0, 0.0)
    small_crops: int = setting(6, "views besides the two large ones (code: --nmb_crops 2 6)")
    small_size: int = setting(96, "side of a small view in pixels (code: --size_crops 224 96)")
    small_scale: tuple[float, float] = setting((0.05, 0.14), "share of the picture's area in a small crop "
                                               "(code: --min_scale_crops, --max_scale_crops)", pair)
    prototypes: int = setting(3000, "clusters (code: --nmb_prototypes)")
    temperature: float = setting(0.1, "of the predicted clusters (code: --temperature)")
    epsilon: float = setting(0.05, "of the assigned clusters: smaller is sharper (code: --epsilon)")
    sinkhorn: int = setting(3, "rounds of the assignment (code: --sinkhorn_iterations)")
    freeze: int = setting(313, "steps before the prototypes move (code: --freeze_prototypes_niters)")
    queue: int = setting(0, "embeddings of former batches that take part in the assignment, a multiple of "
                         "the batch size; 0: none (code: --queue_length)")
    queue_start: int = setting(15, "epochs before the queue is filled (code: --epoch_queue_starts)")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prototypes", "sinkhorn", "small_size"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        for name in ("temperature", "epsilon"):
            require(getattr(self, name) > 0, self, name, "more than 0")
        for name in ("freeze", "queue", "queue_start", "small_crops"):
            require(getattr(self, name) >= 0, self, name, "at least 0")
        require(0 < self.small_scale[0] <= self.small_scale[1] <= 1, self, "small_scale",
                "two shares in rising order, above 0 and up to 1")
        require(self.queue % self.batch_size == 0, self, "queue", f"a multiple of {self.batch_size} images")
        require(self.optimizer != "adam", self, "optimizer", "lars or sgd, which keep prototypes where they "
                "are that have no gradient,")

    def view_recipes(self) -> tuple[ViewRecipe, ...]:
        """Return what is drawn for the two large views, then for each small one."""
        large = super().view_recipes()
        small = dataclasses.replace(large[0], size=self.small_size, scale=self.small_scale)
        return *large, *(small for _ in range(self.small_crops))


# Two crops of one size: swav_400ep_2x224_pretrain.sh.
TWO_CROPS: dict[str, Value] = {"small_crops": 0, "crop_scale": (0.08, 1.0)}
# One machine: swav_400ep_bs256_pretrain.sh, --base_lr 0.6 at 256.
BATCH256: dict[str, Value] = {
    "batch_size": 256, "learning_rate_weights": 0.6, "learning_rate_biases": 0.6, "warmup_epochs": 0,
    "queue": 3840, "freeze": 5005}
# solo-learn: swav.yaml and symmetric.yaml for CIFAR and ImageNet-100.
OWN: dict[str, Value] = TWO_CROPS | {
    "projector": "2048-128", "learning_rate_weights": 0.6, "learning_rate_biases": 0.6, "weight_decay": 1e-6,
    "warmup_start": 0.0, "adapt_biases": False, "queue": 3840, "queue_start": 50}


class SwAV(Method):
    """V views -> their embeddings (n, D), of length 1, one view after the other, then their cosines with the
    K prototypes (n, K). The first two views are assigned to prototypes, which all others predict. In the
    ResNet the views of one size share their batch statistics, in the projection head all views.

    State dict: a bare ResNet, projection_head.*, prototypes.weight (K, D), whose rows have length 1 after
    each step; with a queue also prototypes.queue (2, queue, D), the newest batch first, zero where it is not
    filled.
    """

    Recipe = SwAVRecipe
    PRESETS: dict[str, dict[str, Value]] = {
        "code": {},
        "epochs400": {"epochs": 400},
        "epochs200": {"epochs": 200},
        "epochs100": {"epochs": 100},
        "2x224": TWO_CROPS | {"epochs": 400},
        "batch256": BATCH256 | {"epochs": 400},
        "batch256-epochs200": BATCH256 | {"epochs": 200},
        "imagenet100": SOLO_LEARN | OWN | {"epochs": 400, "freeze": 988},  # 2 epochs of 494 (126,689 images)
        **dict.fromkeys(("cifar10", "cifar100"), CIFAR | OWN | {"freeze": 390}),  # 2 epochs of 195
    }

    def __init__(self, recipe: SwAVRecipe):
        super().__init__()
        self.temperature, self.epsilon, self.rounds = recipe.temperature, recipe.epsilon, recipe.sinkhorn
        self.freeze, self.queue_start = recipe.freeze, recipe.queue_start
        resnet, self.width = backbones.build_backbone(recipe.arch, recipe.stem)
        for name, layer in resnet.named_children():
            self.add_module(name, layer)
        self.resnet = (resnet,)  # in a tuple, so that its layers have no second names
        self.projection_head = backbones.build_projector(self.width, recipe.projector, hidden_bias=True,
                                                         bias=True)
        dimension = int(recipe.projector.split("-")[-1])
        self.prototypes = nn.Linear(dimension, recipe.prototypes, bias=False)
        self.prototypes.weight.data = functional.normalize(self.prototypes.weight.data, dim=1)
        self.has_queue = recipe.queue > 0
        if self.has_queue:
            self.prototypes.register_buffer("queue", torch.zeros(2, recipe.queue, dimension))

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]  # its layers are this module's own
        bare = copy.copy(self.resnet[0])
        bare._modules = {name: self._modules[name] for name in bare._modules}
        return bare

    def forward(self, *views: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sizes = itertools.groupby(views, key=lambda view: view.shape[-1])
        features = torch.cat([self.backbone(torch.cat(list(alike))) for _, alike in sizes])
        z = self.projection_head(features)
        z = functional.normalize(z.to(working_type(z)), dim=1)
        return *z.chunk(len(views)), *self.prototypes(z).chunk(len(views))

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with torch.autocast(outputs[0].device.type, enabled=False):
            count = len(outputs) // 2
            embeddings, scores = outputs[:count], [s.to(working_type(s)) for s in outputs[count:]]
            if step < self.freeze:  # the second term gives the prototypes a gradient, of zeros
                scores = [z @ self.prototypes.weight.detach().T + 0 * s for z, s in zip(embeddings, scores)]
            logs = [functional.log_softmax(s / self.temperature, dim=1) for s in scores]
            losses = torch.zeros_like(logs[0][:, 0])
            for view, z in enumerate(embeddings[:2]):
                q = self.assign(z.detach(), view, step)
                losses = losses - (q * sum(logs[:view] + logs[view + 1:])).sum(1) / (count - 1) / 2
            return gather_rows(losses).mean(), {}

    @torch.no_grad()
    def assign(self, z: torch.Tensor, view: int, step: int) -> torch.Tensor:
        """Return the clusters (n, K) that a view's embeddings z (n, D) are assigned to, and put these into
        the queue, if there is one."""
        weight = self.prototypes.weight
        if step < self.queue_start * self.steps_per_epoch or not self.has_queue:
            return sinkhorn(z @ weight.T, self.epsilon, self.rounds)
        queue = self.prototypes.get_buffer("queue")[view]
        counts = queue[-1].any()  # from when it is full
        assigned = sinkhorn(z @ weight.T, self.epsilon, self.rounds, queue @ weight.T, counts)
        everyone = gather_batch(z)
        queue.copy_(torch.cat([everyone, queue[:-len(everyone)]]))
        return assigned

    @torch.no_grad()
    def after_step(self, step: int, taken: torch.Tensor) -> None:
        """Give the prototypes length 1. The decay of one that has no gradient goes along itself, so this also
        keeps it where it was."""
        weight = self.prototypes.weight
        weight.copy_(torch.where(taken, functional.normalize(weight, dim=1), weight))


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, epsilon: float, rounds: int, others: torch.Tensor | None = None,
             counts: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Return shares (n, K) of each row's clusters, with sum 1, such that the clusters get nearly the same
    from all rows of all processes (Sinkhorn and Knopp's rounds from exp(scores / epsilon)).

    scores: (n, K), this process's, from -1 to 1. others: (m, K), rows that take part, the same in each
    process; times `counts`, 0 or 1, a scalar on the device.
    """
    # Less 1, since exp would overflow for a small epsilon; a factor on all rows changes nothing.
    own = (scores - 1).div_(epsilon).exp_()
    rest = own[:0] if others is None else (others - 1).div_(epsilon).exp_() * counts
    for _ in range(rounds):
        clusters = all_reduce_sum(own.sum(0)) + rest.sum(0)
        own.div_(clusters)
        own.div_(own.sum(1, keepdim=True))
        rest.div_(clusters)
        rest.div_(rest.sum(1, keepdim=True).clamp(min=torch.finfo(rest.dtype).tiny))  # 0 if it has no part
    return own
