"""What a kind of data set offers, what its check reports, and the look at its files that every kind takes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from detectron2.evaluation import DatasetEvaluator


@dataclass(frozen=True)
class Listing:
    """What a check found. fingerprint: sha256 of the labels and the sizes of the image files.

    masks: whether the objects have outlines besides their boxes.
    """

    images: int
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

    def contents(self) -> tuple[tuple[str, ...], bool]:
        """Return the names of the classes in order and whether there are masks, without a look at images."""

    def check(self) -> Listing:
        """Look at every listed label and image file. Images are not decoded.

        FileNotFoundError or ValueError, one line, where something is missing or wrong.
        """

    def register(self, name: str) -> None:
        """Enter the part into Detectron2's DatasetCatalog, and thing_classes into its MetadataCatalog."""

    def evaluator(self, name: str, folder: Path, masks: bool) -> DatasetEvaluator:
        """Return what measures AP on the registered part: of boxes, and of masks if asked.

        On the main process its evaluate() returns {kind: {figure: percent}} and writes folder/per_class.json,
        {class: {name in a record: percent}}. What cannot be measured is left out.
        """


def require_file(path: Path) -> None:
    """FileNotFoundError where there is no such file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the layout of docs/detection.md")


def file_sizes(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """Return {name: bytes} of the files below `folder`, which may lie in folders of their own.

    FileNotFoundError where the folder or one of the names is missing; an empty file counts as missing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected the layout of docs/detection.md")
    sizes = {}
    for inner in {os.path.dirname(name) for name in names}:  # one pass over each: stat is slow on networks
        if (folder / inner).is_dir():
            sizes.update({os.path.join(inner, entry.name): entry.stat().st_size
                          for entry in os.scandir(folder / inner) if entry.is_file()})
    missing = [name for name in names if not sizes.get(name)]
    if missing:
        raise FileNotFoundError(f"{folder}: {len(missing)} of {len(names)} listed files are missing or "
                                f"empty, first {missing[0]}; complete the data set")
    return sizes
