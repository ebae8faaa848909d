"""SwAV (Caron et al., arXiv 2006.09882, NeurIPS 2020) with two crops of one size.

Sources: code = facebookresearch/swav at 06b1b7c, main_swav.py and src/resnet50.py with
scripts/swav_400ep_2x224_pretrain.sh; solo-learn = vturrisi/solo-learn at 9187ea3.

Not taken over: LARS on biases and batch norm (ours leaves them out), a warm-up that begins at a sixteenth of
the peak (ours at 0), batch-norm statistics of eight processes (ours are of all), residual branches that start
at 1, and a queue in a file of each process (ours is of the joint batch and in the checkpoint).
"""
import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from parallel.collectives import all_reduce_sum, gather_batch, gather_rows
from pretrain import backbones
from pretrain.methods.correlation import working_type
from pretrain.methods.method import Method
from pretrain.recipe import CIFAR, Recipe, Value, require, setting


@dataclass(frozen=True)
class SwAVRecipe(Recipe):
    """The shared recipe with the code's numbers for two crops of 224 pixels."""
    method: str = "swav"
    epochs: int = 400
    batch_size: int = 4096  # 64 GPUs with 64 each
    learning_rate_weights: float = 0.3  # --base_lr 4.8 at 4096
    learning_rate_biases: float = 0.3
    reference_world_size: int | str = 1  # the mean over images: DDP's gradient is exact
    projector: str = "2048-128"  # hidden_mlp, --feat_dim
    jitter: float = 2.0  # multicropdataset.py: 0.8, 0.8, 0.8, 0.2; both views alike
    saturation: float = 0.4
    blur: tuple[float, float] = (0.5, 0.5)
    solarise: tuple[float, float] = (0.0, 0.0)
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
        for name in ("prototypes", "sinkhorn"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        for name in ("temperature", "epsilon"):
            require(getattr(self, name) > 0, self, name, "more than 0")
        for name in ("freeze", "queue", "queue_start"):
            require(getattr(self, name) >= 0, self, name, "at least 0")
        require(self.queue % self.batch_size == 0, self, "queue", f"a multiple of {self.batch_size} images")
        require(self.optimizer != "adam", self, "optimizer", "lars or sgd, which keep prototypes where they "
                "are that have no gradient,")


class SwAV(Method):
    """Two views -> their embeddings (n, D), of length 1, and their cosines with the K prototypes (n, K). Both
    views share their batch statistics.

    State dict: a bare ResNet, projection_head.*, prototypes.weight (K, D), whose rows have length 1 after
    each step; with a queue also prototypes.queue (2, queue, D), the newest batch first, zero where it is not
    filled.
    """

    Recipe = SwAVRecipe
    PRESETS: dict[str, dict[str, Value]] = {
        "code": {},
        "cifar10": CIFAR | {  # solo-learn: swav.yaml, symmetric.yaml
            "projector": "2048-128", "learning_rate_weights": 0.6, "learning_rate_biases": 0.6,
            "weight_decay": 1e-6, "queue": 3840, "queue_start": 50, "freeze": 390},  # 2 epochs of 195
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

    def forward(self, y1: torch.Tensor, y2: torch.Tensor) -> tuple[torch.Tensor, ...]:
        z = self.projection_head(self.backbone(torch.cat([y1, y2])))
        z = functional.normalize(z.to(working_type(z)), dim=1)
        return *z.tensor_split((len(y1),)), *self.prototypes(z).tensor_split((len(y1),))

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with torch.autocast(outputs[0].device.type, enabled=False):
            embeddings, scores = outputs[:2], [s.to(working_type(s)) for s in outputs[2:]]
            if step < self.freeze:  # the second term gives the prototypes a gradient, of zeros
                scores = [z @ self.prototypes.weight.detach().T + 0 * s for z, s in zip(embeddings, scores)]
            q1, q2 = (self.assign(z.detach(), view, step) for view, z in enumerate(embeddings))
            p1, p2 = (functional.log_softmax(s / self.temperature, dim=1) for s in scores)
            losses = -((q1 * p2).sum(1) + (q2 * p1).sum(1)) / 2
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
    own = ((scores - 1) / epsilon).exp()
    rest = own[:0] if others is None else ((others - 1) / epsilon).exp() * counts
    for _ in range(rounds):
        clusters = all_reduce_sum(own.sum(0)) + rest.sum(0)
        own, rest = own / clusters, rest / clusters
        own = own / own.sum(1, keepdim=True)
        rest = rest / rest.sum(1, keepdim=True).clamp(min=torch.finfo(rest.dtype).tiny)  # 0 if it has no part
    return own
