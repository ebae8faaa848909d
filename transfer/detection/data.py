"""The detection data sets by the names that Detectron2's YAML uses, and the check that one is complete.

A data set is one entry of SETS. Imports no Detectron2: checking needs neither it nor a model.
"""

import functools
import hashlib
import json
import os
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from transfer.settings import nearest

VOC_CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
               "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
               "tvmonitor")


@dataclass(frozen=True)
class VocSet:
    """root/folder with Annotations/, JPEGImages/ and ImageSets/Main/<split>.txt.

    year: 2007 is evaluated by the 11-point AP of that year's challenge, 2012 by the area under the curve.
    """

    folder: str
    split: str
    year: int
    classes: tuple[str, ...] = VOC_CLASSES


@dataclass(frozen=True)
class CocoSet:
    """root/coco/<images>/ and root/coco/annotations/<annotations>."""

    images: str
    annotations: str


@dataclass(frozen=True)
class Listing:
    """What a check found: number of images, class names in order, a hash of labels and image file sizes."""

    images: int
    classes: tuple[str, ...]
    fingerprint: str


SETS = {
    "voc_2007_trainval": VocSet("VOC2007", "trainval", 2007),
    "voc_2007_train": VocSet("VOC2007", "train", 2007),
    "voc_2007_val": VocSet("VOC2007", "val", 2007),
    "voc_2007_test": VocSet("VOC2007", "test", 2007),
    "voc_2012_trainval": VocSet("VOC2012", "trainval", 2012),
    "voc_2012_train": VocSet("VOC2012", "train", 2012),
    "voc_2012_val": VocSet("VOC2012", "val", 2012),
    "coco_2017_train": CocoSet("train2017", "instances_train2017.json"),
    "coco_2017_val": CocoSet("val2017", "instances_val2017.json"),
    # Blood cells (github.com/Shenggan/BCCD_Dataset), VOC layout: small enough to learn something on a CPU
    "bccd_trainval": VocSet("BCCD", "trainval", 2012, ("RBC", "WBC", "Platelets")),
    "bccd_test": VocSet("BCCD", "test", 2012, ("RBC", "WBC", "Platelets")),
}


def find(name):
    """Return the entry of SETS; ValueError with the nearest names for an unknown one."""
    if name not in SETS:
        raise ValueError(f"unknown data set {name!r}; {nearest(name, SETS)}")
    return SETS[name]


def check(name, root):
    """Return the Listing of a data set under `root`, having looked at every listed label and image file.

    Images are not decoded. FileNotFoundError or ValueError, one line, where something is missing or wrong.
    """
    entry = find(name)
    if isinstance(entry, VocSet):
        return _check_voc(entry, Path(root) / entry.folder)
    return _check_coco(entry, Path(root) / "coco")


def read_voc(path):
    """Return ((width, height), [(class name, [xmin, ymin, xmax, ymax], difficult)]) of a VOC annotation file.

    Pixels, 1-based and inclusive as in the file; some of VOC 2012 are no integers. ValueError where it is no
    such file.
    """
    try:
        tree = ET.parse(path).getroot()
        size = tree.find("size")
        objects = []
        for item in tree.findall("object"):
            box = item.find("bndbox")
            corners = [float(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax")]
            objects.append((item.findtext("name"), corners, bool(int(item.findtext("difficult", "0")))))
        return (int(size.findtext("width")), int(size.findtext("height"))), objects
    except (ET.ParseError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a VOC annotation with size and objects, found {error}; "
                         "unpack the data set again") from None


def voc_split(folder, split):
    """Return the image names of ImageSets/Main/<split>.txt in order; the file must list something."""
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    _demand(path)
    names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{path}: expected image names, found none; unpack the data set again")
    return names


def _check_voc(entry, folder):
    names = voc_split(folder, entry.split)
    labels, sizes = _files(folder / "Annotations"), _files(folder / "JPEGImages")
    _demand_all(folder / "Annotations", [f"{name}.xml" for name in names], labels)
    _demand_all(folder / "JPEGImages", [f"{name}.jpg" for name in names], sizes)
    digest = hashlib.sha256()
    for name in names:
        path = folder / "Annotations" / f"{name}.xml"
        for label, (xmin, ymin, xmax, ymax), _ in read_voc(path)[1]:
            if label not in entry.classes:
                raise ValueError(f"{path}: unknown class {label!r}; expected {', '.join(entry.classes)}")
            if xmax < xmin or ymax < ymin:
                raise ValueError(f"{path}: expected a box, found {xmin, ymin, xmax, ymax}; repair the file")
        digest.update(f"{name} {sizes[name + '.jpg']} ".encode() + path.read_bytes())
    return Listing(len(names), entry.classes, digest.hexdigest())


def _check_coco(entry, folder):
    path, images = folder / "annotations" / entry.annotations, folder / entry.images
    _demand(path)
    state = path.stat()
    names, classes, label_hash = _read_coco(path, state.st_size, state.st_mtime_ns)
    sizes = _files(images)
    _demand_all(images, names, sizes)
    digest = hashlib.sha256(label_hash.encode())
    digest.update("".join(f"{name} {sizes[name]}\n" for name in names).encode())
    return Listing(len(names), classes, digest.hexdigest())


@functools.lru_cache(maxsize=4)  # the training file has 450 MB: seconds to parse; size and time tell it apart
def _read_coco(path, size, modified):
    """Return (image file names, class names, sha256) of a COCO annotation file that belongs together."""
    raw = path.read_bytes()
    try:
        truth = json.loads(raw)
        names = tuple(image["file_name"] for image in truth["images"])
        classes = tuple(item["name"] for item in sorted(truth["categories"], key=lambda item: item["id"]))
        images, categories = ({item["id"] for item in truth[kind]} for kind in ("images", "categories"))
        foreign = sum(item["image_id"] not in images or item["category_id"] not in categories
                      for item in truth["annotations"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected COCO's images, annotations and categories, found "
                         f"{type(error).__name__} ({str(error)[:80]}); download it again") from None
    if not names or foreign:
        raise ValueError(f"{path}: expected images and their annotations, found {len(names)} images and "
                         f"{foreign} annotations of unknown images or categories; download it again")
    return names, classes, hashlib.sha256(raw).hexdigest()


def _demand(path):
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the official layout under --data")


def _files(folder):
    """Return {file name: bytes}, from one pass over the folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected the official layout under --data")
    return {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()}


def _demand_all(folder, names, sizes):
    missing = [name for name in names if not sizes.get(name)]  # an empty file counts as missing
    if missing:
        raise FileNotFoundError(f"{folder}: {len(missing)} of {len(names)} listed files are missing or "
                                f"empty, first {missing[0]}; unpack the data set again")
