"""MoCo v2 (Chen, Fan, Girshick, He, arXiv 2003.04297; MoCo: He et al., arXiv 1911.05722, CVPR 2020).

Sources: code = facebookresearch/moco at 7397dfe, main_moco.py and moco/builder.py with --mlp --moco-t 0.2
--aug-plus --cos, as its README runs version 2; demo = its colab/moco_cifar10_demo.ipynb; solo-learn =
vturrisi/solo-learn at 9187ea3.

Batch norm sees 32 images at a time, as in the code's 8 processes with a batch of 256. The groups are fixed,
so that the number of processes changes nothing: the images of a batch are dealt out to its groups in turn, as
they are dealt out to the processes. A query would find its key by statistics that both share, so the keys are
normalised in groups of a shuffled batch. Statistics of the whole batch do not help, since the rows of the
queue come from other batches (moco#46).

Not taken over: a rate that changes once an epoch and ends at 0 (ours changes each step and ends at 1/1000);
running statistics of the first process (ours are means over the groups, as in the demo).
"""
import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from parallel.batchnorm import convert_group_batchnorm
from parallel.collectives import all_reduce_sum, gather_batch, gather_rows, rank, row_counts, world_size
from pretrain import backbones
from pretrain.methods.byol import move_towards
from pretrain.methods.correlation import working_type
from pretrain.methods.method import Method
from pretrain.recipe import CIFAR, SOLO_LEARN, Recipe, Value, require, setting


@dataclass(frozen=True)
class MoCoRecipe(Recipe):
    """The shared recipe with the code's numbers for version 2."""
    method: str = "moco"
    epochs: int = 200
    batch_size: int = 256
    optimizer: str = "sgd"
    learning_rate_weights: float = 0.03  # --lr, for all parameters
    learning_rate_biases: float = 0.03
    weight_decay: float = 1e-4  # --wd, on all parameters
    warmup_epochs: int = 0
    reference_world_size: int | str = 1  # the mean over images: DDP's gradient is exact
    projector: str = "2048-128"  # --mlp, --moco-dim
    crop_scale: tuple[float, float] = (0.2, 1.0)  # --aug-plus, both views alike
    saturation: float = 0.4
    blur: tuple[float, float] = (0.5, 0.5)
    solarise: tuple[float, float] = (0.0, 0.0)
    spike_factor: float = 0.0  # the loss rises while keys take the places of random rows in the queue
    precision: str = "fp32"
    queue: int = setting(65536, "keys of former batches that each query is compared with (code: --moco-k)")
    momentum: float = setting(0.999, "share of the key network that stays in a step (code: --moco-m)")
    temperature: float = setting(0.2, "of the similarities (code: README, --moco-t)")
    group: int = setting(32, "images that share batch-norm statistics (code: 256 images on 8 GPUs)")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.accumulate == 1, self, "accumulate", "1, since keys are shuffled over the whole batch,")
        require(self.group >= 2 and self.batch_size % self.group == 0, self, "group",
                f"a divisor of the batch size {self.batch_size} from 2 on")
        require(self.queue >= self.batch_size, self, "queue", f"at least the batch size {self.batch_size}")
        require(0 <= self.momentum <= 1, self, "momentum", "a share from 0 to 1")
        require(self.temperature > 0, self, "temperature", "more than 0")


PLUS: dict[str, Value] = {  # solo-learn: mocov2plus.yaml and symmetric_weak.yaml for CIFAR and ImageNet-100
    "projector": "2048-256", "warmup_epochs": 10, "crop_scale": (0.08, 1.0), "momentum": 0.99,
    "precision": "fp16",
}


class MoCo(Method):
    """Two views -> their embeddings (n, D): queries of the first, and keys of the second, by an average of
    past networks.

    State dict: encoder_q.* and encoder_k.*, ResNets whose fc is the projector; queue (D, K), of length 1 each
    and in the order of the batches; queue_ptr (1,), where the next keys go.
    """

    queue: torch.Tensor
    queue_ptr: torch.Tensor
    Recipe = MoCoRecipe
    PRESETS: dict[str, dict[str, Value]] = {
        "code": {},
        "epochs800": {"epochs": 800},  # README
        "code-cifar10": {  # demo; --bn-splits 8
            "arch": "resnet18", "stem": "cifar", "image_size": 32, "projector": "128", "batch_size": 512,
            "weight_decay": 5e-4, "crop_scale": (0.08, 1.0), "blur": (0.0, 0.0), "queue": 4096,
            "momentum": 0.99, "temperature": 0.1, "group": 64},
        "imagenet100": SOLO_LEARN | PLUS | {"epochs": 400},
        **dict.fromkeys(("cifar10", "cifar100"), CIFAR | PLUS | {"queue": 32768}),
    }

    def __init__(self, recipe: MoCoRecipe):
        super().__init__()
        self.momentum, self.temperature, self.group = recipe.momentum, recipe.temperature, recipe.group
        resnet, self.width = backbones.build_backbone(recipe.arch, recipe.stem)
        resnet.fc = backbones.build_plain_projector(self.width, recipe.projector)
        self.encoder_q = convert_group_batchnorm(resnet, recipe.group)
        self.encoder_k = copy.deepcopy(self.encoder_q).requires_grad_(False)
        dimension = int(recipe.projector.split("-")[-1])
        self.register_buffer("queue", functional.normalize(torch.randn(dimension, recipe.queue), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]  # encoder_q is its name in the state dict
        return backbones.without_fc(self.encoder_q)

    def inputs(self, views: tuple[torch.Tensor, ...], draw: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Return the first view; this process's part of the second view of all images, in an order that is
        drawn; and the places in that order, (n,), of this process's own images. Raises
        ValueError unless each process has whole groups, and as many."""
        y1, y2 = views
        counts = row_counts(len(y1))
        if len(y1) % self.group or set(counts) != {len(y1)}:
            raise ValueError(f"--group {self.group}: expected whole groups, as many in each process, found "
                             f"{counts} images in them; use fewer processes or a larger batch")
        order = torch.randperm(sum(counts), generator=draw).to(y1.device, non_blocking=True)
        own = slice(rank(), None, world_size())
        return y1, gather_batch(y2)[order[own]], order.argsort()[own]

    def forward(self, y1: torch.Tensor, shuffled: torch.Tensor,
                places: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q = self.encode(self.encoder_q, y1)
        with torch.no_grad():
            k = gather_batch(self.encode(self.encoder_k, shuffled))[places]
        return q, k

    def as_fed(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(0, (self.group, -1)).transpose(0, 1).flatten(0, 1)

    def encode(self, encoder: nn.Module, y: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of y (n, 3, H, W), which are dealt out to groups in turn."""
        return encoder(self.as_fed(y)).unflatten(0, (-1, self.group)).transpose(0, 1).flatten(0, 1)

    def loss(self, outputs: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...],
             step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with torch.autocast(outputs[0].device.type, enabled=False):
            q, k = (functional.normalize(z.to(working_type(z)), dim=1) for z in outputs)
            losses, found = info_nce(q, k, self.queue, self.temperature)
            self.enqueue(gather_batch(k))
            losses = gather_rows(losses)
        share = all_reduce_sum(found.sum().to(losses.dtype)) / len(losses)
        return losses.mean(), {"nearest_is_positive": share}

    @torch.no_grad()
    def enqueue(self, keys: torch.Tensor) -> None:
        """Put the keys (N, D) of the joint batch into the places of the oldest ones."""
        places = (self.queue_ptr + torch.arange(len(keys), device=keys.device)) % self.queue.size(1)
        self.queue[:, places] = keys.T.to(self.queue.dtype)
        self.queue_ptr.copy_((self.queue_ptr + len(keys)) % self.queue.size(1))

    def after_step(self, step: int, taken: torch.Tensor) -> None:
        """Move the key network towards the other one; by nothing if the step was not taken. The code does so
        before the next keys, which is the same."""
        move_towards(self.encoder_k, self.encoder_q, 1 - self.momentum, taken)


def info_nce(q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor,
             temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for each query, -log of its key's share in the sum of exp(cos / temperature) over its key and
    the queue, and whether its key is the nearest of them, (n,) each.

    q, k: (n, D) rows of length 1; queue: (D, K) columns of length 1, which may change before backward.
    """
    q = q / temperature
    similarity = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.clone()], 1)
    first = torch.zeros(len(q), dtype=torch.int64, device=q.device)
    return functional.cross_entropy(similarity, first, reduction="none"), similarity.argmax(1) == first
