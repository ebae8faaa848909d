"""Which part of a folder is for training, so that no picture of validation or test enters it.

What a name says is in parallel/split_names.py.

Folders beside each other are splits
- if they say nothing else: val, test2017, val_256, train_images. But one called just train or training is a
  class (the vehicle) if no other split is beside it and another folder holds pictures as deep as it does
  (and the two are refused if they have folders of the same names, as splits would);
- if they say the same besides and are of different kinds: cars_train and cars_test.
The one folder to train on is taken, train before others such as train_mini; nothing is taken where there are
several, or none. Shards and parquet files are of a split as soon as they say so. Picture files are not told
apart by their names, but refused if these say both (COCO_train2014_1.jpg beside COCO_val2014_2.jpg).
"""
from collections import defaultdict
from pathlib import Path

from parallel import manifests
from parallel.split_names import HELD_OUT, MIXED, PLAIN, TRAIN, UNLABELLED, kind_of, splits_of

LISTS = (".txt", ".csv", ".json")  # which may say what is held out
WITHOUT_DIGITS = str.maketrans("", "", "0123456789")

Tree = dict[str, list[str]]  # {folder: its files} of listing.files_below


# Folders

def training_part(root: Path, tree: Tree) -> tuple[Path, Tree, list[str]]:
    """Return (folder to train on, its tree, names of splits that are left out). tree: root's, pictures and
    archives together. Raises FileNotFoundError or ValueError, one line that names the splits, where that is
    not clear."""
    left: list[str] = []
    while places := places_of_splits(root, tree):
        place = min(places, key=lambda one: (one.count("/"), one))
        splits, part = places[place], below(tree, place)
        if len(part) < len(tree):
            other = min(tree.keys() - {_join(place, one) for one in part})
            raise ValueError(f"{root}: expected one data set, found the splits {', '.join(sorted(splits))} "
                             f"in {place} and more in {other or root.name}; give the folder to train on")
        chosen = choose(splits, root / place, {one.partition("/")[0] for one in part if one} - splits.keys())
        left += sorted(splits.keys() - {chosen})
        root, tree = root / place / chosen, below(tree, _join(place, chosen))
    return root, tree, left


def places_of_splits(root: Path, tree: Tree) -> dict[str, dict[str, str]]:
    """Return {folder: {its folders that are splits: kind}}. Raises ValueError for a folder called train that
    may be a split as well as a class. root: whose tree it is, for that message."""
    names: dict[str, set[str]] = defaultdict(set)
    for place in tree:
        while place:
            above, _, name = place.rpartition("/")
            names[above].add(name)
            place = above
    places = {}
    for place, own in names.items():
        splits = splits_of(own)
        plain = {name for name in own if name.lower() in PLAIN}
        if plain and not splits and len(below(tree, place)) == len(tree):
            name = min(plain)
            folders = {one: below(tree, _join(place, one)).keys() for one in own}
            alike = {one for one in own - {name} if ("" in folders[one]) == ("" in folders[name])}
            if same := sorted(one for one in alike if (folders[one] & folders[name]) - {""}):
                raise ValueError(f"{root / place}: expected a split or a class called {name}, found folders "
                                 f"in it that are called as in {same[0]}; give {root / place / name}, or a "
                                 ".txt list of the pictures to train on")
            splits = {} if alike else {name: TRAIN}
        if splits:
            places[place] = splits
    return places


def choose(splits: dict[str, str], folder: Path, others: set[str]) -> str:
    """Return the one folder to train on. Raises FileNotFoundError or ValueError where there is not one."""
    named = [name for name in splits if splits[name] == TRAIN]
    named = [name for name in named if name.lower() == "train"] or named
    named += [name for name in splits if splits[name] == UNLABELLED]
    if len(named) == 1:
        return named[0]
    found = ", ".join(sorted(splits))
    if named:
        raise ValueError(f"{folder}: expected one folder to train on, found {found}; give one of them, as "
                         f"{folder / min(named)}")
    raise FileNotFoundError(f"{folder}: has {found} but no train; expected DATA/train/<class>/<picture>, or "
                            "the folder to train on" + (f", as {folder / min(others)}" if others else ""))


def below(tree: Tree, place: str) -> Tree:
    """Return the tree of a folder in a tree."""
    return {one[len(place):].lstrip("/"): files for one, files in tree.items()
            if not place or one == place or one.startswith(f"{place}/")}


def _join(place: str, name: str) -> str:
    return f"{place}/{name}" if place and name else place or name


# Files

def training_files(root: Path, files: list[str]) -> tuple[list[str], list[str]]:
    """Return (shards or parquet files to train on, those that are left out), of the files of a folder. A
    folder that is itself called after the held-out split may hold nothing else. Raises as training_part."""
    kinds = {file: kind_of(Path(file).stem)[0] for file in files}
    found = {kind for kind in kinds.values() if kind}
    chosen = TRAIN if TRAIN in found else UNLABELLED if UNLABELLED in found else None
    if found == {HELD_OUT} == set(kinds.values()) == {kind_of(root.name)[0]}:
        chosen = HELD_OUT
    names = {kind_of(Path(file).stem)[1] for file in files if kinds[file] == chosen}
    if found and (not chosen or {TRAIN, UNLABELLED} <= found or len(names) > 1):
        first = sorted({kind_of(Path(file).stem): file for file in sorted(files, reverse=True)}.values())
        raise ValueError(f"{root}: expected files of train, found {', '.join(first[:4])} and the like; put "
                         "those to train on into a folder of their own")
    return ([file for file in files if kinds[file] == chosen],
            [file for file in files if kinds[file] != chosen])


def require_unmixed(root: Path, tree: Tree) -> None:
    """ValueError where pictures beside each other are of train and of a held-out split by their names."""
    for place, files in tree.items():
        stems = {file.translate(WITHOUT_DIGITS).rpartition(".")[0] for file in files
                 } if any("train" in file.lower() for file in files) else ()
        splits = splits_of(stems)
        if {TRAIN, HELD_OUT} <= set(splits.values()):
            raise ValueError(f"{root / place}: expected pictures to train on, found by their names "
                             f"{', '.join(sorted(splits))} together; give a .txt list of those to train "
                             "on")


def require_unlisted_above(root: Path) -> None:
    """ValueError for the folder of a data set's pictures, of train and held out, if a list above it says
    which are which."""
    for above in list(root.absolute().parents)[:5]:
        place = root.absolute().relative_to(above).as_posix()
        kinds = {kind_of(part)[0] for part in place.split("/")}
        source = manifests.list_of(above)
        if place == "JPEGImages" and (above / "ImageSets" / "Main").is_dir():
            source = above / "ImageSets" / "Main"
        elif not source or kinds & {TRAIN, HELD_OUT} or not (
                MIXED in kinds if source.suffix == ".json" else
                f"{place}/".startswith("data/") if source.suffix == ".csv" else
                manifests.first_line(source).startswith(f"{place}/")):
            continue
        raise ValueError(f"{root}: expected pictures to train on alone, found {source}, which says which of "
                         f"them are; give {above}")


def require_unlisted(root: Path, tree: Tree, lists: Tree) -> None:
    """ValueError where a list in a folder without pictures says by its name which of them are held out.
    lists: text, csv and json files below root."""
    held_out = [_join(place, file) for place, files in lists.items() if place not in tree
                for file in files if kind_of(Path(file).stem)[0] == HELD_OUT]
    if held_out:
        raise ValueError(f"{root}: expected pictures to train on, found {min(held_out)} as well, which lists "
                         "held-out ones by its name; give a .txt list of those to train on, or move it away")
