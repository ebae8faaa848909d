"""kNN on frozen features: each validation image takes the weighted vote of its nearest training images.

Not in the Barlow Twins paper; reported for its checkpoint by VICReg (arXiv 2105.04906, appendix D.3, Table
11) and mmselfsup. Features: L2-normalised 2048-d average pool, resize 256 and centre crop 224 on both sets;
vote weight exp(cosine similarity / 0.07) (mmselfsup test_knn.py, DINO's rule). Expected for Barlow Twins,
1000 epochs, by VICReg's table: 64.8 with k = 20 and 62.9 with k = 200.

    python transfer/run.py --task imagenet_knn --weights bt.pth --data /data
"""
from dataclasses import dataclass

import torch
from torch.nn import functional

from pretrain.distributed import all_gather_rows, local_device
from transfer.classification import data as images
from transfer.classification import layouts
from transfer.classification.features import assert_frozen, dtype_of, exact_float32, extract, freeze
from transfer.classification.journal import Journal, bar

QUERIES = 512  # validation images compared at once: 512 x 1.28 M similarities are 2.6 GB on one process


@dataclass(frozen=True)
class Config:
    """Defaults: mmselfsup's weights with VICReg's two k."""
    dataset: str = "imagenet"        # folder under the data root
    k: tuple[int, ...] = (20, 200)   # each gives a metric top1_k<k>
    temperature: float = 0.07        # of the vote's weight; 0.1 in lightly and VISSL
    image_size: int = 224            # both sets: resize to this x 256 / 224, centre crop
    precision: str = "float32"       # of the backbone; bfloat16 moves features by 4e-3


def data(config: Config, context) -> dict:
    """Name, counts and fingerprint of the data set; ValueError when a k exceeds its training images."""
    train, val = layouts.split_pair(context.data / config.dataset)
    check(config, len(train), train.source)
    return {"name": config.dataset, "counts": {"train": len(train), "val": len(val)},
            "fingerprint": layouts.fingerprint(train, val)}


def check(config: Config, count: int, source: str) -> None:
    """ValueError for a k that is no number of neighbours, or a temperature that is no scale."""
    if not config.k or min(config.k) < 1 or max(config.k) > count:
        raise ValueError(f"k: expected values from 1 to the {count} training images of {source}, "
                         f"found {config.k}")
    if config.temperature <= 0:
        raise ValueError(f"temperature: expected a value above 0, found {config.temperature}")
    dtype_of(config.precision)


def run(backbone, config: Config, context) -> dict[str, float]:
    """{"top1_k20", "top1_k200"} (one per config.k), percent. A resumed run computes the features anew."""
    device, journal = local_device(context.device), Journal(context)
    pair = layouts.split_pair(context.data / config.dataset)
    check(config, len(pair[0]), pair[0].source)
    with exact_float32():
        network = freeze(backbone, device, config.precision)
        (bank, bank_labels), (queries, truth) = [
            extract(network, images.Images(samples, config.image_size, augment=False), context, device,
                    config.precision, f"features of {samples.source}") for samples in pair]
        assert_frozen(network, backbone, config.precision)
        queries, truth = all_gather_rows(queries), all_gather_rows(truth)
        votes = predict(bank, bank_labels, queries, len(pair[0].classes), config, device)
    metrics = {f"top1_k{k}": 100 * (vote == truth).sum().item() / len(truth)
               for k, vote in zip(config.k, votes)}
    journal.line(**metrics)
    return metrics


def predict(bank, bank_labels, queries, classes: int, config: Config, device) -> list[torch.Tensor]:
    """Predicted classes (m,) on the CPU, one tensor per config.k.

    bank (n_r, 2048) with bank_labels (n_r,): this rank's part of the training set, which stays where it is;
    queries (m, 2048): all of them on every rank. Each rank finds its own nearest, then the lists are merged.
    """
    bank = functional.normalize(bank, dim=1).to(device)
    bank_labels, most = bank_labels.to(device), max(config.k)
    votes = [[] for _ in config.k]
    for chunk in bar(queries.split(QUERIES), "neighbours"):
        similarities = bank @ functional.normalize(chunk, dim=1).to(device).T  # (n_r, chunk)
        near, places = similarities.topk(min(most, len(bank)), dim=0)
        near, labels = all_gather_rows(near), all_gather_rows(bank_labels[places])
        near, places = near.topk(most, dim=0)  # (most, chunk), nearest first
        labels = labels.gather(0, places)
        # Less its largest, which no vote notices, so that a small temperature cannot overflow.
        weights = ((near - near[:1]) / config.temperature).exp()
        for found, k in zip(votes, config.k):
            totals = weights.new_zeros(classes, near.shape[1]).scatter_add_(0, labels[:k], weights[:k])
            found.append(totals.argmax(0).cpu())
    return [torch.cat(found) for found in votes]
