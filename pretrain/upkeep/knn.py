"""Online kNN accuracy: how well the backbone's features separate known classes, from the start of a run.

This is a quick look at a run on a small labelled set. The number for a table is transfer's task imagenet_knn.
As there, 20 neighbours vote with weight exp(similarity / 0.07) on l2-normalised features.
"""
from pathlib import Path
from typing import cast

import torch
from torch.nn import functional
from torchvision import transforms

from parallel.collectives import all_gather_rows, rank, world_size
from pretrain.methods.method import Method
from pretrain.pictures.augment import MEAN, STD, make_backend
from pretrain.pictures.sources import Source, open_source

NEIGHBOURS, TEMPERATURE = 20, 0.07
BATCH = 128


class Labelled:
    """A labelled set: a folder with train and val, each a source with labels (sources.py), where val is
    judged by its neighbours in train; or any other source, where each picture is judged by all others. The
    process reads the pictures itself, so keep them few (thousands). Raises ValueError or FileNotFoundError if
    there are no such pictures or no labels.
    """

    def __init__(self, root: Path, size: int):
        root = Path(root)
        apart = (root / "train").is_dir() and (root / "val").is_dir()
        self.sources = [open_source(root / part) for part in (("train", "val") if apart else (".",))]
        if any(source.labels(0) is None for source in self.sources):
            raise ValueError(f"--knn-data {root}: expected pictures with labels, found none")
        self.decode = make_backend("pil").decode
        larger = round(size * 256 / 224) if size > 64 else size  # small data sets are used as they are
        self.look = transforms.Compose([transforms.Resize(larger), transforms.CenterCrop(size),
                                        transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    @torch.no_grad()
    def accuracy(self, network: Method, device: torch.device) -> float:
        """Return the percentage of pictures whose neighbours vote for their class. Every process calls it.
        The network keeps its mode, and no random number is drawn."""
        mode = network.training
        network.eval()
        known, asked = (self.features(network, device, one) for one in (self.sources[0], self.sources[-1]))
        network.train(mode)
        return vote(*known, *asked, alone=len(self.sources) == 1)

    def features(self, network: Method, device: torch.device,
                 source: Source) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (pictures, width) normalised features and (pictures,) labels, both on the CPU."""
        own = range(rank(), len(source), world_size())
        features = [torch.zeros(0, network.width)]
        for first in range(0, len(own), BATCH):
            images = torch.stack([self.picture(source, index) for index in own[first:first + BATCH]])
            features.append(functional.normalize(network.backbone(images.to(device)).float(), dim=1).cpu())
        # There are labels: __init__ refuses a source without.
        labels = torch.tensor([int(cast(int, source.labels(index))) for index in own], dtype=torch.int64)
        return all_gather_rows(torch.cat(features)), all_gather_rows(labels)

    def picture(self, source: Source, index: int) -> torch.Tensor:
        try:
            return self.look(self.decode(source.read(index)))
        except (OSError, ValueError) as error:
            raise ValueError(f"--knn-data: {source.name(index)}: {error}; repair or remove it") from None


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
