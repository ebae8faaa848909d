"""The pictures of a folder of classes or a text list, in order. Needs no torch.

A folder is root/<class>/**/<picture>, as in torchvision's ImageFolder: classes in alphabetical order, then
folders, then files. Hidden files and folders (.DS_Store, ._1.jpg) and files without a picture's ending are
skipped.
"""
import os
import re
from pathlib import Path

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's


def class_files(root: Path) -> dict[str, list[str]]:
    """Return {class: its pictures, as names below root}, with at least one picture for each class.

    Raises FileNotFoundError if there is no such folder or no class, ValueError for a class without a picture.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected <class>/<picture> in it")
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")
    if not classes:
        raise FileNotFoundError(f"{root}: no class folders in it; expected <class>/<picture>")
    found = {name: _below(root, name) for name in classes}
    empty = [name for name in classes if not found[name]]
    if empty:
        raise ValueError(f"{root}: {len(empty)} of {len(classes)} class folders hold no picture, first "
                         f"{empty[0]}; complete the data or remove the folder")
    return found


def _below(root: Path, name: str) -> list[str]:
    above, places = len(os.path.join(root, "")), []
    for place, folders, files in os.walk(os.path.join(root, name), followlinks=True):
        folders[:] = [folder for folder in folders if folder[0] != "."]
        places.append((place[above:], files))
    return [os.path.join(place, file) for place, files in sorted(places)
            for file in sorted(files) if file.lower().endswith(ENDINGS) and file[0] != "."]


def listed(path: Path, labelled: bool = False) -> tuple[list[str], list[int]]:
    """Return (paths, labels) of a UTF-8 text with one path a line, followed by blanks or a tab and an integer
    label.

    labels is None unless every line ends with one; blank lines do not count. Raises ValueError for a file
    that is empty or not text and, if `labelled`, for the first line without a label of 0 or more.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; complete the data set") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected a text list, one picture's path a line, found no text") from None
    rows = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise ValueError(f"{path}: expected one picture's path a line, found none")
    for number, line in rows if labelled else ():
        if not re.search(r"\s\d+$", line):
            raise ValueError(f"{path}:{number}: expected `PATH LABEL`, labels from 0, found {line!r}")
    if not all(re.search(r"\s-?\d+$", line) for _, line in rows):
        return [line for _, line in rows], []
    names, labels = zip(*(line.rsplit(maxsplit=1) for _, line in rows))
    return list(names), [int(label) for label in labels]
