"""The pictures of a folder of classes or a text list, in order. Needs no torch.

A folder is root/<class>/**/<picture>, as in torchvision's ImageFolder: classes in alphabetical order, then
folders, then files. Hidden files and folders (.DS_Store, ._1.jpg, __MACOSX) and files without a picture's
ending are skipped. No file is opened to list it.
"""
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from parallel.reading import read_small, what_is

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
SYSTEM = {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
LARGEST_LIST = 2 ** 32  # bytes; iNaturalist 2021's json, the largest we know, has less than half
LABEL = re.compile(r"(.*[^\s,;])[\s,;]+(-?\d{1,18})")


def hidden(name: str) -> bool:
    """Return whether a file or folder is an operating system's or an editor's own."""
    return name[:1] == "." or name in SYSTEM


def files_below(root: Path, endings: tuple[str, ...] = ENDINGS) -> dict[str, list[str]]:
    """Return {folder: its files, sorted} for each folder below root (itself: "") that has files with these
    endings, in any case. Links are followed.

    Raises FileNotFoundError if there is no such folder, ValueError for a pipe, a device or a broken link with
    such an ending, and for links that lead around in a circle.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected <class>/<picture> in it")
    found: dict[str, list[str]] = {}
    places: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(root),))]  # and the links' on the way
    while places:
        place, trail = places.pop()
        own = []
        for entry in os.scandir(os.path.join(root, place)):
            if hidden(entry.name):
                continue
            if entry.is_dir():
                places.append((os.path.join(place, entry.name), _along(entry, trail)))
            elif entry.name.lower().endswith(endings):
                if not entry.is_file():
                    raise ValueError(f"{entry.path}: expected a file, found {what_is(entry.path)}; remove it")
                own.append(entry.name)
        if own:
            found[place] = sorted(own)
    return found


def _along(entry: os.DirEntry, trail: tuple[str, ...]) -> tuple[str, ...]:
    """Return the trail through a folder. Raises ValueError for a link to a folder on the way to it."""
    if not entry.is_symlink():
        return trail
    target = os.path.realpath(entry.path)
    here = os.path.realpath(os.path.dirname(entry.path))
    if target in trail or os.path.commonpath([target, here]) == target:
        raise ValueError(f"{entry.path}: expected a folder, found a link to a folder that it lies in; remove "
                         "it")
    return *trail, target


def class_files(root: Path, tree: dict[str, list[str]] | None = None) -> dict[str, list[str]]:
    """Return {class: its pictures, as names below root}, with at least one picture for each class.

    In Places' tree (a/abbey, a/apartment_building/outdoor) each folder with pictures is a class; it is known
    by letters, in each of which all folders begin with it.

    tree: of files_below, where it is known. Raises FileNotFoundError if there is no such folder or no class,
    ValueError for a class without a picture.
    """
    tree = files_below(root) if tree is None else tree
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not hidden(entry.name))
    if not folders:
        found = f"found {len(tree[''])} pictures directly in it" if "" in tree else "found none"
        raise FileNotFoundError(f"{root}: no class folders in it; expected <class>/<picture>, {found}")
    places = sorted(place for place in tree if place)
    lettered = places and all(re.match(r"([a-z])/\1", place) for place in places)
    files: dict[str, list[str]] = {} if lettered else {name: [] for name in folders}
    for place in places:
        own = files.setdefault(place if lettered else place.partition("/")[0], [])
        own += [os.path.join(place, file) for file in tree[place]]
    if empty := [name for name in files if not files[name]]:
        raise ValueError(f"{root}: {len(empty)} of {len(files)} class folders hold no picture, first "
                         f"{empty[0]}; complete the data or remove the folder")
    return files


# Lists

def bytes_of(path: Path) -> bytes:
    """Return the content of a list or a json. Raises FileNotFoundError or ValueError, one line, for what is
    no file or too large."""
    try:
        return read_small(path, LARGEST_LIST, "a list", "complete the data set")
    except FileNotFoundError:
        found = what_is(path).replace("nothing", "no such file")
        raise FileNotFoundError(f"{path}: {found}; complete the data set") from None


def text_of(path: Path) -> str:
    """Return the text of a list or a json; errors as of bytes_of, and ValueError for what is no text."""
    try:
        return bytes_of(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected a text list in UTF-8, found no text; save it as UTF-8") from None


def lines_of(path: Path) -> list[str]:
    """Return a list's lines that are not blank, without blanks around them; errors as of text_of."""
    return [line.strip() for line in text_of(path).split("\n") if line.strip()]


def listed(path: Path, labelled: bool = False) -> tuple[list[str], list[int]]:
    """Return (paths, labels) of a UTF-8 text with one path a line, followed by a blank, a tab or a comma and
    an integer label.

    labels is empty unless every line ends with one; blank lines do not count, nor does a header, a first
    line with neither a label nor a picture's ending before one that has it. Raises ValueError for a file that
    is empty or not text and, if `labelled`, for the first line without a label of 0 or more.
    """
    lines = text_of(path).split("\n")
    rows = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    first, second = (line for _, line in (rows + [(0, "")] * 2)[:2])
    if _has_ending(second) and not (_has_ending(first) or LABEL.fullmatch(first)):
        del rows[0]  # a header
    if not rows:
        raise ValueError(f"{path}: expected one picture's path a line, found none")
    found = [LABEL.fullmatch(line) for _, line in rows]
    for (number, line), match in zip(rows, found) if labelled else ():
        if not match or match[2][0] == "-":
            raise ValueError(f"{path}:{number}: expected `PATH LABEL`, labels from 0, found {line[:80]!r}")
    pairs = [(match[1], int(match[2])) for match in found if match]
    if len(pairs) < len(rows):
        return [_bare(line) for _, line in rows], []
    return [_bare(name) for name, _ in pairs], [label for _, label in pairs]


def repeated(names: Iterable[str]) -> list[str]:
    """Return the names that stood there before, in order."""
    known: set[str] = set()
    again = []
    for name in names:
        if name in known:
            again.append(name)
        known.add(name)
    return again


def _has_ending(line: str) -> bool:
    return any(ending in line.lower() for ending in ENDINGS)


def _bare(name: str) -> str:
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] == '"' else name


def require_files(root: Path, names: Sequence[str], source: Path | str,
                  advice: str = "complete the data set") -> None:
    """FileNotFoundError unless every listed name is a file. Lists each folder once: cheap on network drives.
    """
    found: dict[str, set[str]] = {}
    missing = []
    for name in names:
        folder, _, file = name.rpartition("/")
        if folder not in found:
            found[folder] = {entry.name for entry in os.scandir(root / folder) if entry.is_file()} \
                if (root / folder).is_dir() else set()
        if file not in found[folder]:
            missing.append(name)
    if missing:
        raise FileNotFoundError(f"{source}: {len(missing)} of {len(names)} listed images are missing, first "
                                f"{root / missing[0]}{elsewhere(root, missing)}; {advice}")


def elsewhere(root: Path, missing: Sequence[str]) -> str:
    """Say under which other endings files of `missing`, names below root, are there: "; 48 of them are there
    as .png, and .jpg is needed"; or what is wrong with the names. "" where neither is known."""
    stems: dict[str, dict[str, set[str]]] = {}  # of each folder: {stem: endings}
    found: Counter[str] = Counter()
    for name in missing:
        folder, file = os.path.split(name)
        if folder not in stems:
            stems[folder] = {}
            for entry in os.listdir(root / folder) if (root / folder).is_dir() else ():
                stem, ending = os.path.splitext(entry)
                stems[folder].setdefault(stem, set()).add(ending)
        stem, wanted = os.path.splitext(file)
        found.update(stems[folder].get(stem, set()) - {wanted})
        stem, ending = os.path.splitext(stem)
        if ending and ending in stems[folder].get(stem, ()):
            return f"; the list is to name them without {ending}"
    if not found:
        windows = [name for name in missing if "\\" in name]
        return f"; {len(windows)} of the names have \\ where / is meant" if windows else ""
    there = ", ".join(f"{count} of them are there as {ending or 'files without ending'}"
                      for ending, count in found.most_common())
    return f"; {there}, and {wanted} is needed"
