"""Labelled sets of images on disk: folders, lists (parallel/manifests.py), VOC trees.

Each reader gives a `Samples`, or one clear error where the set is missing, half empty or inconsistent.
"""
import dataclasses
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parallel import manifests
from parallel.listing import class_files, files_below, lines_of, require_files
from parallel.packed import Pixels
from parallel.parquet import Parquet
from parallel.pixels import read_picture
from parallel.voc import read_each, read_names, read_objects


@dataclass(frozen=True, eq=False)
class Samples:
    """A labelled set of images.

    root     folder that the names are relative to
    names    (N,) bytes, with forward slashes; an array, so that loader processes share its memory
    labels   (N,) int64, 0 <= label < len(classes); for VOC (N, classes) int8 in {1, 0, -1}, see `voc`
    classes  names in label order
    source   what was read, for messages
    packed   where the images are if they have no files of their own (CIFAR, npz, parquet), else None; then a
             name is an image's place in it, `b"00012"`
    title    what a record calls it, if it is no set of the catalogue (own_sets.py)
    """
    root: Path
    names: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    source: str
    packed: Pixels | Parquet | None = None
    title: str = ""

    def __len__(self):
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(bytes(self.names[index]))

    def read(self, index: int) -> bytes | np.ndarray:
        """An image as it is kept: a file's bytes, or (H, W, 3) uint8. OSError or ValueError where it cannot
        be read."""
        if self.packed is None:
            return read_picture(self.path(index))
        return self.packed.read(int(self.names[index]))

    def place(self, index: int) -> str:
        """What to call an image in messages."""
        return str(self.path(index)) if self.packed is None else self.packed.name(int(self.names[index]))

    def subset(self, indices: np.ndarray, source: str) -> "Samples":
        return dataclasses.replace(self, names=self.names[indices], labels=self.labels[indices],
                                   source=source)


def fingerprint(*sets: Samples, also: str = "") -> str:
    """sha256, 64 hex digits, over each set's sorted relative names with their labels. Pixels are not read.
    Files that hold the pictures of a set of one's own count: the places in them say nothing."""
    digest = hashlib.sha256(also.encode())
    for samples in sets:
        digest.update(f"\n{len(samples)}\n".encode())
        if samples.packed and samples.title:
            digest.update(samples.packed.fingerprint.encode())
        for index in np.argsort(samples.names, kind="stable"):
            label = str(samples.labels[index].tolist()).encode()
            digest.update(bytes(samples.names[index]) + b"\t" + label + b"\n")
    return digest.hexdigest()


# Reading the layouts

KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")  # in the archive of imagenet-object-localization-challenge
VAL = "val", "valid", "validation"  # names of the folder, the first that is there
# Which class a picture is of that lies directly in val: Kaggle's, Caffe's and mmpretrain's, Tiny ImageNet's.
TABLES = ("LOC_val_solution.csv", "val.txt", "meta/val.txt", "val/val_annotations.txt")


def split_pair(root: Path) -> tuple[Samples, Samples]:
    """(train, val) of a data set's folder, in the first layout found:

    train/CLASS/IMAGE and val/CLASS/IMAGE, or val/IMAGE with one of TABLES; the same in KAGGLE; the lists of
    manifests.py. FileNotFoundError when there is none; ValueError when the halves do not fit together.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; put the data set there or pass --data ROOT")
    folder = train_folder(root)
    if folder:
        train = image_folder(folder / "train")
        val = validation_folder(folder, root, train)
    else:
        train, val = (of_manifest(manifests.manifest(root, split), root) for split in ("train", "val"))
    require_apart(train, val)
    require_classes(train, val)
    for samples in (train, val):
        require_each(samples)
    return train, val


def train_folder(root: Path) -> Path | None:
    """The folder that has train/, if one has: root, or in it KAGGLE."""
    return next((root / place for place in ("", KAGGLE) if (root / place / "train").is_dir()), None)


def image_folder(root: Path) -> Samples:
    """root/CLASS/**/IMAGE, labels by sorted class name; errors as of listing.class_files."""
    files = class_files(root)
    labels = np.repeat(np.arange(len(files)), [len(own) for own in files.values()])
    return _samples(root, [name for own in files.values() for name in own], labels, files, str(root))


def val_folder(folder: Path) -> Path:
    """Return folder/val, or as which of VAL it is there."""
    return next((folder / name for name in VAL if (folder / name).is_dir()), folder / "val")


def validation_folder(folder: Path, root: Path, train: Samples) -> Samples:
    """The val_folder, whose images lie in folders of their classes or together in one. root: where a table
    may be, too."""
    val = val_folder(folder)
    tree = files_below(val)
    if len(tree) != 1 or not {"", "images"} & tree.keys():
        return image_folder(val)
    (place, files), = tree.items()
    real = folder.resolve()
    homes = [folder, root, *([real.parents[2]] if real.parts[-3:] == KAGGLE.parts else [])]
    table = next((home / name for home in homes for name in TABLES if (home / name).is_file()), None)
    if table is None:
        raise FileNotFoundError(
            f"{val / place}: expected folders of classes, found {len(files)} pictures directly in it; put "
            f"Kaggle's LOC_val_solution.csv, or val.txt with lines `IMAGE CLASS`, into {root}, or move each "
            "into the folder of its class, as extract_ILSVRC.sh of github.com/pytorch/examples does")
    labels = labels_by(table, files, train.classes)
    return _samples(val / place, files, labels, train.classes, f"{val} by {table}")


def labels_by(table: Path, files: list[str], classes: tuple[str, ...]) -> list[int]:
    """The label of each file by lines `IMAGE CLASS ...` with blanks, tabs or commas; a class by its name, or
    by its number in the order of names. ValueError for what only the table or only a folder has."""
    label_of = {str(label): label for label in range(len(classes))} | {
        name: label for label, name in enumerate(classes)}
    rows = [(re.split(r"[\s,]+", line) + [""])[:2] for line in lines_of(table)]
    if rows and rows[0][1] not in label_of:
        del rows[0]  # a header
    class_of = {Path(name).stem: given for name, given in rows}
    stems = {Path(file).stem for file in files}
    for odd, where in ((stems - class_of.keys(), "pictures are not listed"),
                       (class_of.keys() - stems, "listed pictures are missing"),
                       (set(class_of.values()) - label_of.keys(), "classes are not in train")):
        if odd:
            raise ValueError(f"{table}: {len(odd)} {where}, first {min(odd)!r}; fetch the list again or "
                             "complete the set")
    return [label_of[class_of[Path(file).stem]] for file in files]


def of_manifest(found: manifests.Manifest | None, root: Path) -> Samples:
    """The samples of a list; FileNotFoundError where there is none."""
    if found is None:
        raise FileNotFoundError(f"{root}: expected train/CLASS/IMAGE, train2018.json, "
                                "trainvalsplit_places205/ or train.txt, found none; complete the data set")
    return _samples(found.root, found.names, found.labels, found.classes, str(found.source))


def require_apart(train: Samples, val: Samples) -> None:
    """ValueError where an image is in both sets, or both are one folder."""
    same = np.intersect1d(train.names, val.names if train.root.resolve() == val.root.resolve() else [b""])
    if len(same):
        raise ValueError(f"{val.source}: expected other images than in {train.source}, found {len(same)} of "
                         f"them, first {os.fsdecode(bytes(same[0]))}; take them out of one")


def voc(root: Path, split: str) -> Samples:
    """A VOC tree's images with labels (N, classes) int8: 1 present, 0 only difficult ones, -1 absent.

    From ImageSets/Main/CLASS_SPLIT.txt where these are, else from the XML by the same rule.
    """
    main = root / "ImageSets" / "Main"
    ids = read_names(main / f"{split}.txt")
    require_files(root, [f"JPEGImages/{name}.jpg" for name in ids], main / f"{split}.txt")
    files = sorted(main.glob(f"*_{split}.txt"))
    present = _voc_from_lists(files, split, ids) if files else _voc_from_xml(root, ids)
    classes = sorted(present)
    labels = np.array([[present[name].get(image, -1) for name in classes] for image in ids], dtype=np.int8)
    order = np.argsort(ids, kind="stable")
    return Samples(root, np.array([f"JPEGImages/{ids[index]}.jpg".encode() for index in order]),
                   labels[order].reshape(len(ids), len(classes)), tuple(classes), f"{root} {split}")


def voc_pair(root: Path, least: int) -> list[Samples]:
    """[trainval, test] of a VOC tree with the same classes: those with a positive in either. ValueError for
    a class with fewer than `least` positives in trainval, or none in test."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; put the data set there or pass --data ROOT")
    pair = [voc(root, split) for split in ("trainval", "test")]
    require_apart(*pair)
    counts = [dict(zip(samples.classes, (samples.labels == 1).sum(0).tolist())) for samples in pair]
    classes = sorted(name for name in {*counts[0], *counts[1]} if any(count.get(name) for count in counts))
    for samples, count, needed in zip(pair, counts, (least, 1)):
        rare = [name for name in classes if count.get(name, 0) < needed]
        if rare:
            raise ValueError(f"{samples.source}: expected at least {needed} positive images of each class, "
                             f"found {count.get(rare[0], 0)} of {rare[0]}; complete the set or ask for fewer")
    return [dataclasses.replace(samples, classes=tuple(classes), labels=samples.labels[
        :, [samples.classes.index(name) for name in classes]]) for samples in pair]


def _voc_from_lists(files, split, ids):
    present = {}
    for path in files:
        rows = [line.split() for line in lines_of(path)]
        wrong = [row for row in rows if len(row) != 2 or row[1] not in ("1", "0", "-1")]
        if wrong:
            raise ValueError(f"{path}: expected lines `ID 1|0|-1`, found {' '.join(wrong[0])!r}")
        labels = {image: int(label) for image, label in rows}
        if set(labels) != set(ids):
            other = min(set(labels) ^ set(ids))
            raise ValueError(f"{path}: expected the {len(ids)} images of {split}.txt, found {len(labels)}; "
                             f"first that only one has: {other}")
        present[path.name[:-len(f"_{split}.txt")]] = labels
    return present


def _voc_from_xml(root, ids):
    present = {}
    paths = {root / "Annotations" / f"{image}.xml": image for image in ids}
    for path, (_, objects) in read_each(read_objects, paths):
        for name, difficult, _ in objects:
            labels = present.setdefault(name, {})
            labels[paths[path]] = max(labels.get(paths[path], 0), 0 if difficult else 1)
    return present


def _samples(root, names, labels, classes, source):
    return Samples(root, np.array([os.fsencode(name) for name in names]), np.array(labels, dtype=np.int64),
                   tuple(classes), source)


def stratified(labels: np.ndarray, share: Callable[[int], int], seed: int) -> np.ndarray:
    """(n,) bool: which samples are drawn, share(count) at random of each class of `count`."""
    draw, chosen = np.random.default_rng(seed), np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        chosen[draw.choice(rows, share(len(rows)), replace=False)] = True
    return chosen


def hold_out(whole: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """(the rest, the held-out part): of each class a share drawn by the seed, at least one image.

    ValueError for a class of one image.
    """
    counts = np.bincount(whole.labels, minlength=len(whole.classes))
    if counts.min() < 2:
        raise ValueError(f"{whole.source}: a part of each class is held out, which expects 2 images or more, "
                         f"found {counts.min()} of {whole.classes[counts.argmin()]}; add some, or take the "
                         "class out")
    held = stratified(whole.labels, lambda count: min(count - 1, max(1, round(share * count))), seed)
    return (whole.subset(np.flatnonzero(~held), f"{whole.source} without the held-out part"),
            whole.subset(np.flatnonzero(held), f"{whole.source}, held-out part"))


def require_each(samples: Samples) -> None:
    """ValueError for a class without an image, as there may be where numbers are the classes."""
    empty = np.flatnonzero(np.bincount(samples.labels, minlength=len(samples.classes)) == 0)
    if len(empty):
        raise ValueError(f"{samples.source}: expected images of all {len(samples.classes)} classes, "
                         f"{len(empty)} have none, first {samples.classes[empty[0]]}; complete the set, or "
                         "number its classes from 0 without gaps")


def require_classes(train: Samples, other: Samples) -> None:
    """ValueError unless both sets have the same classes in the same order; else labels would not agree."""
    if train.classes != other.classes:
        odd = min({*train.classes} ^ {*other.classes}, default="none, but their order differs")
        raise ValueError(f"{other.source}: expected the {len(train.classes)} classes of {train.source}, "
                         f"found {len(other.classes)}; first that only one has: {odd}")
