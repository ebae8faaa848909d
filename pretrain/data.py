"""Unlabelled batches of two views from an image folder."""
import os
import signal
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.datasets.folder import IMG_EXTENSIONS

from pretrain.augment import two_views


def image_files(root: Path) -> list[str]:
    """The pictures of root/<class>/**, classes and files in alphabetical order, as torchvision's ImageFolder
    lists them. FileNotFoundError for a missing root and where classes hold no picture."""
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected DATA/train/<class>/<picture>")
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if not classes:
        raise FileNotFoundError(f"{root}: no class folders in it; expected DATA/train/<class>/<picture>")
    files, empty = [], []
    for name in classes:
        own = [os.path.join(folder, file)
               for folder, _, found in sorted(os.walk(root / name, followlinks=True))
               for file in sorted(found) if file.lower().endswith(IMG_EXTENSIONS)]
        files += own
        empty += [name] if not own else []
    if empty:
        raise FileNotFoundError(f"{root}: {len(empty)} of {len(classes)} class folders hold no picture, "
                                f"first {empty[0]}; complete the data or remove the folder")
    return files


class TwoViews(Dataset):
    """Item (epoch, index) -> two views, each (3, size, size) float32, normalised."""

    def __init__(self, files, size, seed):
        self.files, self.size, self.seed = files, size, seed

    def __len__(self):
        return len(self.files)

    def __getitem__(self, item):
        epoch, index = item
        try:
            with Image.open(self.files[index]) as file:
                image = file.convert("RGB")
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{self.files[index]}: not a readable picture ({reason}); repair or remove it") \
                from None
        return two_views(image, self.size, self.seed, epoch, index)


class EpochBatches(Sampler):
    """This process's share of each whole batch of an epoch, as lists of (epoch, index).

    The order is DistributedSampler's: a permutation from seed + epoch, dealt out in turn. The last,
    incomplete batch is left out: C is divided by the batch size, which has to be the true one. The joint
    batches do not depend on the number of processes.
    """

    def __init__(self, images, batch_size, processes, rank, seed):
        if batch_size % processes:
            raise ValueError(f"--batch-size {batch_size} does not divide by {processes} processes; "
                             f"choose a multiple of {processes}")
        if images < batch_size:
            raise ValueError(f"--batch-size {batch_size} is more than the {images} pictures of the data set; "
                             "lower it")
        self.images, self.batch_size, self.processes = images, batch_size, processes
        self.rank, self.seed, self.epoch = rank, seed, 0

    def __len__(self):
        return self.images // self.batch_size

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.images, generator=generator).tolist()
        for first in range(0, len(self) * self.batch_size, self.batch_size):
            own = order[first + self.rank:first + self.batch_size:self.processes]
            yield [(self.epoch, index) for index in own]


def build_loader(files, config, workers, processes, rank, pin_memory) -> DataLoader:
    """Batches (y1, y2) of this process; set `loader.batch_sampler.epoch` before each epoch."""
    batches = EpochBatches(len(files), config.batch_size, processes, rank, config.seed)
    views = TwoViews(files, config.image_size, config.seed)
    return DataLoader(views, batch_sampler=batches, num_workers=workers, pin_memory=pin_memory,
                      persistent_workers=workers > 0, worker_init_fn=_leave_quietly)


def _leave_quietly(_):
    """Ctrl-C and a job's SIGTERM reach workers too; only the trainer answers for them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def one_line(error: ValueError) -> ValueError:
    """A worker's error comes wrapped in its traceback; its last line is what we said."""
    return ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: "))
