"""A labelled set of one's own, for the tasks `folder_...`: their --data is the set itself.

What counts is read as for the sets of the catalogue: FOLDER/{train,val,test}/CLASS/*, lists, npz and parquet
files (layouts.py, manifests.py, packed_sets.py), or a single list, .npz or .parquet. With test, val is left
out or, by the probe, used to decide; without it val is the test set. Where there is neither, such as in
FOLDER/CLASS/*, a fifth of each class is held out and becomes the test set, always the same pictures: its draw
depends on no seed of a run. The record and the output say so.
"""
import dataclasses
from pathlib import Path

from parallel import manifests
from parallel.listing import hidden
from parallel.split_names import splits_of
from transfer.classification import layouts, packed_sets
from transfer.classification.layouts import Samples

NAME = "folder"      # of these sets in a config; each record has its folder's own name
HELD_OUT = 0.2       # of each class: SimCLR's and our probes' share, too
Halves = tuple[Samples, Samples | None, Samples]


def read(place: Path) -> Halves:
    """(train, val or None, test) of what --data names. FileNotFoundError or ValueError, one line, where it is
    missing, or it is not clear what it holds."""
    if not place.exists():
        raise FileNotFoundError(f"{place}: no such folder; with this task --data is the folder of the "
                                "pictures itself")
    found = from_file(place) if place.is_file() else from_folder(place)
    title = place.resolve().stem if place.is_file() else place.resolve().name
    layouts.require_each(found if isinstance(found, Samples) else found[0])
    if isinstance(found, Samples):
        train, test = layouts.hold_out(found, HELD_OUT, seed=0)
        found, title = (train, None, test), f"{title} (a fifth held out)"
    train, val, test = found
    if len(train.classes) < 2:
        raise ValueError(f"{place}: expected two classes or more, found {' '.join(train.classes)} alone; put "
                         "each class into a folder of its own")
    train, test = (dataclasses.replace(half, title=title) for half in (train, test))
    return train, val and dataclasses.replace(val, title=title), test


def from_file(path: Path) -> Samples:
    """All pictures of a list, a .npz or a .parquet."""
    if path.suffix == ".txt":
        return layouts.of_manifest(manifests.file_list(path, path.parent), path.parent)
    if path.suffix in (".npz", ".parquet"):
        return packed_sets.whole({"train": [path]})
    raise ValueError(f"{path}: expected a folder, a .txt list, .npz or .parquet, found another kind of file; "
                     "give one of them with --data")


def from_folder(root: Path) -> Halves | Samples:
    """The halves of a folder, or all its pictures where it has none."""
    folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not hidden(entry.name))
    splits = splits_of(folders)
    if "train" in folders and splits:
        if odd := sorted(splits.keys() - {"train", "test", layouts.val_folder(root).name}):
            raise ValueError(f"{root}: expected train, val and test, found {', '.join(odd)} beside them; "
                             "rename it or move it elsewhere")
        return from_folders(root)
    lists = [half for half in packed_sets.HALVES if (root / f"{half}.txt").is_file()]
    if "train" in lists and lists != ["train", "val"]:
        parts = {half: from_file(root / f"{half}.txt") for half in lists}
        if lists == ["train"]:
            return parts["train"]
        for other in lists[1:]:
            layouts.require_apart(parts["train"], parts[other])
        return parts["train"], parts.get("val"), parts["test"]
    if manifests.list_of(root) or layouts.train_folder(root) == root / layouts.KAGGLE:
        train, test = layouts.split_pair(root)
        return train, None, test
    if folders == ["train"]:
        return layouts.image_folder(root / "train")
    if files := packed_sets.files_of(root):
        return packed_sets.whole(files) if files.keys() == {"train"} else packed_sets.from_files(files)
    if splits:
        raise ValueError(f"{root}: expected folders of classes, or train with test or val, found "
                         f"{', '.join(sorted(splits))}; call them so")
    return layouts.image_folder(root)


def from_folders(root: Path) -> Halves:
    """train/ and test/; without test/, val/, which may have another of VAL's names, is the test set, else an
    official val set."""
    has_test = (root / "test").is_dir()
    if not has_test:  # pictures of val may lie together in one folder
        train, test = layouts.split_pair(root)
        return train, None, test
    train = layouts.image_folder(root / "train")
    val = layouts.val_folder(root)
    return train, layouts.image_folder(val) if val.is_dir() else None, layouts.image_folder(root / "test")
