"""Online kNN accuracy: how far the features of the backbone separate known classes, from the start.

A quick look at a run on a small labelled set; the number for a table is transfer's task imagenet_knn.
Weighted vote exp(similarity / 0.07) of 20 neighbours on l2-normalised features, as there.
"""
from pathlib import Path

import torch
from torch.nn import functional
from torchvision import transforms

from parallel.collectives import all_gather_rows, rank, world_size
from pretrain.pictures.augment import MEAN, STD, make_backend
from pretrain.pictures.sources import open_source

NEIGHBOURS, TEMPERATURE = 20, 0.07
BATCH = 128


class Labelled:
    """A folder with train and val, each a source with labels (sources.py): val is judged by its neighbours in
    train. Any other source: each picture by all others. Pictures are read in the process itself, so keep them
    few (thousands). ValueError and FileNotFoundError when there are no such pictures or no labels.
    """

    def __init__(self, root: Path, size: int):
        root = Path(root)
        apart = (root / "train").is_dir() and (root / "val").is_dir()
        self.sources = [open_source(root / part) for part in (("train", "val") if apart else (".",))]
        if any(source.labels(0) is None for source in self.sources):
            raise ValueError(f"--knn-data {root}: expected pictures with labels, found them without")
        self.decode = make_backend("pil", size).decode
        larger = round(size * 256 / 224) if size > 64 else size  # small data sets are used as they are
        self.look = transforms.Compose([transforms.Resize(larger), transforms.CenterCrop(size),
                                        transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    @torch.no_grad()
    def accuracy(self, network, device) -> float:
        """Percent of pictures whose neighbours vote for their class. Called by every process; the network
        comes back in the mode it came in, and no random number is drawn."""
        mode = network.training
        network.eval()
        known, asked = (self.features(network, device, one) for one in (self.sources[0], self.sources[-1]))
        network.train(mode)
        return vote(*known, *asked, alone=len(self.sources) == 1)

    def features(self, network, device, source):
        """(pictures, width) normalised features and (pictures,) labels, both on the CPU."""
        own = range(rank(), len(source), world_size())
        features = [torch.zeros(0, network.width)]
        for first in range(0, len(own), BATCH):
            images = torch.stack([self.picture(source, index) for index in own[first:first + BATCH]])
            features.append(functional.normalize(network.backbone(images.to(device)).float(), dim=1).cpu())
        labels = torch.tensor([int(source.labels(index)) for index in own], dtype=torch.int64)
        return all_gather_rows(torch.cat(features)), all_gather_rows(labels)

    def picture(self, source, index):
        try:
            return self.look(self.decode(source.read(index)))
        except (OSError, ValueError) as error:
            raise ValueError(f"--knn-data: {source.name(index)}: {error}; repair or remove it") from None


def vote(known, classes, asked, answers, alone=False) -> float:
    """known (K, F), classes (K,), asked (N, F), answers (N,): percent right. alone: asked are the known ones,
    and none may vote for itself."""
    right = 0
    for first in range(0, len(asked), 1024):
        similarity = asked[first:first + 1024] @ known.T
        if alone:
            similarity[torch.arange(len(similarity)), first + torch.arange(len(similarity))] = -torch.inf
        nearest, index = similarity.topk(min(NEIGHBOURS, len(known) - alone))
        votes = torch.zeros(len(similarity), int(classes.max()) + 1)
        votes.scatter_add_(1, classes[index], (nearest / TEMPERATURE).exp())
        right += (votes.argmax(1) == answers[first:first + 1024]).sum().item()
    return 100 * right / len(asked)
