"""Logistic regression on frozen features of Kornblith et al.'s small sets: checkpoints ranked in minutes.

Kornblith, Shlens and Le, arXiv 1805.08974, as SimCLR (arXiv 2002.05709, B.8) describes it: images to 224 on
the shorter side, bicubic, centre crop, no augmentation; multinomial logistic regression by L-BFGS with an L2
penalty out of 45 log-spaced strengths from 1e-6 to 1e5, chosen on the official validation set, else on a part
held out of train (a fifth of each class: our number, the papers name none), then refitted on both. The test
set is scored once. Metrics are each set's own: top-1, mean accuracy per class, or for VOC2007, whose classes
are twenty binary problems, the 11-point mAP. Beside it stands kNN (k = 20, temperature 0.07), `knn20`.

    python transfer/run.py --task cifar10_probe --weights bt.pth --data /data
"""
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from parallel.collectives import all_reduce_sum, local_device
from parallel.process import bar
from transfer.classification import knn, layouts, logistic, own_sets
from transfer.classification.cache import collect_all
from transfer.classification.datasets import copies
from transfer.classification.features import Pipeline
from transfer.classification.health import keep_rank
from transfer.classification.images import part
from transfer.classification.journal import Journal, keep, keep_predictions
from transfer.classification.metrics import average_precision, confusion, mean_per_class
from transfer.classification.small_sets import SMALL_SETS, read_small_set
from transfer.precision import tf32
from transfer.settings import Conditions, Context, TaskConfig
from transfer.weights.backbone import Backbone

# Strengths fitted one after another, each from the weights of the one before. On 3000 x 512 toy features a
# run of all 45 takes 13 % fewer steps of L-BFGS, runs of 6 take 11 % more.
RUN = 9


@dataclass(frozen=True)
class Config(TaskConfig):
    """Defaults: SimCLR B.8."""
    dataset: str = "cifar10"       # one of SMALL_SETS
    weakest: float = 1e-6          # of the L2 penalty, strength / 2 x |weights|^2 beside the sum of losses
    strongest: float = 1e5
    strengths: int = 45            # log-spaced
    held_out: float = 0.2          # of each class of train, where the set has no official validation set
    tolerance: float = 1e-4        # of L-BFGS: largest element of the mean gradient, scikit-learn's default
    max_iterations: int = 1000     # of each fit
    image_size: int = 224
    resize: str = "bicubic"        # shorter side to image_size, centre crop
    precision: str = "float32"     # of the backbone; bfloat16 moves features by 4e-3

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline(self.image_size, self.resize, precision=self.precision)


FOLDER = Config(own_sets.NAME, image_size=0)


def data(config: Config, conditions: Conditions) -> dict:
    """Name, counts and fingerprint; train counts the validation images, too. Errors as of read_small_set and
    held_out_rows."""
    check(config)
    train, val, test = read_small_set(config.dataset, conditions.data)
    held_out_rows(train, val, config, conditions.seed)
    sets = [one for one in (train, val, test) if one is not None]
    counts = {"train": sum(len(one) for one in sets[:-1]), "test": len(test)}
    return {"name": train.title or config.dataset, "counts": counts,
            "fingerprint": layouts.fingerprint(*sets, also=",".join(train.classes)),
            **copies(config.dataset, *sets)}


def check(config: Config) -> None:
    """ValueError for values that no fit can have."""
    config.pipeline.check()
    if config.weakest > config.strongest:
        raise ValueError(f"expected weakest <= strongest, found {config.weakest} and {config.strongest}")


def run(backbone: Backbone, config: Config, context: Context) -> dict[str, float]:
    """The set's metrics in percent, see above. The ranks share the images, then the strengths."""
    check(config)
    device, journal = local_device(context.device), Journal(context)
    train, val, test = read_small_set(config.dataset, context.data)
    sets = [one for one in (train, val, test) if one is not None]
    gathered = collect_all(backbone, sets, config.pipeline, context, device)
    features = torch.cat([rows for rows, _ in gathered[:-1]]).to(device)
    labels = torch.cat([rows for _, rows in gathered[:-1]]).to(device)
    keep_rank(part(features), len(features), context, journal)
    kept_out = held_out_rows(train, val, config, context.seed)
    metric = SMALL_SETS[config.dataset].metric
    with tf32(allowed=False):
        strength = choose(features, labels, torch.from_numpy(kept_out).to(device), len(train.classes), metric,
                          config, journal)
        weights, met = logistic.fit(features, targets_of(labels, features), strength,
                                    zeros(len(train.classes), features), config.tolerance,
                                    config.max_iterations)
        queries, truth = gathered[-1][0].to(device), gathered[-1][1]
        scores = logistic.scores(queries, weights).cpu()
        metrics: dict[str, Any] = score(scores, truth, metric)
        if truth.ndim == 1:
            k = min(20, len(labels))
            votes = knn.predict(part(features), part(labels), queries, len(train.classes), (k,), (0.07,),
                                device)[k, 0.07]
            metrics["knn20"] = 100 * (votes == truth).double().mean().item()
    journal.line(strength=strength, tolerance_met=met, **metrics)
    keep_figures(scores, truth, train.classes, context)
    return metrics


def held_out_rows(train: layouts.Samples, val: layouts.Samples | None, config: Config,
                  seed: int) -> np.ndarray:
    """(n,) bool: which samples of train and val decide the strength: val, or without one a share of each
    class of train. ValueError where none would, or nothing else is left."""
    if val is None:
        rows = layouts.stratified(train.labels, lambda count: min(count - 1, round(config.held_out * count)),
                                  seed)
    else:
        rows = np.arange(len(train) + len(val)) >= len(train)
    if not rows.any() or rows.all():
        raise ValueError(f"{train.source}: expected enough images to hold out some that decide the penalty, "
                         f"found {len(train)} of {len(train.classes)} classes; raise held_out or add images")
    return rows


def choose(features: torch.Tensor, labels: torch.Tensor, kept_out: torch.Tensor, classes: int, metric: str,
           config: Config, journal: Journal) -> float:
    """The strength with the best metric on the samples kept out, (n,) bool; the strongest of equals.

    The ranks share runs of RUN strengths, each walked from strong to weak from zero weights: where L-BFGS
    stops depends on where it began, so the runs must not depend on the number of ranks.
    """
    grid = np.geomspace(config.strongest, config.weakest, config.strengths).tolist()
    inside, outside = features[~kept_out], features[kept_out]
    targets, truth = targets_of(labels[~kept_out], features), labels[kept_out].cpu()
    table = torch.zeros(len(grid), 2, dtype=torch.float64)
    runs = part([range(len(grid))[first:first + RUN] for first in range(0, len(grid), RUN)])
    for place in bar([place for run in runs for place in run], "penalties"):
        if place % RUN == 0:
            weights = zeros(classes, features)
        weights, met = logistic.fit(inside, targets, grid[place], weights, config.tolerance,
                                    config.max_iterations)
        found = score(logistic.scores(outside, weights).cpu(), truth, metric)[metric]
        table[place] = torch.tensor([found, met])
    all_reduce_sum(table)
    for strength, (found, met) in zip(grid, table.tolist()):
        journal.line(show=False, strength=strength, tolerance_met=bool(met), **{f"held_out_{metric}": found})
    return grid[table[:, 0].argmax().item()]


def zeros(classes: int, features: torch.Tensor) -> np.ndarray:
    return np.zeros((classes, features.shape[1] + 1))


def targets_of(labels: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Class numbers as they are; VOC's (n, classes) become 1 and 0, difficult and absent alike."""
    return labels if labels.ndim == 1 else (labels == 1).to(features.dtype)


def score(scores: torch.Tensor, truth: torch.Tensor, metric: str) -> dict[str, float]:
    """scores (n, classes) and truth (n,) or (n, classes), on the CPU -> {metric: percent, ...}, it first."""
    if truth.ndim == 2:
        return {"mAP_11point": float(np.mean([average_precision(column, wanted, "11point")
                                              for column, wanted in zip(scores.T, truth.T)]))}
    matrix = confusion(truth, scores.argmax(1), scores.shape[1])
    found = {"top1": 100 * matrix.diagonal().sum().item() / len(truth),
             "mean_per_class": mean_per_class(matrix)}
    return {metric: found.pop(metric), **found}


def keep_figures(scores: torch.Tensor, truth: torch.Tensor, classes: tuple[str, ...],
                 context: Context) -> None:
    """Each class's accuracy or AP, for the record."""
    if truth.ndim == 1:
        keep_predictions(context, classes, truth, scores.argmax(1))
    else:
        keep(context, "per_class.json", {
            name: {"AP_11point": average_precision(column, wanted, "11point")}
            for name, column, wanted in zip(classes, scores.T, truth.T)})
