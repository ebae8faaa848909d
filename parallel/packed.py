"""Pictures that have no files of their own: .npz; and helpers for all data sources: many strings in little
memory, fingerprints. Needs no torch."""
import hashlib
import os
import zipfile
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

Index = int | slice | np.ndarray  # of one picture, or of several
Labels = np.integer | np.ndarray | None  # theirs; None where there are none


class Strings:
    """Many strings in one buffer. A list of a million strings would gradually be copied into every worker of
    a data loader, since reference counting writes to their memory."""

    def __init__(self, strings: Iterable[str | os.PathLike[str]]):
        encoded = [os.fsencode(string) for string in strings]
        self.ends = np.cumsum([len(one) for one in encoded], dtype=np.int64)
        self.buffer = np.frombuffer(b"".join(encoded), np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.buffer[start:self.ends[index]].tobytes())


def sha256(*parts: object) -> str:
    """Return the hash of arrays and of what can be written as text, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else f"{part}\n".encode())
    return digest.hexdigest()


def pick(labels: np.ndarray | None, index: Index) -> Labels:
    return None if labels is None else labels[index]


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


class Pixels:
    """Pictures in memory: images (N, H, W, 3) or, grey, (N, H, W, 1) uint8. place: what to call them."""

    def __init__(self, images: np.ndarray, place: str):
        self.images, self.place = images, place

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all pixels."""
        return sha256(np.ascontiguousarray(self.images))

    @property
    def version(self) -> str:
        """What changes with the pictures."""
        return self.fingerprint

    def name(self, index: int) -> str:
        return f"{self.place}[{index}]"

    def read(self, index: int) -> np.ndarray:
        image = self.images[index]
        return image.repeat(3, axis=2) if image.shape[2] == 1 else image


class LabelledPixels(Pixels):
    """Pictures in memory with their classes (N,), integers, or None. class_names: in the order of the labels,
    where they are known."""

    def __init__(self, images: np.ndarray, place: str, classes: np.ndarray | None,
                 class_names: tuple[str, ...] = ()):
        super().__init__(images, place)
        self.classes, self.class_names = classes, class_names

    def labels(self, index: Index) -> Labels:
        return pick(self.classes, index)


class Npz(LabelledPixels):
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
        super().__init__(images, str(path), labels)
        self.checksums = checksums

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the check sums in the file."""
        return sha256(self.checksums)
