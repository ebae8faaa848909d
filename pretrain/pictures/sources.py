"""Where pictures come from. `open_source` recognises image folders, text lists, npz, parquet and
webdataset's tar shards."""
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from parallel import listing, manifests
from parallel.packed import Index, Labels, Npz, Strings, pick, sha256
from parallel.parquet import Parquet
from parallel.pixels import read_picture
from parallel.split_names import kind_of
from pretrain.pictures import splits
from pretrain.pictures.downloads import DOWNLOADS
from pretrain.pictures.shards import Shards, expand, require_training

EXPECTED = ("expected a folder (train/<class>/<picture>, <class>/<picture>, tar shards or parquet files), a "
            ".txt list of pictures, .npz, .parquet, or shards as shard-{0000..0099}.tar")


class Source(Protocol):
    """Pictures that are addressed by index. An index is the same picture in every process and worker, so what
    a run sees depends on its seed alone.

    place: what was read, for the log. class_names: in the order of the labels, where they are known.
    """
    place: str
    class_names: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """sha256 of the data set, whatever folder it is in."""

    def __len__(self) -> int:
        """Return the number of pictures."""

    def read(self, index: int) -> bytes | np.ndarray:
        """Return an encoded picture, or (H, W, 3) uint8 RGB. Raises OSError or ValueError."""

    def name(self, index: int) -> str:
        """Return what to call a picture in messages."""

    def labels(self, index: Index) -> Labels:
        """Return a picture's class, an integer, or those of several."""


def parquet(paths: Sequence[Path]) -> Parquet:
    """Return the pictures of parquet files. Raises ValueError where one says that it holds others than
    those of train."""
    found = Parquet(paths)
    for path, said in found.splits.items():
        require_training(path, said)
    return found


ARCHIVES: dict[str, Callable[[list[Path]], Source]] = {".tar": Shards, ".parquet": parquet}


def open_source(path: str | Path) -> Source:
    """Return the source at a path. Raises FileNotFoundError or ValueError, one line, for what is missing or
    unknown, and where pictures to train on would be mixed with those of validation or test (splits.py)."""
    path = Path(path)
    if "{" in path.name:
        return Shards(expand(path))
    if path.is_dir():
        return open_folder(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; {EXPECTED}")
    kinds: dict[str, Callable[[Path], Source]] = {
        ".txt": Files.of_list, ".npz": Npz, ".parquet": lambda file: parquet([file]),
        ".tar": lambda file: Shards([file])}
    if path.suffix not in kinds or not path.is_file():
        raise ValueError(f"{path}: unknown kind of data; {EXPECTED}")
    return kinds[path.suffix](path)


def open_folder(path: Path) -> Source:
    """Return the pictures of a folder to train on: of a known download, of its list (manifests.py), or of the
    part of it that splits.py names."""
    if path.resolve().name in DOWNLOADS:
        return DOWNLOADS[path.resolve().name](path.resolve())
    if not (path / "train").is_dir() and (listed := manifests.training_manifest(path)):
        place = f"{listed.root}, by {listed.source.name}"
        return Files(listed.root, listed.names, listed.labels or None, place)
    splits.require_unlisted_above(path)
    endings = listing.ENDINGS + tuple(ARCHIVES)
    everything = listing.files_below(path, endings + splits.LISTS)
    tree = ending_in(everything, endings)
    loose = {"": tree.pop("", []) if len(tree) > 1 else []}  # pictures beside folders are of no class
    tree |= ending_in(loose, tuple(ARCHIVES))
    root, tree, left = splits.training_part(path, tree)
    if not tree and (path / "train").is_dir():
        root = path / "train"  # to say that it is empty
    archives = {ending: found for ending in ARCHIVES if (found := ending_in(tree, (ending,)))}
    if archives:
        source, others = archives_in(root, archives, ending_in(tree, listing.ENDINGS))
        left += others
    else:
        splits.require_unmixed(root, tree)
        if not left and kind_of(root.name)[0] is None:
            splits.require_unlisted(root, tree, ending_in(everything, splits.LISTS))
        source = Files.of_folder(root, tree)
    if pictures := ending_in(loose, listing.ENDINGS):
        left.append(f"{len(pictures[''])} pictures beside its folders")
    if left:
        source.place += f" (without {', '.join(left[:3])}{' ...' if len(left) > 3 else ''})"
    return source


def archives_in(root: Path, archives: dict[str, splits.Tree],
                pictures: splits.Tree) -> tuple[Source, list[str]]:
    """Return the shards or parquet files in one folder, and what is left out. Pictures may lie beside parquet
    files, as in the Hub's repositories. Raises ValueError where it is not clear what to take."""
    places = sorted({place for found in archives.values() for place in found})
    if len(archives) > 1 or len(places) > 1 or pictures and ".tar" in archives:
        kinds = [f"{ending} files" for ending in archives] + ["pictures"] * bool(pictures)
        raise ValueError(f"{root}: expected one kind of data in one folder, found {' and '.join(kinds)} in "
                         f"{', '.join(sorted({*places, *pictures})[:3]) or '.'}; give the folder to train on")
    (ending, found), = archives.items()
    (place, files), = found.items()
    chosen, others = splits.training_files(root / place, files)
    return ARCHIVES[ending]([root / place / file for file in chosen]), others + sorted(pictures)


def ending_in(tree: splits.Tree, endings: tuple[str, ...]) -> splits.Tree:
    """Return the part of a tree that has these endings."""
    found = {place: [file for file in files if file.lower().endswith(endings)]
             for place, files in tree.items()}
    return {place: files for place, files in found.items() if files}


# Files

class Files:
    """Picture files. The fingerprint is that of their names below `root`, since asking for the size of a
    million files takes minutes on a file server."""

    def __init__(self, root: Path, names: Iterable[str], labels: Sequence[int] | np.ndarray | None = None,
                 place: str = ""):
        self.root, self.names, self.place = str(root), Strings(names), place or str(root)
        self.classes = None if labels is None else np.asarray(labels, np.int64)
        self.class_names: tuple[str, ...] = ()
        self.fingerprint = sha256(self.names.ends, self.names.buffer)

    @classmethod
    def of_folder(cls, root: Path, tree: splits.Tree | None = None) -> "Files":
        """Read root/<class>/**/<picture>, in the order of torchvision's ImageFolder; pictures without classes
        if they all lie in root itself. tree: of listing.files_below, where it is known."""
        tree = listing.files_below(root) if tree is None else tree
        if tree.keys() == {""}:
            return cls(root, tree[""])
        files = listing.class_files(root, tree)
        labels = np.repeat(np.arange(len(files)), [len(own) for own in files.values()])
        found = cls(root, (name for own in files.values() for name in own), labels)
        found.class_names = tuple(files)
        return found

    @classmethod
    def of_list(cls, path: Path) -> "Files":
        """Read one path a line, relative to the list's folder. If every line ends with an integer, that is
        the label."""
        names, labels = listing.listed(path)
        listing.require_files(path.parent, names, path, "paths are relative to the list's folder")
        return cls(path.parent, names, labels or None, str(path))

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return os.path.join(self.root, self.names[index])

    def read(self, index: int) -> bytes:
        return read_picture(self.name(index))

    def labels(self, index: Index) -> Labels:
        return pick(self.classes, index)
