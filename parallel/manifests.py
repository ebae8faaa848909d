"""The lists of pictures with which data sets come, where the folders do not say which split a picture is of.

    iNaturalist   train2018.json val2018.json (also 2017, 2019, 2021); train.json or train_mini.json, val.json
    Places205     trainvalsplit_places205/{train,val}_places205.csv, data/vision/.../images256
    Places365     places365_train_standard.txt places365_val.txt; data_256 val_256, or data_large val_large
    plain         train.txt val.txt, lines `PATH LABEL`
    VOC           ImageSets/Main/trainval.txt, for pretraining alone: no labels

Needs no torch.
"""
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from parallel.listing import lines_of, listed, repeated, require_files, text_of

MOST_CLASSES = 1_000_000
INAT = ("train", "train_mini")
PLACES205 = "data/vision/torralba/deeplearning/images256"  # inside the official archive
PLACES365 = {"train": ("data_256", "data_256_standard", "data_large", "data_large_standard"),
             "val": ("val_256", "val_large")}


@dataclass(frozen=True)
class Manifest:
    """Which pictures a split has. names: paths below root, each once, of files that are there. labels: of 0
    to len(classes) - 1, or empty. source: the list."""
    root: Path
    names: list[str]
    labels: list[int]
    classes: tuple[str, ...]
    source: Path


def list_of(root: Path) -> Path | None:
    """Return the list of a data set's training pictures, None where it comes with none."""
    names = [f"{name}{year}.json" for year in ("2017", "2018", "2019", "2021") for name in INAT]
    names += [f"{name}.json" for name in INAT if (root / "val.json").is_file()]
    names += ["trainvalsplit_places205/train_places205.csv", "places365_train_standard.txt", "train.txt"]
    return next((root / name for name in names if (root / name).is_file()), None)


def manifest(root: Path, split: str) -> Manifest | None:
    """Return a data set's list for "train" or "val", None where it comes with none. Raises FileNotFoundError
    or ValueError, one line, for a list that is missing, damaged or not of the pictures that are there."""
    source = list_of(root)
    if source is None:
        return None
    own = source if split == "train" else source.with_name(
        re.sub(r"train(_mini|(?<=places365_train)_standard)?", "val", source.name))
    if source.suffix == ".json":
        return inaturalist(own)
    if source.suffix == ".csv":
        return file_list(own, root / PLACES205)
    if source.name == "train.txt":
        return file_list(own, root)
    images = [root / name for name in PLACES365[split] if (root / name).is_dir()]
    if not images:
        raise FileNotFoundError(f"{own}: expected its pictures in {' or '.join(PLACES365[split])}, found "
                                "none; complete the data set")
    return file_list(own, images[0], "/")


def training_manifest(root: Path) -> Manifest | None:
    """Return the list of a data set's pictures to train on, or None; for VOC those of trainval."""
    source = root / "ImageSets" / "Main" / "trainval.txt"
    if not (root / "JPEGImages").is_dir() or not source.is_file():
        return manifest(root, "train")
    names = [f"JPEGImages/{line.split()[0]}.jpg" for line in lines_of(source)]
    require_files(root, names, source)
    return Manifest(root, names, [], (), source)


def first_line(source: Path) -> str:
    """Return the beginning of a list."""
    with open(source, encoding="utf-8-sig", errors="replace") as file:
        return file.readline(4096)


def file_list(source: Path, images: Path, before: str = "") -> Manifest:
    """Lines `PATH LABEL`, paths relative to `images` behind `before`, labels from 0; see listing.listed."""
    names, labels = listed(source, labelled=True)
    names = [name.removeprefix(before) for name in names]
    _require_once(names, source)
    if max(labels) > MOST_CLASSES:
        raise ValueError(f"{source}: expected class numbers up to {MOST_CLASSES:,}, found {max(labels)}; "
                         "number the classes from 0 without gaps")
    require_files(images, names, source)
    return Manifest(images, names, labels, tuple(str(label) for label in range(max(labels) + 1)), source)


def inaturalist(source: Path) -> Manifest:
    """The official COCO-style json: images[id, file_name], annotations[image_id, category_id], categories.

    Labels follow the sorted category ids; each image has exactly one annotation.
    """
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file, expected iNaturalist's list of images")
    text = text_of(source)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: not iNaturalist's json ({error}); fetch it again") from None
    try:
        files = _unique(source, "image", ((row["id"], row["file_name"]) for row in content["images"]))
        category = _unique(source, "annotation of image", (
            (row["image_id"], row["category_id"]) for row in content["annotations"]), files.get)
        ids = sorted(_unique(source, "category", ((row["id"], None) for row in content["categories"])))
        label_of = {number: label for label, number in enumerate(ids)}
        for odd, what in ((files.keys() - category.keys(), "an annotation of image"),
                          (category.keys() - files.keys(), "an entry of image"),
                          (set(category.values()) - label_of.keys(), "an entry of category")):
            if odd:
                raise ValueError(f"{source}: expected {what} {files.get(first := min(odd), first)}, found "
                                 f"none, nor of {len(odd) - 1} others; fetch the json again")
        rows = sorted((os.path.normpath(name), label_of[category[number]]) for number, name in files.items())
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{source}: not iNaturalist's json ({type(error).__name__}: {error}); "
                         "fetch it again") from None
    if not rows:
        raise ValueError(f"{source}: expected images, found none")
    names, labels = (list(column) for column in zip(*rows))
    _require_once(names, source)
    require_files(source.parent, names, source)
    return Manifest(source.parent, names, labels, tuple(str(number) for number in ids), source)


def _unique(source: Path, what: str, pairs, name_of: Callable = lambda key: None) -> dict:
    """Return {key: value}; ValueError for a key that is there twice."""
    found: dict = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{source}: expected one {what} {name_of(key) or key}, found two; remove one")
        found[key] = value
    return found


def _require_once(names: list[str], source: Path) -> None:
    if again := repeated(names):
        raise ValueError(f"{source}: {again[0]} is listed twice; list each picture once")
