"""Batches of views from any source of pictures, even if some pictures are damaged.

A sample depends on (seed, epoch, index) alone, so the number of workers changes nothing. A picture that
cannot be read or decoded is replaced by another one, which also depends on (seed, epoch, index) alone. The
damaged picture is counted and named.
"""
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from parallel import signals
from pretrain.pictures.augment import Backend
from pretrain.pictures.sources import Source
from pretrain.recipe import Recipe

REPLACEMENTS = 20  # this many unreadable pictures in a row are no accident
PAUSES = (1.0, 5.0)  # seconds before a failed read is tried again: file servers have bad moments

Failures = list[tuple[str, str]]  # (name, reason) of pictures that were unusable
Sample = tuple[tuple[torch.Tensor, ...], Failures]


class Samples(Dataset):
    """Item (epoch, index) -> what backend.views returns, if labelled with the picture's class behind it, and
    the failures on the way."""

    def __init__(self, source: Source, backend: Backend, seed: int, labelled: bool = False):
        self.source, self.backend, self.seed, self.labelled = source, backend, seed, labelled

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        epoch, index = item
        failures: Failures = []
        chosen = index
        draw = random.Random(f"{self.seed} {epoch} {index} replacement")
        while len(failures) < REPLACEMENTS:
            try:
                picture = self.backend.decode(patiently(self.source, chosen))
            except (OSError, ValueError) as error:
                failures.append((self.source.name(chosen), reason(error)))
                chosen = draw.randrange(len(self.source))
            else:
                views = self.backend.views(picture, self.seed, epoch, index)
                if self.labelled:
                    views = *views, torch.as_tensor(self.source.labels(chosen), dtype=torch.int64)
                return views, failures
        name, why = failures[0]
        raise ValueError(f"{name}: {why}; none of {REPLACEMENTS - 1} other pictures could be used instead; "
                         "repair the data")


def patiently(source: Source, index: int) -> bytes | np.ndarray:
    """Read a picture, up to three times."""
    for pause in PAUSES:
        try:
            return source.read(index)
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(pause)
    return source.read(index)


def reason(error: Exception) -> str:
    """Return an error's message as one line, without the path that OSError repeats."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]


class EpochBatches(Sampler):
    """This process's share of each whole batch of an epoch, as lists of (epoch, index).

    The order is DistributedSampler's: a permutation from seed + epoch, dealt out in turn. The last,
    incomplete batch is left out, because C is divided by the batch size, which must be the true one. The
    joint batches do not depend on the number of processes.

    Set `epoch`; set `start` to continue within an epoch, without the steps before it. len() is always that of
    a whole epoch.
    """

    def __init__(self, images: int, batch_size: int, processes: int, rank: int, seed: int):
        if batch_size % processes:
            raise ValueError(f"--batch-size {batch_size} does not divide by {processes} processes; "
                             f"choose a multiple of {processes}")
        if images < batch_size:
            raise ValueError(f"--batch-size {batch_size} is more than the {images} pictures of the data set; "
                             "lower it")
        self.images, self.batch_size, self.processes = images, batch_size, processes
        self.rank, self.seed, self.epoch, self.start = rank, seed, 0, 0

    def __len__(self) -> int:
        return self.images // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.images, generator=generator)
        for step in range(self.start, len(self)):
            first = step * self.batch_size
            own = order[first + self.rank:first + self.batch_size:self.processes]
            yield [(self.epoch, index) for index in own.tolist()]


class Loader(DataLoader):
    """Batches for `backend.finish`. In this process, since its start:

    replaced        samples that were made from another picture than their own
    bad_pictures    {name: reason} of the pictures that could not be read or decoded
    record          the file that gets one line for each of them, over all processes and restarts; or None
    """

    batch_sampler: EpochBatches

    def __init__(self, views: Samples, record: Path | None = None, **options: Any):
        super().__init__(views, collate_fn=collate, **options)
        self.backend, self.record = views.backend, None if record is None else Path(record)
        self.replaced = 0
        self.bad_pictures: dict[str, str] = {}

    def __iter__(self) -> Iterator[list[torch.Tensor]]:  # type: ignore[override]
        for batch, failures in super().__iter__():
            self.replaced += len(failures)
            for name, why in (one for sample in failures for one in sample):
                if name not in self.bad_pictures:
                    self.bad_pictures[name] = why
                    self.note(name, why)
            yield batch

    def note(self, name: str, why: str) -> None:
        """Add a line to the record, unless it already names the picture."""
        if self.record is None:
            return
        with open(self.record, "a+", encoding="utf-8", errors="surrogateescape") as file:
            file.seek(0)
            if not any(line.startswith(name + "\t") for line in file):
                file.write(f"{name}\t{why}\n")


def collate(samples: list[Sample]) -> tuple[list[torch.Tensor], list[Failures]]:
    """Return the batch of views and the failures of the samples that had any."""
    views, failures = zip(*samples)
    return default_collate(list(views)), [one for one in failures if one]


def epoch_batches(source: Source, recipe: Recipe, processes: int, rank: int = 0) -> EpochBatches:
    """Return the batches of a process. Raises ValueError if the batch cannot be dealt out: to the processes,
    to their micro-batches, or from so few pictures; or if the method needs other labels than there are."""
    if rank >= processes:
        raise ValueError(f"expected a process below {processes}, found process {rank}: torchrun's processes "
                         "are no group yet; train inside `with parallel.groups.joined():`")
    if recipe.labelled:
        recipe.check_labels(cast(np.ndarray | None, source.labels(slice(None))))
    batches = EpochBatches(len(source), recipe.batch_size, processes, rank, recipe.seed)
    if recipe.batch_size % (processes * recipe.accumulate):
        raise ValueError(f"--accumulate {recipe.accumulate}: the batch of {recipe.batch_size} does not "
                         f"divide by {processes} processes times {recipe.accumulate} micro-batches")
    return batches


def build_loader(source: Source, backend: Backend, config: Recipe, workers: int, processes: int, rank: int,
                 pin_memory: bool, record: Path | None = None, labelled: bool = False) -> Loader:
    """Return the loader of this process. Set `loader.batch_sampler.epoch` (and `start`) before each epoch;
    the backend finishes the batches on the device. record: see Loader. labelled: see Samples."""
    batches = epoch_batches(source, config, processes, rank)
    return Loader(Samples(source, backend, config.seed, labelled), record, batch_sampler=batches,
                  num_workers=workers, pin_memory=pin_memory, persistent_workers=workers > 0,
                  worker_init_fn=signals.loader_worker)


def one_line(error: ValueError) -> ValueError:
    """Return a worker's error without the traceback it comes wrapped in: its last line is what we said."""
    return ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: "))
