"""Where pictures come from. `open_source` recognises image folders, text lists, npz, parquet and
webdataset's tar shards."""
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from parallel.listing import class_files, listed
from pretrain.pictures.packed import Index, Labels, Strings, first_line, pick, sha256
from pretrain.pictures.parquet import Parquet
from pretrain.pictures.shards import Shards, expand

EXPECTED = ("expected a folder (train/<class>/<picture>, <class>/<picture>, tar shards or parquet files), a "
            ".txt list of pictures, .npz, .parquet, or shards as shard-{0000..0099}.tar")


class Source(Protocol):
    """Pictures that are addressed by index. An index is the same picture in every process and worker, so what
    a run sees depends on its seed alone.

    fingerprint: sha256 of the data set, whatever folder it is in.
    """
    fingerprint: str

    def __len__(self) -> int:
        """Return the number of pictures."""

    def read(self, index: int) -> bytes | np.ndarray:
        """Return an encoded picture, or (H, W, 3) uint8 RGB. Raises OSError or ValueError."""

    def name(self, index: int) -> str:
        """Return what to call a picture in messages."""

    def labels(self, index: Index) -> Labels:
        """Return a picture's class, an integer, or those of several."""


def open_source(path: str | Path) -> Source:
    """Return the source at a path. Raises FileNotFoundError or ValueError, one line, for what is missing or
    unknown."""
    path = Path(path)
    if "{" in path.name:
        return Shards(expand(path))
    if (path / "train").is_dir():
        path = path / "train"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; {EXPECTED}")
    if path.is_dir():
        for folder in (path, path / "data"):  # the Hugging Face Hub keeps parquet files in data/
            for ending, kind in ((".tar", Shards), (".parquet", Parquet)):
                if files := sorted(folder.glob("[!.]*" + ending)):
                    return kind(of_training(files))
        return Files.of_folder(path)
    kinds: dict[str, Callable[[Path], Source]] = {
        ".txt": Files.of_list, ".npz": Npz, ".parquet": lambda file: Parquet([file]),
        ".tar": lambda file: Shards([file])}
    if path.suffix not in kinds:
        raise ValueError(f"{path}: unknown kind of data; {EXPECTED}")
    return kinds[path.suffix](path)


def of_training(files: list[Path]) -> list[Path]:
    """Return the files with the word train in their names, or all if there are none. Validation and test
    pictures often lie beside them, as in train-00000-of-00294.parquet and
    validation-00000-of-00014.parquet."""
    return [file for file in files if re.search(r"(?<![^\W_])train(?![^\W_])", file.stem)] or files


# Files

class Files:
    """Picture files. The fingerprint is that of their names below `root`, since asking for the size of a
    million files takes minutes on a file server."""

    def __init__(self, root: Path, names: Iterable[str], labels: Sequence[int] | np.ndarray | None = None):
        self.root, self.names = str(root), Strings(names)
        self.classes = None if labels is None else np.asarray(labels, np.int64)
        self.fingerprint = sha256(self.names.ends, self.names.buffer)

    @classmethod
    def of_folder(cls, root: Path) -> "Files":
        """Read root/<class>/**/<picture>, in the order of torchvision's ImageFolder."""
        classes = {entry.name for entry in root.iterdir() if entry.is_dir()}
        if root.name != "train" and {"val", "test"} & classes:
            raise FileNotFoundError(f"{root}: has {', '.join(sorted(classes)[:3])} but no train; expected "
                                    "DATA/train/<class>/<picture>, or the folder of the classes itself")
        files = class_files(root).values()
        labels = np.repeat(np.arange(len(files)), [len(own) for own in files])
        return cls(root, (name for own in files for name in own), labels)

    @classmethod
    def of_list(cls, path: Path) -> "Files":
        """Read one path a line, relative to the list's folder. If every line ends with an integer, that is
        the label."""
        names, labels = listed(path)
        first = path.parent / names[0]
        if not first.is_file():
            raise FileNotFoundError(f"{path}: its first picture {first} does not exist; paths are relative "
                                    "to the list's folder")
        return cls(path.parent, names, labels or None)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return os.path.join(self.root, self.names[index])

    def read(self, index: int) -> bytes:
        return Path(self.name(index)).read_bytes()

    def labels(self, index: Index) -> Labels:
        return pick(self.classes, index)


# Small pictures, held in memory

class Npz:
    """images (N, H, W, 3), or (N, H, W) and (N, H, W, 1) for grey ones, uint8; labels (N,) integers if there
    are any."""

    def __init__(self, path: Path):
        try:
            with np.load(path, allow_pickle=False) as archive:
                found = archive.files
                images = archive["images"] if "images" in found else None
                labels = archive["labels"] if "labels" in found else None
            with zipfile.ZipFile(path) as file:  # np.load would take a bare .npy, too
                checksums = sorted((one.filename, one.CRC, one.file_size) for one in file.infolist())
        except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: cannot be read as npz ({first_line(error)}); write it again") from None
        if images is None:
            raise ValueError(f"{path}: expected an array named images, found {', '.join(found) or 'none'}")
        if images.ndim == 3:
            images = images[..., None]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not len(images):
            raise ValueError(f"{path}: expected images as uint8 (N, H, W, 3), found {images.dtype} "
                             f"{images.shape}")
        if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu"):
            raise ValueError(f"{path}: expected {len(images)} integers as labels, found {labels.dtype} "
                             f"{labels.shape}")
        self.path, self.images, self.classes = str(path), images, labels
        self.fingerprint = sha256(checksums)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"{self.path}[{index}]"

    def read(self, index: int) -> np.ndarray:
        image = self.images[index]
        return image.repeat(3, axis=2) if image.shape[2] == 1 else image

    def labels(self, index: Index) -> Labels:
        return pick(self.classes, index)
