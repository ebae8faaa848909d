"""Labelled sets of images on disk: folders, file lists, iNaturalist's json, VOC trees.

Each reader gives a `Samples`, or one clear error where the set is missing, half empty or inconsistent.
"""
import dataclasses
import hashlib
import json
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parallel.listing import class_files, listed

PLACES205_IMAGES = "data/vision/torralba/deeplearning/images256"  # inside the official archive


@dataclass(frozen=True, eq=False)
class Samples:
    """A labelled set of images.

    root     folder that the names are relative to
    names    (N,) bytes, with forward slashes; an array, so that loader processes share its memory
    labels   (N,) int64, 0 <= label < len(classes); for VOC (N, classes) int8 in {1, 0, -1}, see `voc`
    classes  names in label order
    source   what was read, for messages
    pixels   (N, H, W, 3) uint8 if the images have no files of their own (CIFAR), else None
    """
    root: Path
    names: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    source: str
    pixels: np.ndarray | None = None

    def __len__(self):
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(bytes(self.names[index]))

    def subset(self, indices: np.ndarray, source: str) -> "Samples":
        pixels = None if self.pixels is None else self.pixels[indices]
        return Samples(self.root, self.names[indices], self.labels[indices], self.classes, source, pixels)


def fingerprint(*sets: Samples, also: str = "") -> str:
    """sha256, 64 hex digits, over each set's sorted relative names with their labels. Pixels are not read."""
    digest = hashlib.sha256(also.encode())
    for samples in sets:
        digest.update(f"\n{len(samples)}\n".encode())
        for index in np.argsort(samples.names, kind="stable"):
            label = str(samples.labels[index].tolist()).encode()
            digest.update(bytes(samples.names[index]) + b"\t" + label + b"\n")
    return digest.hexdigest()


# Reading the layouts

def split_pair(root: Path) -> tuple[Samples, Samples]:
    """(train, val) of a data set's folder, in the first layout found:

    train/CLASS/IMAGE and val/CLASS/IMAGE; iNaturalist's train2018.json and val2018.json; Places205's
    trainvalsplit_places205/train_places205.csv; train.txt and val.txt with lines `PATH LABEL`.
    FileNotFoundError when there is none; ValueError when the halves do not fit together.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; put the data set there or pass --data ROOT")
    lists = root / "trainvalsplit_places205"
    if (root / "train").is_dir():
        train, val = (image_folder(root / split) for split in ("train", "val"))
    elif (root / "train2018.json").is_file():
        train, val = (inaturalist(root, f"{split}2018.json") for split in ("train", "val"))
    elif lists.is_dir():
        train, val = (file_list(lists / f"{split}_places205.csv", root / PLACES205_IMAGES)
                      for split in ("train", "val"))
    elif (root / "train.txt").is_file():
        train, val = (file_list(root / f"{split}.txt", root) for split in ("train", "val"))
    else:
        raise FileNotFoundError(f"{root}: expected train/CLASS/IMAGE, train2018.json, "
                                "trainvalsplit_places205/ or train.txt, found none; complete the data set")
    require_classes(train, val)
    for samples in (train, val):
        empty = np.flatnonzero(np.bincount(samples.labels, minlength=len(train.classes)) == 0)
        if len(empty):
            raise ValueError(f"{samples.source}: expected images of all {len(train.classes)} classes, "
                             f"{len(empty)} have none, first {train.classes[empty[0]]}; complete the set")
    return train, val


def image_folder(root: Path) -> Samples:
    """root/CLASS/**/IMAGE, labels by sorted class name; errors as of listing.class_files."""
    files = class_files(root)
    labels = np.repeat(np.arange(len(files)), [len(own) for own in files.values()])
    return _samples(root, [name for own in files.values() for name in own], labels, files, str(root))


def file_list(path: Path, images: Path) -> Samples:
    """Lines `PATH LABEL`, paths relative to `images`, labels from 0; see listing.listed."""
    names, labels = listed(path, labelled=True)
    require_files(images, names, path)
    return _samples(images, names, labels, [str(label) for label in range(max(labels) + 1)], str(path))


def inaturalist(root: Path, file: str) -> Samples:
    """The official COCO-style json: images[id, file_name], annotations[image_id, category_id], categories.

    Labels follow the sorted category ids; each image has exactly one annotation.
    """
    path = root / file
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected iNaturalist's list of images")
    try:
        content = json.loads(path.read_text())
        files = {image["id"]: image["file_name"] for image in content["images"]}
        category = {entry["image_id"]: entry["category_id"] for entry in content["annotations"]}
        ids = sorted(entry["id"] for entry in content["categories"])
        label_of = {number: label for label, number in enumerate(ids)}
        rows = sorted((files[number], label_of[category[number]]) for number in files)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not iNaturalist's json ({type(error).__name__}: {error}); "
                         "fetch it again") from None
    if not rows:
        raise ValueError(f"{path}: expected images, found none")
    names, labels = zip(*rows)
    require_files(root, names, path)
    return _samples(root, names, labels, [str(number) for number in ids], str(path))


def voc(root: Path, split: str) -> Samples:
    """A VOC tree's images with labels (N, classes) int8: 1 present, 0 only difficult ones, -1 absent.

    From ImageSets/Main/CLASS_SPLIT.txt where these are, else from the XML by the same rule.
    """
    main = root / "ImageSets" / "Main"
    ids = [line.split()[0] for line in _lines(main / f"{split}.txt")]
    if not ids:
        raise ValueError(f"{main / split}.txt: expected image ids, found none")
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
        rows = [line.split() for line in _lines(path)]
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
    for image in ids:
        path = root / "Annotations" / f"{image}.xml"
        try:
            objects = ElementTree.parse(path).getroot().iter("object")
            for item in objects:
                labels = present.setdefault(item.findtext("name").strip(), {})
                difficult = (item.findtext("difficult") or "0").strip() == "1"
                labels[image] = max(labels.get(image, 0), 0 if difficult else 1)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: no such file, expected the image's objects") from None
        except (ElementTree.ParseError, AttributeError) as error:
            raise ValueError(f"{path}: not a VOC annotation ({error}); fetch it again") from None
    return present


def _samples(root, names, labels, classes, source):
    return Samples(root, np.array([os.fsencode(name) for name in names]), np.array(labels, dtype=np.int64),
                   tuple(classes), source)


def _lines(path):
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; complete the data set")
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def stratified(labels: np.ndarray, share: Callable[[int], int], seed: int) -> np.ndarray:
    """(n,) bool: which samples are drawn, share(count) at random of each class of `count`."""
    draw, chosen = np.random.default_rng(seed), np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        chosen[draw.choice(rows, share(len(rows)), replace=False)] = True
    return chosen


def require_classes(train: Samples, other: Samples) -> None:
    """ValueError unless both sets have the same classes in the same order; else labels would not agree."""
    if train.classes != other.classes:
        odd = min({*train.classes} ^ {*other.classes}, default="none, but their order differs")
        raise ValueError(f"{other.source}: expected the {len(train.classes)} classes of {train.source}, "
                         f"found {len(other.classes)}; first that only one has: {odd}")


def require_files(root: Path, names: Sequence[str], source: Path | str) -> None:
    """FileNotFoundError unless every listed image exists. Lists each folder once: cheap on network drives."""
    found = {}
    missing = []
    for name in names:
        folder, _, file = name.rpartition("/")
        if folder not in found:
            found[folder] = set(os.listdir(root / folder)) if (root / folder).is_dir() else set()
        if file not in found[folder]:
            missing.append(name)
    if missing:
        raise FileNotFoundError(f"{source}: {len(missing)} of {len(names)} listed images are missing, first "
                                f"{root / missing[0]}; complete the data set")
