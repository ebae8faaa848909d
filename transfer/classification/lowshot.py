"""Low-shot VOC07: linear SVMs from 1 to 96 positive images of a class, five draws of each.

Goyal et al., arXiv 1905.01235, section 6.2 as VISSL runs it: for each class, draw and n, n positives and
(classes - 1) n of the images without the class are drawn from trainval (extra_scripts
create_voc07_low_shot_samples.py), an SVM is fitted at each cost and scored on test as in `svm`. The figures
are mean and spread of the mAP over the draws (svm_utils/svm_low_shot_trainer.py). VISSL picks the cost of
each n by the test set itself. Here the images of trainval that were not drawn pick it, by the same mean over
classes and draws: `mAP_n<n>`, with `std_n<n>`; VISSL's choice stands beside it as `best_mAP_n<n>`, to
compare with published curves. Images and layer are those of voc07_svm; `preset vissl` has VISSL's.

    python transfer/run.py --task voc07_lowshot --weights bt.pth --data /data
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import joblib
import numpy as np
import torch

from parallel.collectives import all_reduce_sum, local_device
from parallel.process import bar
from transfer.classification import images, layouts, svm
from transfer.classification.cache import collect_all
from transfer.classification.health import keep_rank
from transfer.classification.journal import Journal, keep
from transfer.classification.metrics import average_precision
from transfer.classification.svm_solver import Settings, fit_costs, gram, normalised, pool
from transfer.settings import Conditions, Context
from transfer.weights.backbone import Backbone


@dataclass(frozen=True)
class Config(svm.SVMConfig):
    """Defaults: VISSL's draws and solver (eval_resnet_8gpu_transfer_voc07_low_shot_svm.yaml)."""
    shots: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 96)  # positives of a class; each gives three metrics
    draws: int = 5                      # independent ones, from the run's seed

    PRESETS: ClassVar[dict] = {"default": {}, "vissl": {"resize": "stretch", "pooling": "res5"}}


def data(config: Config, conditions: Conditions) -> dict:
    """Name, counts, fingerprint of trainval and test; ValueError for a class with too few images."""
    trainval, test = trainval_test(config, conditions)
    return {"name": config.dataset, "counts": {"train": len(trainval), "test": len(test)},
            "fingerprint": layouts.fingerprint(trainval, test, also=",".join(trainval.classes))}


def trainval_test(config: Config, conditions: Conditions) -> tuple[layouts.Samples, layouts.Samples]:
    """(trainval, test), with enough images of each class for the largest draw."""
    config.check()
    trainval, test = layouts.voc_pair(conditions.data / config.dataset, max(config.shots))
    needed, absent = max(config.shots) * (len(trainval.classes) - 1), (trainval.labels == -1).sum(0)
    if absent.min() < needed:
        raise ValueError(f"{trainval.source}: expected {needed} images without each class, found "
                         f"{absent.min()} without {trainval.classes[absent.argmin()]}; lower shots")
    return trainval, test


def run(backbone: Backbone, config: Config, context: Context) -> dict[str, float]:
    """mAP, std and best_mAP of each number of positives, percent. The ranks share images, then classes."""
    device, journal = local_device(context.device), Journal(context)
    trainval, test = trainval_test(config, context)
    pairs = collect_all(backbone, [trainval, test], config.pipeline, context, device)
    keep_rank(images.part(pairs[0][0]), len(trainval), context, journal)
    (train, labels), (held_out, truth) = [[rows.numpy() for rows in pair] for pair in pairs]
    train, held_out = (normalised(rows, config.norm_epsilon) for rows in (train, held_out))
    kernel = gram(train) if config.solver == "mixed" else None
    settings = config.settings(0, context.seed)
    own = images.part(range(len(trainval.classes)))
    jobs = [(column, place, draw) for column in own for place in range(len(config.shots))
            for draw in range(config.draws)]
    with pool(max(1, context.workers)) as parallel:
        answers = parallel(joblib.delayed(precisions)(
            train, kernel, labels[:, column], held_out, truth[:, column],
            drawn(labels, column, config.shots[place], (context.seed, draw, column, place)), settings)
            for column, place, draw in bar(jobs, "fits"))
    # (what picks the cost, what is scored; shots; draws; classes; costs)
    table = np.zeros((2, len(config.shots), config.draws, len(trainval.classes), len(config.costs)))
    for (column, place, draw), answer in zip(jobs, answers, strict=True):
        table[:, place, draw, column] = answer
    table = all_reduce_sum(torch.from_numpy(table)).numpy()
    return report(table, trainval.classes, config, context, journal)


def drawn(labels: np.ndarray, column: int, shots: int, key: Sequence[int]) -> np.ndarray:
    """Rows of one draw, sorted: `shots` with the class, (classes - 1) x shots without, no difficult ones."""
    draw = np.random.default_rng(key)
    return np.sort(np.concatenate([
        draw.choice(np.flatnonzero(labels[:, column] == label), count, replace=False)
        for label, count in ((1, shots), (-1, (labels.shape[1] - 1) * shots))]))


def precisions(features: np.ndarray, kernel: np.ndarray | None, labels: np.ndarray, test: np.ndarray,
               truth: np.ndarray, rows: np.ndarray, settings: Settings) -> np.ndarray:
    """(2, costs): AP of the rows' SVM at each cost on the rest of the training images, and on test."""
    models = fit_costs(features, kernel, np.where(labels == 1, 1, -1), rows, settings.costs, settings)
    weights, biases = np.stack([model[0] for model in models], 1), np.array([model[1] for model in models])
    rest = labels.copy()
    rest[rows] = 0  # ignored, as the difficult ones
    if not (rest == 1).any():
        rest = labels  # every positive was drawn: nothing else is left to choose by
    return np.array([[average_precision(scores, wanted) for scores in (inputs @ weights + biases).T]
                     for inputs, wanted in ((features, rest), (test, truth))])


def report(table: np.ndarray, classes: tuple[str, ...], config: Config, context: Context,
           journal: Journal) -> dict[str, float]:
    """The metrics, of means over classes; the costs go to the log, the classes' APs to the record's files."""
    metrics, spread, best = {}, {}, {}
    kept: dict[str, dict] = {name: {} for name in classes}
    for place, shots in enumerate(config.shots):
        chosen, ideal = table[:, place].mean((1, 2)).argmax(1)
        scores = table[1, place].mean(1)  # (draws, costs)
        metrics[f"mAP_n{shots}"], spread[f"std_n{shots}"] = scores[:, chosen].mean(), scores[:, chosen].std()
        best[f"best_mAP_n{shots}"] = scores[:, ideal].mean()
        journal.line(show=False, positives=shots, cost=config.costs[chosen],
                     mAP=scores[:, chosen].tolist(), cost_by_test=config.costs[ideal])
        for name, values in zip(classes, table[1, place, :, :, chosen].mean(0), strict=True):
            kept[name][f"AP_n{shots}"] = float(values)
    keep(context, "per_class.json", kept)
    return {name: float(value) for name, value in {**metrics, **spread, **best}.items()}
