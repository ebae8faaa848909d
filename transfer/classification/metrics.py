"""Counts of top-k hits, and average precision as VOC defines it."""
import numpy as np
import torch

from parallel.collectives import all_reduce_sum


def topk_correct(scores: torch.Tensor, labels: torch.Tensor, ks: tuple[int, ...]) -> torch.Tensor:
    """scores (n, classes), labels (n,) -> (len(ks),) int64: how many labels are among the k highest scores.

    Of equal scores the lower class comes first. With k >= classes every label counts. ValueError for scores
    that are not finite, which would otherwise rank anyhow.
    """
    if not torch.isfinite(scores).all():
        raise ValueError("scores are not finite, so there is no accuracy; lower the learning rate")
    own = scores.gather(1, labels.view(-1, 1))
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels.view(-1, 1)
    place = ((scores > own) | ((scores == own) & earlier)).sum(1)
    return torch.stack([(place < k).sum() for k in ks])


def percent(correct: torch.Tensor, count: int) -> list[float]:
    """Hits (m,) and number of samples on this rank -> percent over all ranks. Sums first, one division."""
    total = all_reduce_sum(torch.cat([correct.cpu(), torch.tensor([count])]))
    return [100 * hits / total[-1].item() for hits in total[:-1].tolist()]


def confusion(truth: torch.Tensor, predicted: torch.Tensor, classes: int) -> torch.Tensor:
    """truth and predicted (n,) -> (classes, classes) int64: how often a class (row) was called a class."""
    return torch.bincount(truth * classes + predicted, minlength=classes ** 2).view(classes, classes)


def mean_per_class(matrix: torch.Tensor) -> float:
    """Accuracy in percent, averaged over the classes that have samples; matrix as of `confusion`."""
    totals = matrix.sum(1)
    present = totals > 0
    return (100 * matrix.diagonal()[present].double() / totals[present]).mean().item()


def average_precision(scores: np.ndarray | torch.Tensor, labels: np.ndarray | torch.Tensor,
                      method: str = "area") -> float:
    """AP in percent. scores (n,); labels (n,): 1 positive, -1 negative, 0 ignored (only difficult objects).

    Precision at a recall is the highest at that recall or beyond. "area": area under that curve, all points
    (VOC from 2010; VISSL svm_utils/evaluate.py). "11point": its mean at recalls 0, 0.1, ... 1 (VOC 2007).
    Equal scores are one threshold, so the samples' order does not matter. ValueError without a positive.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    scores, positive = scores[labels != 0], labels[labels != 0] == 1
    if not positive.any():
        raise ValueError("average precision expected at least one positive label, found none")
    if not np.isfinite(scores).all():
        raise ValueError("average precision expected finite scores")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last of each equal run
    hits = np.cumsum(positive[order])[ends]
    precision = np.maximum.accumulate((hits / (ends + 1))[::-1])[::-1]
    if method == "area":
        return float(100 * np.sum(np.diff(hits, prepend=0) * precision) / hits[-1])
    if method == "11point":
        # In whole numbers: a recall of 3 of 10 reaches the point 0.3, which floats would deny.
        reached = [precision[10 * hits >= tenth * hits[-1]] for tenth in range(11)]
        return float(100 * np.mean([points.max() for points in reached]))
    raise ValueError(f"method: expected area or 11point, found {method!r}")
