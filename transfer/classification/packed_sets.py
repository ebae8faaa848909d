"""Sets whose images have no files of their own: npz and parquet files, and STL-10's binary files."""
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from parallel.listing import files_below, lines_of
from parallel.packed import Npz, Pixels
from parallel.parquet import Parquet
from transfer.classification.layouts import Samples

HALVES = ("train", "val", "test")  # the names of their files begin so
SIDE, KINDS = 96, 10  # of STL-10


def samples(packed: Pixels | Parquet, labels: Sequence[int] | np.ndarray, classes: Iterable[str],
            source: str) -> Samples:
    """All pictures of `packed`, named by their places."""
    names = np.array([f"{index:05d}".encode() for index in range(len(packed))])
    return Samples(Path(), names, np.asarray(labels, np.int64), tuple(classes), source, packed)


def files_of(root: Path) -> dict[str, list[Path]]:
    """{half: its npz or parquet files} at any depth below a folder, by how their names begin: train, val,
    test. {} where there are none."""
    if not root.is_dir():
        return {}
    files = [root / place / name for place, own in files_below(root, (".npz", ".parquet")).items()
             for name in own]
    found = {half: sorted(file for file in files if file.name.lower().startswith(half)) for half in HALVES}
    return {half: own for half, own in found.items() if own}


def from_files(files: dict[str, list[Path]]) -> tuple[Samples, Samples | None, Samples]:
    """(train, val or None, test) of files_of; without test, val is the test set. Classes are numbers.
    ValueError for files without labels, or of which it is not clear what they hold."""
    halves = {half: opened(half, own) for half, own in files.items()}
    if "train" not in halves or len(halves) < 2:
        first = next(iter(files.values()))[0]
        raise ValueError(f"{first.parent}: expected npz or parquet files of train and "
                         f"of test or val, found those of {' and '.join(files)}; name them so")
    classes = tuple(map(str, range(1 + max(int(labels.max()) for _, labels in halves.values()))))
    found = {half: samples(packed, labels, classes, packed.place)
             for half, (packed, labels) in halves.items()}
    if "test" not in found:
        return found["train"], None, found["val"]
    return found["train"], found.get("val"), found["test"]


def whole(files: dict[str, list[Path]]) -> Samples:
    """The pictures of the one half that there is. ValueError as of from_files."""
    (half, own), = files.items()
    packed, labels = opened(half, own)
    return samples(packed, labels, map(str, range(1 + int(labels.max()))), packed.place)


def opened(half: str, files: list[Path]) -> tuple[Npz | Parquet, np.ndarray]:
    """The pictures of one half's files, and their labels (N,)."""
    if {file.suffix for file in files} == {".parquet"}:
        packed: Npz | Parquet = Parquet(files)
    elif len(files) == 1:
        packed = Npz(files[0])
    else:
        raise ValueError(f"{files[0].parent}: expected one npz file or parquet files of {half}, found "
                         f"{', '.join(file.name for file in files[:3])}; leave one kind there")
    if packed.classes is None or packed.classes.min() < 0:
        raise ValueError(f"{packed.place}: expected a label from 0 of each picture, found others or none; "
                         "write it again with labels")
    for said in getattr(packed, "splits", {}).values():
        if len(said) > 1:
            raise ValueError(f"{packed.place}: expected pictures of {half}, found the splits "
                             f"{', '.join(sorted(said))} in one file; write each into files of its own")
    return packed, packed.classes


def stl10(root: Path) -> tuple[Samples, None, Samples]:
    """{train,test}_{X,y}.bin of stl10_binary: each picture by channels and columns, labels from 1. The
    unlabelled pictures are not needed. ValueError where the files' sizes do not fit together."""
    folder = root / "stl10_binary"
    names = folder / "class_names.txt"
    classes = lines_of(names) if names.is_file() else [str(label) for label in range(KINDS)]
    found = []
    for half in ("train", "test"):
        paths = [folder / f"{half}_{what}.bin" for what in "Xy"]
        if missing := [path for path in paths if not path.is_file()]:
            raise FileNotFoundError(f"{missing[0]}: no such file; unpack stl10_binary.tar.gz again")
        images, labels = (np.fromfile(path, np.uint8) for path in paths)
        if len(images) != len(labels) * 3 * SIDE ** 2 or not len(labels):
            raise ValueError(f"{paths[0]}: expected {3 * SIDE ** 2:,} bytes for each of {len(labels)} labels "
                             f"in {paths[1].name}, found {len(images):,}; fetch it again")
        if labels.min() < 1 or labels.max() > len(classes):
            raise ValueError(f"{paths[1]}: expected labels from 1 to {len(classes)}, found "
                             f"{labels.min()} to {labels.max()}; fetch it again")
        pixels = images.reshape(-1, 3, SIDE, SIDE).transpose(0, 3, 2, 1)
        source = f"{folder} {half}"
        found.append(samples(Pixels(pixels, source), labels.astype(np.int64) - 1, classes, source))
    return found[0], None, found[1]
