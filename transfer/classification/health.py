"""A figure of merit without labels: the effective rank of frozen features (parallel/spectrum.py).

RankMe (Garrido et al., arXiv 2210.02885) ranks the runs of one method by it; other methods, other pictures or
another number of them give figures that do not compare. A low one tells a collapse before hours are spent.
Training pictures without augmentation, evenly spaced in their order, so that all classes are among them.
"""
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parallel.listing import files_below
from parallel.manifests import training_manifest
from parallel.spectrum import joint_effective_rank
from transfer.classification import packed_sets
from transfer.classification.cache import collect
from transfer.classification.features import Pipeline
from transfer.classification.images import part
from transfer.classification.journal import Journal, keep
from transfer.classification.layouts import Samples, train_folder
from transfer.classification.small_sets import SMALL_SETS, from_torchvision
from transfer.settings import Context
from transfer.weights.backbone import Backbone

MOST = 25_600  # pictures: RankMe, section 3
# Where no task computes the features anyway: twice the width of a ResNet-50. With a ResNet-18's 512 features
# of CIFAR-10 the figure is then 98 % of that of 8,192 pictures; of 1,024 it is 87 %.
FEW = 4_096


def keep_rank(features: torch.Tensor, count: int, context: Context, journal: Journal) -> None:
    """Keep features.json, the effective rank for the record. features (n, D): this rank's part of the `count`
    training pictures' features."""
    own, chosen = part(range(count)), spaced(count, MOST)
    rows = chosen[(chosen >= own.start) & (chosen < own.stop)] - own.start
    found: dict[str, Any] = {"effective_rank": round(joint_effective_rank(features[rows]), 4),
                             "features": features.shape[1], "pictures": len(chosen)}
    keep(context, "features.json", found)
    journal.line(**found)


def keep_rank_of(backbone: Backbone, train: Samples, pipeline: Pipeline, context: Context,
                 device: torch.device, journal: Journal) -> None:
    """`keep_rank` where no features of the training pictures are there: those of a few are computed."""
    keep_rank(of_few(backbone, train, pipeline, context, device), min(len(train), FEW), context, journal)


def of_few(backbone: Backbone, train: Samples, pipeline: Pipeline, context: Context,
           device: torch.device) -> torch.Tensor:
    """This rank's part of the features of at most FEW of the pictures, which are not cached."""
    few = train.subset(spaced(len(train), FEW), train.source)
    (features, _), = collect(backbone, [few], pipeline, dataclasses.replace(context, cache=None), device)
    return features


def spaced(count: int, most: int) -> np.ndarray:
    """Numbers of at most `most` of `count` rows, evenly spaced."""
    few = min(count, most)
    return np.arange(few) * count // few


def pictures(root: Path) -> Samples:
    """The training pictures of a data set in any layout that a task reads, else all pictures below a folder.
    Their labels mean nothing. FileNotFoundError where there are none."""
    folder = train_folder(root)
    found = None if folder else training_manifest(root)
    if found:
        names, place, source = found.names, found.root, str(found.source)
    else:
        place = folder / "train" if folder else root
        tree, source = files_below(place), str(place)
        names = [os.path.join(below, file) for below in sorted(tree) for file in tree[below]]
    if not names:  # in files of many
        small = next((small for small in SMALL_SETS.values() if small.folder == root.name), None)
        if small:
            return from_torchvision(small, root.parent)[0]
        files = packed_sets.files_of(root)
        if "train" not in files:
            raise FileNotFoundError(f"{source}: expected pictures in it or below, found none")
        packed, labels = packed_sets.opened("train", files["train"])
        return packed_sets.samples(packed, labels * 0, ("picture",), packed.place)
    return Samples(place, np.array([os.fsencode(name) for name in names]), np.zeros(len(names), np.int64),
                   ("picture",), source)
