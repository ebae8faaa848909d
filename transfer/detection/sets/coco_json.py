"""COCO's annotation file, looked at as the run reads it.

That is Detectron2's load_coco_json and mapper, whose training stops at a traceback or leaves objects out
where an annotation is not as expected, and the measurement of coco.figures. What would end a run or make its
figures wrong is a fault here; what changes nothing is none. docs/detection.md lists both.
"""

import functools
import hashlib
import json
import os
import re
import secrets
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from parallel.voc import leads_out
from transfer.detection.sets.contract import RARE, Faults, Use, misplaced, require_objects

MOST_AREA = 1e10  # pycocotools counts no object beyond
FAR = 10_000      # pixels from the picture; pycocotools goes round an outline step by step
Size = tuple[int, int]  # width, height

# Sound polygons of three points and more in the text of a file. They are nine tenths of it, and five times as
# fast to recognise as to parse.
_SPACE = rb"[ \t\r\n]*"
_NUMBER, _COMMA = rb"(?:0|[1-9]\d{0,3})(?:\.\d+)?", _SPACE + rb"," + _SPACE
_POINT = _NUMBER + _COMMA + _NUMBER
_POLYGON = rb"\[" + _SPACE + _POINT + rb"(?:" + _COMMA + _POINT + rb"){2,}" + _SPACE + rb"\]"
SOUND = re.compile(rb'("segmentation"' + _SPACE + rb":" + _SPACE + rb")\[" + _SPACE + _POLYGON
                   + rb"(?:" + _COMMA + _POLYGON + rb")*" + _SPACE + rb"\]")


@dataclass(frozen=True)
class Labels:
    """What an annotation file says: names and sizes of the images, in its order, classes in that of their
    ids, whether any object has an outline; and what is wrong, by what a run does with it."""

    path: Path
    names: list[str]
    sizes: list[Size]
    classes: tuple[str, ...]
    masks: bool
    count: int   # annotations
    useful: int  # of them neither crowds nor without area
    faults: dict[str, Faults]

    def refuse(self, use: Use) -> None:
        """ValueError, one line, where the file does not serve a use."""
        self.faults["any"].refuse()
        require_objects(self.path, self.useful, self.count, use)
        outlines = use.masks and self.masks
        for group, counts in (("measured", use.measures), ("measured outlines", use.measures and outlines),
                              ("trained outlines", use.trains and outlines),
                              ("run lengths", use.trains and outlines and use.polygons)):
            if counts:
                self.faults[group].refuse()

    def refuse_boxes(self) -> None:
        """The same where too many boxes are useless; to be asked once the sizes are known to be right."""
        self.faults["odd"].refuse(self.count // RARE)


@functools.lru_cache(maxsize=4)  # the training file has 450 MB: seconds to parse; size and time tell it apart
def sha256(path: Path, size: int, modified: int) -> str:
    """Return the hash of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2 ** 24):
            digest.update(block)
    return digest.hexdigest()


@functools.lru_cache(maxsize=4)
def read(path: Path, size: int, modified: int) -> Labels:
    """Return the Labels of an annotation file. ValueError where it has not COCO's three lists."""
    sound = secrets.token_hex(8)  # stands for the outlines that need no further look
    images, annotations, categories = _lists(path, sound)
    reading = _Reading(path, sound)
    classes = reading.categories(categories)
    reading.images(images)
    for item in annotations:
        reading.annotation(item)
    return Labels(path, [name for name, _ in reading.pictures.values()],
                  [size for _, size in reading.pictures.values()], classes, reading.masks, len(annotations),
                  reading.useful, reading.faults)


def _lists(path, sound):
    raw = path.read_bytes()
    try:
        try:
            truth = json.loads(SOUND.sub(rb'\1"%s"' % sound.encode(), raw).decode())
        except ValueError:
            truth = json.loads(raw.decode())  # the error's place is then that in the file
    except (ValueError, RecursionError) as error:  # pycocotools wants UTF-8 without a mark, too
        raise ValueError(f"{path}: expected JSON in UTF-8, found {str(error)[:100]}; download it again or "
                         "write it anew") from None
    lists = truth if isinstance(truth, dict) else {}
    for kind in ("images", "annotations", "categories"):
        rows = lists.get(kind)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{path}: expected COCO's images, annotations and categories, found no list of "
                             f"objects as {kind!r}; download it again or complete it")
    return lists["images"], lists["annotations"], lists["categories"]


class _Reading:
    """The file's rows, one after the other."""

    def __init__(self, path: Path, sound: str) -> None:
        self.path, self.sound = path, sound
        self.faults = {group: Faults() for group in ("any", "odd", "measured", "measured outlines",
                                                     "trained outlines", "run lengths")}
        self.pictures: dict[int, tuple[str, Size]] = {}
        self.kinds: set[int] = set()
        self.ids: set[Any] = set()
        self.masks, self.useful = False, 0

    def categories(self, rows) -> tuple[str, ...]:
        """Take the categories; return their names in the order of their ids."""
        names: dict[int, str] = {}
        for number, row in enumerate(rows):
            key, name, add = row.get("id"), row.get("name"), self.faults["any"].add
            where = f"{self.path}: category {key!r} (number {number})"
            if not _is_number(key) or key in names:
                add(where, "an id of its own, a whole number from 0", repr(key), "number the categories")
            elif not isinstance(name, str) or not name.strip() or name in names.values():
                add(where, "a name of its own", repr(name), "name the categories")
            else:
                names[key] = name
        if not rows:
            self.faults["any"].add(str(self.path), "categories", "none", "complete them")
        self.kinds = set(names)
        return tuple(names[number] for number in sorted(names))

    def images(self, rows) -> None:
        """Take the images."""
        add, files = self.faults["any"].add, set()
        for number, row in enumerate(rows):
            name, size, key = row.get("file_name"), (row.get("width"), row.get("height")), row.get("id")
            where = f"{self.path}: image {key!r} (number {number})"
            if not _is_number(key) or key in self.pictures:
                add(where, "an id of its own, a whole number from 0", repr(key), "number the images")
            elif not isinstance(name, str) or not name or leads_out(name):
                add(where, "the file_name of a picture below the folder of images", repr(name), "correct it")
            elif os.path.normpath(name) in files:
                add(where, "each picture once", f"{name!r} again", "put its annotations under one id")
            elif not all(type(side) is int and side > 0 for side in size):
                add(f"{where} ({name})", "width and height, whole numbers above 0", repr(size),
                    "write the picture's size")
            else:
                self.pictures[key] = name, size
            files.add(os.path.normpath(name) if isinstance(name, str) else "")
        if not rows:
            add(str(self.path), "images", "none", "complete them")

    def annotation(self, item) -> None:
        """Take an annotation."""
        key = item.get("id")
        if type(key) not in (int, str):
            self._fault("any", item, "an id, a whole number", repr(key), "number the annotations")
        elif key in self.ids and "minival" not in str(self.path):  # those of COCO 2014, as Detectron2 has it
            self._fault("any", item, "an id of its own", repr(key), "number the annotations anew")
        else:
            self.ids.add(key)
        picture = _at(self.pictures, item.get("image_id"))
        if picture is None:
            self._fault("any", item, "one of the images", f"image_id {item.get('image_id')!r}",
                        "complete the images or take it out")
            return
        if _at(self.kinds, item.get("category_id")) is None:
            self._fault("any", item, "one of the categories", f"category_id {item.get('category_id')!r}",
                        "complete the categories or take it out")
        crowd = item.get("iscrowd", 0)
        if crowd not in (0, 1):
            self._fault("any", item, "iscrowd 0 or 1", repr(crowd), "correct it")
        if item.get("ignore", 0) != 0:
            self._fault("any", item, "no `ignore`, which Detectron2 refuses", repr(item["ignore"]),
                        "mark crowds by iscrowd 1, and take it out")
        if item.get("keypoints") and not _numbers(item["keypoints"]):
            self._fault("any", item, "keypoints as a list of numbers", repr(item["keypoints"]),
                        "take them out")
        if not _between(0, item.get("area"), MOST_AREA):
            self._fault("measured", item, "an area in pixels, which makes objects small or large",
                        repr(item.get("area")), "write the mask's, or the box's where there is none")
        self._box(item, picture[1], crowd)
        self._outline(item, picture[1], crowd)

    def _box(self, item, size, crowd):
        try:
            left, top, width, height = item["bbox"]
            fits = isfinite(left + top + width + height) and width >= 0 and height >= 0
        except (KeyError, TypeError, ValueError, OverflowError):
            fits = False
        if not fits:
            self._fault("any", item, "a bbox of left, top, width and height, all finite, the latter two not "
                        "below 0", repr(item.get("bbox")), "repair or remove it")
            return
        wrong = misplaced((left, top, left + width, top + height), size)
        if wrong:
            self._fault("odd", item, wrong, f"left, top, width, height {item['bbox']} in {size[0]} x "
                        f"{size[1]} pixels", "repair or remove it")
        self.useful += crowd == 0 and width > 0 and height > 0

    def _outline(self, item, size, crowd):
        value = item.get("segmentation")
        self.masks = self.masks or bool(value)
        if value == self.sound:
            return
        if not value:
            for group in ("measured outlines", *(["trained outlines"] if crowd == 0 else [])):
                self._fault(group, item, "a segmentation in every annotation", repr(value),
                            "complete them or pass MODEL.MASK_ON False")
        elif isinstance(value, dict):
            if not _covers(value, size):
                self._fault("any", item, "run lengths with `size` [height, width] of the image and `counts` "
                            "that cover it", f"{value!r:.60} in {size[0]} x {size[1]} pixels",
                            "write them anew")
            elif crowd == 0:
                self._fault("run lengths", item, "polygons, as INPUT.MASK_FORMAT says", "run lengths",
                            "pass INPUT.MASK_FORMAT bitmask")
        elif not _polygons(value):
            self._fault("any", item, "polygons [[x, y, x, y, ...], ...] near the picture, one of them with "
                        "three points or more", f"{value!r:.60}", "repair it or remove the annotation")

    def _fault(self, group, item, expected, found, remedy):
        picture = _at(self.pictures, item.get("image_id"))
        of = f" of {picture[0]}" if picture else ""
        self.faults[group].add(f"{self.path}: annotation {item.get('id')!r}{of}", expected, found, remedy)


def _at(known, key):
    """Return what a dict has under a key, or a set's own key; None where it has none or the key is none."""
    try:
        return (known[key] if isinstance(known, dict) else key) if key in known else None
    except TypeError:  # a list, say
        return None


def _is_number(key) -> bool:
    """Whether an id is one that the measurement takes, which keeps it in 63 bits."""
    return type(key) is int and 0 <= key < 2 ** 63


def _numbers(values) -> bool:
    try:
        return isinstance(values, list) and isfinite(sum(values))
    except (TypeError, OverflowError):
        return False


def _between(least, value, most) -> bool:
    try:
        return least <= value <= most
    except TypeError:
        return False


def _polygons(value) -> bool:
    """Whether an outline is polygons of numbers that are not far away, and one is a shape: Detectron2 leaves
    out the others, and with the last one the object."""
    return (isinstance(value, list)
            and all(_numbers(part) and (not part or -FAR <= min(part) and max(part) <= FAR) for part in value)
            and any(len(part) >= 6 and len(part) % 2 == 0 for part in value))


def _covers(value, size) -> bool:
    """Whether run lengths, as a list or as pycocotools' text, are those of a mask of this width and height;
    others would have it read and write beside the mask."""
    width, height = size
    try:
        runs = value["counts"] if isinstance(value["counts"], list) else _runs(value["counts"])
        return (list(value["size"]) == [height, width] and all(type(run) is int and run >= 0 for run in runs)
                and sum(runs) == height * width)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _runs(text) -> list[int]:
    """The run lengths in pycocotools' text (maskApi.c, rleFrString): base 32, lowest digit first, from the
    fourth on as differences to the one before the last."""
    runs: list[int] = []
    value = shift = 0
    for digit in text.encode("ascii"):
        digit -= 48
        if not 0 <= digit < 64:
            raise ValueError("no digit")
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            if digit & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("a number without its end")
    return runs
