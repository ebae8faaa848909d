"""Online kNN accuracy: how well the backbone's features separate known classes, from the start of a run.

This is a quick look at a run on a small labelled set. The number for a table is transfer's task imagenet_knn.
As there, 20 neighbours vote with weight exp(similarity / 0.07) on l2-normalised features.
"""
from pathlib import Path

import torch
from torch.nn import functional

from pretrain.methods.method import Method
from pretrain.pictures.sources import open_source
from pretrain.upkeep.labelled import LabelledPictures

NEIGHBOURS, TEMPERATURE = 20, 0.07


class Labelled:
    """A labelled set: a folder with train and val, each a source with labels (sources.py), where val is
    judged by its neighbours in train; or any other source, where each picture is judged by all others. Raises
    ValueError or FileNotFoundError if there are no such pictures or no labels.
    """

    def __init__(self, root: Path, size: int):
        root = Path(root)
        apart = (root / "train").is_dir() and (root / "val").is_dir()
        self.pictures = [LabelledPictures(open_source(root / part), size, "--knn-data")
                         for part in (("train", "val") if apart else (".",))]

    def accuracy(self, network: Method, device: torch.device) -> float:
        """Return the percentage of pictures whose neighbours vote for their class. Every process calls it.
        The network keeps its mode, and no random number is drawn."""
        known, asked = (one.features(network, device) for one in (self.pictures[0], self.pictures[-1]))
        return vote(functional.normalize(known[0], dim=1), known[1], functional.normalize(asked[0], dim=1),
                    asked[1], alone=len(self.pictures) == 1)


def vote(known: torch.Tensor, classes: torch.Tensor, asked: torch.Tensor, answers: torch.Tensor,
         alone: bool = False) -> float:
    """Return the percentage of right answers. known (K, F), classes (K,), asked (N, F), answers (N,). alone:
    the pictures asked are the known ones, and none may vote for itself."""
    right = 0
    for first in range(0, len(asked), 1024):
        similarity = asked[first:first + 1024] @ known.T
        if alone:
            similarity[torch.arange(len(similarity)), first + torch.arange(len(similarity))] = -torch.inf
        nearest, index = similarity.topk(min(NEIGHBOURS, len(known) - alone))
        votes = torch.zeros(len(similarity), int(classes.max()) + 1)
        votes.scatter_add_(1, classes[index], (nearest / TEMPERATURE).exp())
        right += int((votes.argmax(1) == answers[first:first + 1024]).sum())
    return 100 * right / len(asked)
