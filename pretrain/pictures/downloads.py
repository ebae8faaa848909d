"""CIFAR-10, CIFAR-100 and STL-10 as their archives leave them: pictures of one size in a few files."""
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np

from parallel.packed import LabelledPixels, sha256

SIDE = 96  # pixels of STL-10


def cifar(folder: Path) -> LabelledPixels:
    """Return the training pictures. The files are pickles: torchvision compares each with its md5 before it
    is opened. Raises ValueError where one is missing or another."""
    import torchvision

    if odd := [path for path in sorted(folder.iterdir()) if not path.is_file()]:  # a pipe would be waited for
        raise ValueError(f"{odd[0]}: expected a file, found none that can be read; fetch it again")
    kinds = {kind.base_folder: kind for kind in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100)}
    try:
        data = kinds[folder.name](folder.parent, train=True)
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"{folder}: torchvision cannot read it ({str(error).splitlines()[0]}); fetch it "
                         "again") from None
    return LabelledPixels(data.data, f"{folder} (without its test pictures)", np.array(data.targets),
                          tuple(data.classes))


class Stl10(LabelledPixels):
    """The unlabelled pictures and those of train, as published pretrainings take them (mix-bt: its
    `train+unlabeled`); the files are mapped, not read. There are no labels: most pictures have none."""

    def __init__(self, folder: Path):
        self.files = [folder / f"{half}_X.bin" for half in ("train", "unlabeled")]
        sizes = [path.stat().st_size if path.is_file() else 0 for path in self.files]
        for path, size in zip(self.files, sizes):
            if not size or size % (3 * SIDE ** 2):
                raise ValueError(f"{path}: expected {3 * SIDE ** 2:,} bytes for each picture, found "
                                 f"{size:,}; unpack stl10_binary.tar.gz again")
        # Each picture by channels and columns.
        self.parts = [np.memmap(path, np.uint8, "r").reshape(-1, 3, SIDE, SIDE).transpose(0, 3, 2, 1)
                      for path in self.files]
        super().__init__(self.parts[0], f"{folder} (without its test pictures)", None)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def read(self, index: int) -> np.ndarray:
        first = len(self.parts[0])
        return np.array(self.parts[0][index] if index < first else self.parts[1][index - first])

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the number of pictures in each file."""
        return sha256("stl10", [len(part) for part in self.parts])


DOWNLOADS: dict[str, Callable[[Path], LabelledPixels]] = {
    "cifar-10-batches-py": cifar, "cifar-100-python": cifar, "stl10_binary": Stl10}
