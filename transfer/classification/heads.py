"""Linear heads on frozen features: the one of a protocol, or the many of a sweep on the same features.

A sweep trains a head for each learning rate and weight decay at once. The backbone, nearly all of the cost,
runs once for all of them, and each head is trained exactly as it would be alone: the same first weights, the
same batches, its own optimiser state. Nothing is chosen on the validation set. Instead a share of each class
is held out of train, and no head sees it; the head with the best top-1 there after the last epoch is the
result. A sweep's heads therefore learn from fewer images than the protocol's head.
"""
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from parallel.batchnorm import convert_sync_batchnorm
from transfer.classification.metrics import percent, topk_correct
from transfer.classification.training import linear_head

if TYPE_CHECKING:
    from transfer.classification.linear import Config


class Heads(nn.Module):
    """features (n, width) -> list of logits (n, classes), one of each head; batch norm, if any, is shared."""

    def __init__(self, count: int, width: int, classes: int, initial_std: float, batch_norm: bool, seed: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False) if batch_norm else nn.Identity()
        self.layers = nn.ModuleList(linear_head(classes, width, initial_std, seed) for _ in range(count))

    def forward(self, features: torch.Tensor) -> list[torch.Tensor]:
        features = self.norm(features)
        return [layer(features) for layer in self.layers]


def make_heads(config: "Config", width: int, classes: int, seed: int, device: torch.device) -> Any:
    """A head for each pair of config.grid, float64 for that precision, else float32."""
    dtype = torch.float64 if config.precision == "float64" else torch.float32
    heads = Heads(len(config.grid), width, classes, config.initial_std, config.batch_norm, seed)
    return convert_sync_batchnorm(heads.to(device, dtype))


@torch.inference_mode()
def score(heads: Heads, number: int, features: torch.Tensor, labels: torch.Tensor,
          device: torch.device) -> tuple[list[float], torch.Tensor]:
    """([top1, top5] in percent over all ranks, this rank's predicted classes (n,)) of one head.

    features (n, width) and labels (n,) are this rank's part.
    """
    heads.eval()
    layer, correct = heads.layers[number], torch.zeros(2, dtype=torch.int64, device=device)
    predicted = [labels[:0]]
    for chunk, truth in zip(features.split(8192), labels.split(8192)):
        logits = layer(heads.norm(chunk.to(device)))
        correct += topk_correct(logits, truth.to(device), (1, 5))
        predicted.append(logits.argmax(1).cpu())
    return percent(correct, len(labels)), torch.cat(predicted)


def choose(heads: Heads, losses: list[float], features: torch.Tensor, labels: torch.Tensor,
           device: torch.device) -> tuple[int, list]:
    """(number of the best head, top1 of each in percent, None where it diverged) on this rank's part of the
    held-out images; of equal heads the first. losses: of each head, see `training.mean_losses`."""
    figures = []
    for number, layer in enumerate(heads.layers):
        finite = math.isfinite(losses[number]) and all(torch.isfinite(p).all() for p in layer.parameters())
        figures.append(score(heads, number, features, labels, device)[0][0] if finite else None)
    alive = {number: figure for number, figure in enumerate(figures) if figure is not None}
    if not alive:
        raise ValueError("every head of the sweep has diverged; lower sweep_learning_rates")
    return max(alive, key=alive.__getitem__), figures
