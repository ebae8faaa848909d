"""Labelled pictures that a run judges its features by."""
from typing import cast

import numpy as np
import torch
from torchvision import transforms

from parallel.collectives import all_gather_rows, rank, world_size
from pretrain.methods.method import Method
from pretrain.pictures.augment import MEAN, STD, make_backend
from pretrain.pictures.sources import Source

BATCH = 128


class LabelledPictures:
    """A source whose pictures have classes. The process reads them itself, so keep them few (thousands).

    size: side of the pictures in the network. flag: which named the source. Raises ValueError if there are no
    labels.
    """

    def __init__(self, source: Source, size: int, flag: str):
        labels = source.labels(slice(None))
        if labels is None:
            raise ValueError(f"{flag} {source.place}: expected pictures with labels, found none")
        self.source, self.flag = source, flag
        self.labels = torch.from_numpy(cast(np.ndarray, labels).astype(np.int64))
        self.decode = make_backend("pil").decode
        larger = round(size * 256 / 224) if size > 64 else size  # small data sets are used as they are
        self.look = transforms.Compose([transforms.Resize(larger), transforms.CenterCrop(size),
                                        transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.source)

    @torch.no_grad()
    def features(self, network: Method, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the backbone's features (N, width) float32 and the classes (N,), on the CPU, the same in
        every process. Every process calls it. The network keeps its mode, and no random number is drawn."""
        mode = network.training
        network.eval()
        own = range(rank(), len(self), world_size())
        features = [torch.zeros(0, network.width)]
        for first in range(0, len(own), BATCH):
            images = torch.stack([self.picture(index) for index in own[first:first + BATCH]])
            features.append(network.backbone(images.to(device)).float().cpu())
        network.train(mode)
        return all_gather_rows(torch.cat(features)), all_gather_rows(self.labels[own])

    def picture(self, index: int) -> torch.Tensor:
        try:
            return self.look(self.decode(self.source.read(index)))
        except (OSError, ValueError) as error:
            where = self.source.name(index)
            raise ValueError(f"{self.flag}: {where}: {error}; repair or remove it") from None
