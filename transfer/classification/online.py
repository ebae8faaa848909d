"""The classifier that was trained beside a backbone, scored on the test set, as in solo-learn's tables.

Pretraining with --online-probe keeps it in checkpoint.pth, and solo-learn in its Lightning file
(classifier.*; solo/methods/base.py of vturrisi/solo-learn at 9187ea3). Nothing is trained here. Pictures are
those of solo-learn's validation (solo/data/classification_dataloader.py): CIFAR's as they are, ImageNet-100's
resized to 256, with a centre crop of 224.

    python transfer/run.py --task cifar10_online --weights checkpoint/checkpoint.pth --data /data
"""
from dataclasses import dataclass
from typing import Any

import torch

from parallel.collectives import all_gather_rows, local_device
from transfer.classification.cache import collect
from transfer.classification.datasets import halves, stated
from transfer.classification.features import Pipeline
from transfer.classification.health import keep_rank_of
from transfer.classification.journal import Journal, keep_predictions
from transfer.classification.metrics import percent, topk_correct
from transfer.settings import Conditions, Context, TaskConfig
from transfer.weights.backbone import Backbone


@dataclass(frozen=True)
class Config(TaskConfig):
    """Defaults: CIFAR-10."""
    dataset: str = "cifar10"
    image_size: int = 32
    resize: str = "stretch"          # does nothing at the pictures' own size
    normalisation: str = "imagenet"  # that of the weights' pretraining: images.NORMALISATIONS
    precision: str = "float32"       # of the backbone; bfloat16 moves features by 4e-3

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline(self.image_size, self.resize, precision=self.precision,
                        normalisation=self.normalisation)

    def fitted(self, backbone: Backbone) -> "Config":
        classifier_of(backbone)
        return super().fitted(backbone)


CIFAR10, CIFAR100 = Config(), Config("cifar100")
IMAGENET100 = Config("imagenet100", image_size=224, resize="crop")


def classifier_of(backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (C, width) and biases (C,) of the classifier; ValueError for a file without one."""
    if backbone.classifier is None:
        raise ValueError(f"{backbone.path}: expected weights with the classifier that was trained beside "
                         "them, found none; give checkpoint.pth of a pretraining with --online-probe, or "
                         "solo-learn's file")
    return backbone.classifier


def data(config: Config, conditions: Conditions) -> dict:
    """Name, counts and fingerprint of the data set."""
    config.pipeline.check()
    return stated(config.dataset, halves(conditions.data, config.dataset))


def run(backbone: Backbone, config: Config, context: Context) -> dict[str, float]:
    """{"top1", "top5"}, percent. ValueError for a classifier of another number of classes."""
    device, journal = local_device(context.device), Journal(context)
    train, scored = halves(context.data, config.dataset).values()
    weight, bias = classifier_of(backbone)
    if len(weight) != len(scored.classes):
        raise ValueError(f"{backbone.path}: expected a classifier of the {len(scored.classes)} classes of "
                         f"{scored.source}, found one of {len(weight)}; give the weights that were trained "
                         "on this set")
    (features, truth), = collect(backbone, [scored], config.pipeline, context, device)
    logits = features @ weight.to(features).T + bias.to(features)
    hits = topk_correct(logits, truth, (1, 5))
    metrics: dict[str, Any] = dict(zip(("top1", "top5"), percent(hits, len(truth))))
    journal.line(**metrics)
    keep_rank_of(backbone, train, config.pipeline, context, device, journal)
    keep_predictions(context, scored.classes, all_gather_rows(truth), all_gather_rows(logits.argmax(1)))
    return metrics
