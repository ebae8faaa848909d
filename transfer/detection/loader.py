"""Training batches as a function of seed and iteration, through Detectron2's loader and mapper.

Detectron2 draws an endless shuffled stream of images, reads it with N workers, augments with the worker's own
random state and groups images by aspect ratio. Here the n-th place of the stream decides the image and the
augmentation. Neither the number of workers nor an interruption changes a batch.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    DatasetMapper,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.utils import comm
from torch.utils.data import Dataset, IterableDataset

from parallel import signals


def mix(*numbers: int) -> int:
    """Return one 63-bit seed of several small non-negative integers; neighbours give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) & (2**63 - 1)


class Stream(Dataset):
    """Images in an endless shuffled order: place n is image order(epoch of n)[n within the epoch]."""

    def __init__(self, images: list[dict], seed: int):
        """images: Detectron2 data-set dicts, with "width" and "height"."""
        self.wide = [image["width"] > image["height"] for image in images]  # as Detectron2 groups them
        self.images = DatasetFromList(images, copy=False)
        self.seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self.wide)

    def index(self, place: int) -> int:
        """Return the number of the image at a place (0, 1, ...)."""
        epoch, offset = divmod(place, len(self))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mix(self.seed, epoch))
            self._epoch, self._order = epoch, torch.randperm(len(self), generator=generator).tolist()
        return self._order[offset]

    def __getitem__(self, place: int) -> dict:
        return {**self.images[self.index(place)], "place": place}


class Places:
    """This rank's places of a Stream: rank, rank + ranks, ..., from the batch number `start` on."""

    def __init__(self, stream: Stream, batch: int, grouped: bool, start: int, rank: int, ranks: int):
        """batch: images of one rank's batch. grouped: whether batches are made by aspect ratio."""
        self.stream, self.batch, self.grouped, self.start = stream, batch, grouped, start
        self.rank, self.ranks = rank, ranks

    def __iter__(self) -> Iterator[int]:
        place, waiting = self.rank, []
        if self.grouped:  # replay it: half-filled groups are still waiting when batch `start` begins
            groups: tuple[list[int], list[int]] = ([], [])
            done = 0
            while done < self.start:
                group = groups[self.stream.wide[self.stream.index(place)]]
                group.append(place)
                if len(group) == self.batch:
                    group.clear()
                    done += 1
                place += self.ranks
            waiting = sorted(groups[0] + groups[1])
        else:
            place += self.start * self.batch * self.ranks
        yield from waiting
        yield from itertools.count(place, self.ranks)


class Shares(IterableDataset):
    """The images at places, dealt out to the loader's workers so that batches are the same with any number of
    them. The loader asks one worker after the other: for an image where batches are made by aspect ratio, for
    a batch otherwise. Detectron2 would deal out single images in 0.6, and batches since."""

    def __init__(self, places: Places):
        self.places, self.turn = places, 1 if places.grouped else places.batch

    def __iter__(self) -> Iterator[dict]:
        worker = torch.utils.data.get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for count, place in enumerate(self.places):
            if count // self.turn % workers == number:
                yield self.places.stream[place]


class NamingMapper(DatasetMapper):
    """Detectron2's mapper, with an error that names an unreadable image; Pillow's own does not."""

    def __call__(self, image: dict) -> dict | None:
        try:
            return super().__call__(image)
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{image['file_name']}: unreadable image ({error}); replace or remove it") \
                from None


class SeededMapper(NamingMapper):
    """The same with augmentations drawn from the seed and the place in the stream."""

    def __init__(self, config: CfgNode, seed: int):
        super().__init__(config, is_train=True)
        self.seed, self.in_worker = seed, False

    def __call__(self, image: dict) -> dict | None:
        if torch.utils.data.get_worker_info() and not self.in_worker:
            self.in_worker = True  # Detectron2 has no place to say it when a worker starts
            signals.loader_worker()
        state = np.random.get_state()
        np.random.seed(mix(self.seed, image["place"]) % 2**32)  # Detectron2 draws from NumPy's global state
        try:
            return super().__call__(image)
        finally:
            np.random.set_state(state)


class TrainLoader:
    """Iterable of this rank's micro-batches (lists of Detectron2's dicts) from number `start` on.

    There are SOLVER.ACCUMULATE of them in an iteration, of IMS_PER_BATCH / ACCUMULATE images over all ranks.
    The loader behind it is built at the first one; until then `start` may be set from a checkpoint.
    """

    def __init__(self, config: CfgNode):
        self.config, self.start = config, 0
        images = get_detection_dataset_dicts(config.DATASETS.TRAIN,
                                             filter_empty=config.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
        self.stream = Stream(images, mix(config.SEED, 1))
        self.mapper = SeededMapper(config, mix(config.SEED, 2))

    def __iter__(self) -> Iterator[list[dict]]:
        config, ranks = self.config, comm.get_world_size()
        total = config.SOLVER.IMS_PER_BATCH // config.SOLVER.ACCUMULATE
        grouped = config.DATALOADER.ASPECT_RATIO_GROUPING
        places = Places(self.stream, total // ranks, grouped, self.start, comm.get_rank(), ranks)
        batches = iter(build_detection_train_loader(
            Shares(places), mapper=self.mapper, total_batch_size=total, aspect_ratio_grouping=grouped,
            num_workers=config.DATALOADER.NUM_WORKERS))
        with torch.random.fork_rng(devices=[]):  # torch's loader starts by drawing from the global generator
            first = next(batches)
        yield first
        yield from batches
