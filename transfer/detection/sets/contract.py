"""What a kind of data set offers, what its check reports, and the look at its files that every kind takes."""

import itertools
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from detectron2.evaluation import DatasetEvaluator
from PIL import ExifTags, Image

from parallel.listing import elsewhere

READERS = 8           # threads that look into pictures: a file server answers several at once
SHARE = 64            # pictures at a time
LYING = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
RARE = 1000           # one box in so many may be useless: of COCO's own training set a few have no area


@dataclass(frozen=True)
class Use:
    """What a run does with a part. masks: with outlines, as bitmaps or (`polygons`) as polygons.

    cache: folder in which the look at a large part may note its result, None for none.
    """

    trains: bool
    measures: bool
    masks: bool = False
    polygons: bool = True
    cache: Path | None = None


@dataclass(frozen=True)
class Listing:
    """What a check found. pictures: paths of the image files. fingerprint: sha256 of the labels and the sizes
    of the image files.

    masks: whether objects have outlines besides their boxes.
    """

    pictures: tuple[str, ...]
    classes: tuple[str, ...]
    masks: bool
    fingerprint: str


class Part(Protocol):
    """One part (train, test) of a data set: a frozen dataclass. Its fields say where the files are, as Paths
    below a root, and what cannot be read from them; a user's own set states the same fields in a YAML file.

    prefixes: what stands before Detectron2's names of the figures in a record, by kind of figure, such as
    {"bbox": "box_", "segm": "mask_"}.
    """

    prefixes: ClassVar[dict[str, str]]

    def contents(self) -> tuple[tuple[str, ...], bool, int]:
        """Return the names of the classes in order, whether there are masks, and how many images are listed,
        without a look at images."""

    def check(self, use: Use) -> Listing:
        """Look at every listed label and at the size of every image, as the run is going to read them.

        FileNotFoundError or ValueError, one line, where something is missing, or would end such a run or make
        its figures wrong: see Faults, require_objects and require_sizes.
        """

    def register(self, name: str) -> None:
        """Enter the part into Detectron2's DatasetCatalog, and thing_classes into its MetadataCatalog."""

    def evaluator(self, name: str, folder: Path, masks: bool) -> DatasetEvaluator:
        """Return what measures AP on the registered part: of boxes, and of masks if asked.

        On the main process its evaluate() returns {kind: {figure: percent}} and writes folder/per_class.json,
        {class: {name in a record: percent}}. What cannot be measured is left out.
        """


class Faults:
    """What is wrong with labels: of each kind the first place, and how many there are."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], tuple[str, str]] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, where: str, expected: str, found: str, remedy: str) -> None:
        """Note what was found at a place instead of what was expected, and what to do."""
        kind = expected, remedy
        self._first.setdefault(kind, (where, found))
        self._counts[kind] = self._counts.get(kind, 0) + 1

    def refuse(self, most: int = 0) -> None:
        """ValueError, one line, of the first kind of which there are more than `most`."""
        for (expected, remedy), count in self._counts.items():
            if count > most:
                where, found = self._first[expected, remedy]
                more = f" (and {count - 1} more like it)" if count > 1 else ""
                raise ValueError(f"{where}: expected {expected}, found {found:.100}{more}; {remedy}")


def misplaced(box: Sequence[float], size: tuple[int, int]) -> str:
    """Return what was expected of a box instead, "" of one that is useful.

    box: finite left, top, right, bottom in pixels from 0, right and bottom not included. size: width and
    height of its picture; a pixel beyond is tolerated.
    """
    left, top, right, bottom = box
    if left < -1 or top < -1 or right > size[0] + 1 or bottom > size[1] + 1:
        return "a box within its picture"
    return "" if left < right and top < bottom else "a box with an area"


def require_objects(source: Path, useful: int, count: int, use: Use) -> None:
    """ValueError where none of a part's objects (`count`) is one to train on or to measure (`useful`)."""
    if not useful:
        purpose = "measure" if use.measures else "train on"
        found = f"{count}, all of them crowds, difficult or without area" if count else "none"
        raise ValueError(f"{source}: expected objects to {purpose}, found {found}; add their boxes")


def require_file(path: Path) -> None:
    """FileNotFoundError where there is no such file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the layout of docs/detection.md")


def file_states(folder: Path, names: Sequence[str]) -> list[tuple[int, int]]:
    """Return (bytes, time of change in ns) of files below `folder`, which may lie in folders of their own.

    FileNotFoundError where the folder or one of the names is missing; an empty file counts as missing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected the layout of docs/detection.md")
    states = {}
    places = [os.path.split(name) for name in names]
    for inner in {inner for inner, _ in places}:  # one pass over each: stat is slow on networks
        if (folder / inner).is_dir():
            for entry in os.scandir(folder / inner):
                if entry.is_file():
                    state = entry.stat()
                    states[inner, entry.name] = state.st_size, state.st_mtime_ns
    missing = [name for name, place in zip(names, places) if not states.get(place, (0,))[0]]
    if missing:
        raise FileNotFoundError(f"{folder}: {len(missing)} of {len(names)} listed files are missing or "
                                f"empty, first {missing[0]}{elsewhere(folder, missing)}; complete the data "
                                "set")
    return [states[place] for place in places]


def require_sizes(folder: Path, names: Sequence[str], sizes: Sequence[tuple[int, int]]) -> None:
    """ValueError where a picture below `folder` cannot be opened, or has another (width, height) than its
    label says once it is turned as its EXIF orientation asks for, which Detectron2 does. Pixels are not
    decoded."""
    faults = Faults()
    with warnings.catch_warnings(), ThreadPoolExecutor(READERS) as pool:
        warnings.simplefilter("ignore")  # of odd EXIF data
        shares = [names[start:start + SHARE] for start in range(0, len(names), SHARE)]
        looks = pool.map(lambda share: [picture_size(folder / name) for name in share], shares)
        for name, wanted, found in zip(names, sizes, itertools.chain.from_iterable(looks)):
            if isinstance(found, str):
                faults.add(str(folder / name), "a picture", found, "replace or remove it")
            elif found[:2] != wanted:
                told = "{} x {} as its EXIF orientation turns it" if found[2] else "{} x {}"
                faults.add(str(folder / name), "a picture as large as its label says",
                           f"{told.format(*found)}, labelled {wanted[0]} x {wanted[1]}",
                           "correct the label, or save the picture upright (without the orientation)")
    faults.refuse()


def picture_size(path: Path) -> tuple[int, int, bool] | str:
    """Return width and height of a picture as Detectron2 reads it (detection_utils.read_image) and whether
    EXIF exchanges them; words where it cannot be opened."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            try:  # not PNG's own way: it would decode the pixels for a tag that may stand behind them
                turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation) in LYING
            except Exception:  # Detectron2 goes on without
                turned = False
    except Exception as error:  # a damaged head raises almost anything
        return " ".join(str(error).split()) or type(error).__name__
    return (height, width, True) if turned else (width, height, False)
