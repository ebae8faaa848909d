"""Pascal VOC's lists of images and XML files of objects, as detection and the SVMs read them.

Needs no torch.
"""
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from parallel.listing import lines_of, repeated
from parallel.reading import read_small

Read = TypeVar("Read")

MOST_BYTES = 2 ** 24  # of an XML file; VOC's own have some thousand
# What tools write into <difficult>, in small letters; nothing at all is no, too.
DIFFICULT = {"1": True, "true": True, "yes": True,
             "0": False, "false": False, "no": False, "unspecified": False, "": False}


def read_names(path: Path) -> list[str]:
    """Return the images of a list: the first word of each line. What follows are numbers and does not count.

    FileNotFoundError without the list; ValueError, one line, for a list without names or with a name twice,
    for a name that leads out of the folder of images, and for a name with a blank in it.
    """
    rows = [line.split() for line in lines_of(path)]
    if not rows:
        raise ValueError(f"{path}: expected image names, found none; complete the list")
    names = [name for name, *_ in rows]
    for problem, found, remedy in (
            ("names without blanks, and numbers behind them",
             [" ".join(row) for row in rows if not all(word.lstrip("+-").isdigit() for word in row[1:])],
             "rename the files"),
            ("names below the folder of images", [name for name in names if leads_out(name)], "correct them"),
            ("each image once", repeated(map(os.path.normpath, names)), "take the others out")):
        if found:
            raise ValueError(f"{path}: expected {problem}, found {len(found)} other lines, first "
                             f"{found[0]!r}; {remedy}")
    return names


def leads_out(name: str) -> bool:
    """Return whether a file's name, joined to a folder's, is none of a file below it."""
    return os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == ".." or "\0" in name


def read_objects(path: Path) -> tuple[ElementTree.Element, list[tuple[str, bool, ElementTree.Element]]]:
    """Return the root of an XML file of VOC and [(class, difficult, element)] of its objects.

    FileNotFoundError without the file; ValueError, one line, where it is no such file, or an object has no
    name or a word in <difficult> that is neither yes nor no.
    """
    try:
        content = read_small(path, MOST_BYTES, "a VOC annotation", "repair it")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file, expected the image's objects; complete the data "
                                "set") from None
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter of encodings
        raise ValueError(f"{path}: expected a VOC annotation, found no XML ({error}); repair it") from None
    if root.tag != "annotation":
        raise ValueError(f"{path}: expected a VOC annotation, found <{root.tag[:40]}>; repair it")
    objects = []
    for number, item in enumerate(root.findall("object"), 1):
        name, word = ((item.findtext(tag) or "").strip() for tag in ("name", "difficult"))
        if not name:
            raise ValueError(f"{path}: object {number}: expected a <name>, found none; name its class")
        if word.lower() not in DIFFICULT:
            raise ValueError(f"{path}: object {number} ({name}): expected <difficult> 0 or 1, found "
                             f"{word[:40]!r}; correct it")
        objects.append((name, DIFFICULT[word.lower()], item))
    return root, objects


def read_each(read: Callable[[Path], Read], paths: Iterable[Path]) -> Iterator[tuple[Path, Read]]:
    """Yield (path, read(path)) of those that can be read; in the end, if any could not, raise the first one's
    ValueError with the number of all."""
    errors = []
    for path in paths:
        try:
            yield path, read(path)
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError(errors[0] + (f" ({len(errors)} such files in all)" if len(errors) > 1 else ""))
