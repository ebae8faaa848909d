"""kNN on frozen features: each validation image takes the weighted vote of its nearest training images.

Not in the Barlow Twins paper; reported for its checkpoint by VICReg (arXiv 2105.04906, appendix D.3, Table
11) and mmselfsup. Features: L2-normalised average pool, resize 256 and centre crop 224 on both sets;
vote weight exp(cosine similarity / 0.07) (mmselfsup test_knn.py, DINO's rule). Expected for Barlow Twins,
1000 epochs, by VICReg's table: 64.8 with k = 20 and 62.9 with k = 200. VISSL's kNN is no preset: by default
it leaves the features unnormalised.

    python transfer/run.py --task imagenet_knn --weights bt.pth --data /data
    python transfer/run.py --task imagenet_knn --weights bt.pth k 10,20,100 temperature 0.07,0.1

A grid costs one search: the neighbours are found once. Metrics of the first temperature are top1_k<k>, those
of a further one top1_k<k>_t<temperature>.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from parallel.collectives import all_gather_rows, local_device
from parallel.process import bar
from transfer.classification import own_sets
from transfer.classification.cache import collect
from transfer.classification.datasets import halves, stated
from transfer.classification.features import Pipeline
from transfer.classification.health import keep_rank
from transfer.classification.journal import Journal, keep_predictions
from transfer.precision import tf32
from transfer.settings import Conditions, Context, TaskConfig
from transfer.weights.backbone import Backbone

DISTANCES = ("cosine", "euclidean")
QUERIES, BLOCK = 512, 2 ** 14  # validation and training images compared at once: 34 MB of similarities

# lightly-ai/lightly: benchmarks/imagenet/resnet50/knn_eval.py, and cifar10_benchmark.py of its documentation
LIGHTLY = {"k": (200,), "temperature": (0.1,)}
# knn.py:30-34 of vturrisi/solo-learn, its default temperature first
SOLO = {"k": (20,), "temperature": (0.07, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)}
# main.py:148-149 of wgcban/mix-bt, as in yaohungt/Barlow-Twins-HSIC
MIXED_BT = {"k": (200,), "temperature": (0.5,)}
PRESETS: dict[str, dict] = {
    "imagenet": {"default": {}, "mmselfsup": {"k": (10, 20, 100, 200)},  # test_knn.py:48-57
                 "lightly": LIGHTLY, "solo": SOLO, "mixed_bt": MIXED_BT},
    **dict.fromkeys(("cifar10", "cifar100", "tiny_imagenet"), {
        "default": {}, "mixed_bt": {}, "lightly": LIGHTLY, "solo": SOLO}),
    "stl10": {"default": {}, "mixed_bt": {}, "lightly": LIGHTLY,
              "solo": {**SOLO, "image_size": 96, "resize": "stretch"}},
    "imagenet100": {"default": {}, "lightly": {}, "solo": {**SOLO, "resize": "crop"}, "mixed_bt": MIXED_BT},
}


@dataclass(frozen=True)
class Config(TaskConfig):
    """Defaults: mmselfsup's weights with VICReg's two k."""
    dataset: str = "imagenet"        # folder under the data root
    k: tuple[int, ...] = (20, 200)   # each gives a metric top1_k<k>; 0: 20, but at most the smallest class
    temperature: tuple[float, ...] = (0.07,)  # of the vote's weight
    image_size: int = 224            # both sets: resize to this x 256 / 224, centre crop
    precision: str = "float32"       # of the backbone; bfloat16 moves features by 4e-3
    preset: str = "default"

    # Settings of Small: ImageNet has these values.
    resize, normalisation, distance = "crop", "imagenet", "cosine"

    @property
    def PRESETS(self) -> dict:
        """Those of the task's data set."""
        return PRESETS.get(self.dataset, {})

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline(self.image_size, self.resize, precision=self.precision,
                        normalisation=self.normalisation)

    def metric(self, k: int, temperature: float) -> str:
        """What the figure of one pair is called."""
        return f"top1_k{k}" + (f"_t{temperature:g}" if temperature != self.temperature[0] else "")


@dataclass(frozen=True)
class Small(Config):
    """Defaults: CIFAR-10, main.py of wgcban/mix-bt. The first k and temperature give `top1`."""
    dataset: str = "cifar10"
    k: tuple[int, ...] = (200,)
    temperature: tuple[float, ...] = (0.5,)
    image_size: int = 32
    resize: str = "stretch"          # does nothing at the pictures' own size
    normalisation: str = "imagenet"  # that of the weights' pretraining: images.NORMALISATIONS
    distance: str = "cosine"         # euclidean: features as they are; solo-learn's script has both

    def metric(self, k: int, temperature: float) -> str:
        first = (k, temperature) == (self.k[0], self.temperature[0])
        return "top1" if first else super().metric(k, temperature)


CIFAR10, CIFAR100 = Small(), Small("cifar100")
TINY_IMAGENET = Small("tiny_imagenet", image_size=64)
STL10 = Small("stl10", image_size=64, resize="bicubic_crop")
# imagenet100_benchmark.py of lightly-ai/lightly, docs/source/getting_started/benchmarks
IMAGENET100 = Small("imagenet100", k=(20,), temperature=(0.1,), image_size=224, resize="bilinear")
# DINO's and VICReg's 20 neighbours with DINO's temperature, pictures as in SimCLR B.8.
FOLDER = Small(own_sets.NAME, k=(0,), temperature=(0.07,), image_size=0, resize="bicubic")


def data(config: Config, conditions: Conditions) -> dict:
    """Name, counts and fingerprint of the data set; ValueError when a k exceeds its training images."""
    parts = halves(conditions.data, config.dataset)
    check(config, len(parts["train"]), parts["train"].source)
    return stated(config.dataset, parts)


def check(config: Config, count: int, source: str) -> None:
    """ValueError for more neighbours than there are images."""
    if max(config.k) > count:
        raise ValueError(f"k: expected values up to the {count} training images of {source}, "
                         f"found {config.k}")
    if config.distance not in DISTANCES:
        raise ValueError(f"distance: expected one of {', '.join(DISTANCES)}, found {config.distance!r}")
    config.pipeline.check()


def run(backbone: Backbone, config: Config, context: Context) -> dict[str, float]:
    """{"top1_k20", "top1_k200"} (see config.metric), percent. A resumed run computes the features anew."""
    device, journal = local_device(context.device), Journal(context)
    train, scored = halves(context.data, config.dataset).values()
    check(config, len(train), train.source)
    (bank, bank_labels), (queries, truth) = collect(backbone, [train, scored], config.pipeline, context,
                                                    device)
    queries, truth = all_gather_rows(queries), all_gather_rows(truth)
    classes = train.classes
    fitting = {k: k or max(1, min(20, np.bincount(train.labels).min().item())) for k in config.k}
    with tf32(allowed=False):
        votes = predict(bank, bank_labels, queries, len(classes), list(fitting.values()), config.temperature,
                        device, config.distance)
    metrics: dict[str, Any] = {
        config.metric(k, temperature):
            100 * (votes[fitting[k], temperature] == truth).sum().item() / len(truth)
        for temperature in config.temperature for k in config.k}
    journal.line(k=list(fitting.values()), **metrics)
    keep_rank(bank, len(train), context, journal)
    keep_predictions(context, classes, truth, votes[fitting[config.k[0]], config.temperature[0]])
    return metrics


def predict(bank: torch.Tensor, bank_labels: torch.Tensor, queries: torch.Tensor, classes: int,
            ks: Sequence[int], temperatures: Sequence[float], device: torch.device,
            distance: str = "cosine") -> dict[tuple[int, float], torch.Tensor]:
    """{(k, temperature): predicted classes (m,) on the CPU}. distance: of DISTANCES. By "euclidean" a vote
    weighs 1 / (distance + 1e-5) at any temperature (solo/utils/knn.py of vturrisi/solo-learn).

    bank (n_r, width) with bank_labels (n_r,): this rank's part of the training set, which stays where it is;
    queries (m, width): all of them on every rank. Each rank finds its own nearest, then the lists are merged.
    """
    most = max(ks)
    similarities, own_labels = nearest(bank, bank_labels, queries, most, device, distance)
    votes: dict[tuple, list] = {(k, temperature): [] for temperature in temperatures for k in ks}
    for near, labels in zip(similarities.split(QUERIES, 1), own_labels.split(QUERIES, 1)):
        near, places = all_gather_rows(near).topk(most, dim=0)  # (most, chunk), nearest first
        labels = all_gather_rows(labels).gather(0, places)
        # Minus the largest, which changes no vote: a small temperature must not overflow.
        for (k, temperature), found in votes.items():
            weights = ((near[:k] - near[:1]) / temperature).exp() if distance == "cosine" else near[:k]
            totals = weights.new_zeros(classes, near.shape[1]).scatter_add_(0, labels[:k], weights)
            found.append(totals.argmax(0).cpu())
    return {grid: torch.cat(found) for grid, found in votes.items()}


def nearest(bank: torch.Tensor, bank_labels: torch.Tensor, queries: torch.Tensor, most: int,
            device: torch.device, distance: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarities (most, m) of each query to its nearest of this rank's bank, and their labels (most, m), on
    the device; -inf where the bank is smaller.

    The bank is normalised (for "cosine") and travels to the device one block at a time: beside it there is
    never more than one block.
    """
    cosine = distance == "cosine"
    queries = (functional.normalize(queries, dim=1) if cosine else queries).to(device)
    similarities = queries.new_full((most, len(queries)), -torch.inf)
    labels = bank_labels.new_zeros(similarities.shape, device=device)
    blocks = list(zip(bank.split(BLOCK), bank_labels.split(BLOCK)))
    for rows, own in bar(blocks, "neighbours"):
        rows, own = (functional.normalize(rows, dim=1) if cosine else rows).to(device), own.to(device)
        for chunk, near, names in zip(queries.split(QUERIES), similarities.split(QUERIES, 1),
                                      labels.split(QUERIES, 1)):
            similar = rows @ chunk.T if cosine else 1 / (torch.cdist(rows, chunk) + 1e-5)
            found, places = similar.topk(min(most, len(rows)), dim=0)
            found, order = torch.cat([near, found]).topk(most, dim=0)
            names.copy_(torch.cat([names, own[places]]).gather(0, order))
            near.copy_(found)
    return similarities, labels
