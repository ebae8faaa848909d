"""The detection data sets: one file a kind, one entry in KINDS. Nothing else in detection asks for the kind.
coco_json.py looks at COCO's annotation file, parallel/voc.py reads VOC's.

A kind is a module with two things: Part, a class that keeps the contract of contract.Part, and SETS, {name:
Part} of the sets that are known by name. A set of the user's own is a YAML file that states the fields of a
Part (docs/detection.md); reading it executes nothing.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from transfer.detection.sets import coco, voc
from transfer.detection.sets.contract import Part
from transfer.settings import nearest

KINDS = {"voc": voc, "coco": coco}


def find(name: str, root: Path, own: dict[str, Part]) -> Part:
    """Return the Part that is called `name`, its paths below `root`. own: the user's, see `declared`.

    ValueError with the nearest names for an unknown one.
    """
    known = {**_named(), **own}
    if name not in known:
        raise ValueError(f"unknown data set {name!r}; {nearest(name, known)}")
    return _located(known[name], root)


def declaration(train: Sequence[str], test: Sequence[str]) -> str:
    """Return the declaration of a set in COCO's form as a value of the pair `dataset`, which stands for a
    file's: train and test are (annotation file, folder of images). It is called after the folder that all
    lie in, `own_...` where a known set is called so."""
    paths = [os.path.abspath(path) for half in (train, test) for path in half]
    keys = [dict(zip(("annotations", "images"), half)) for half in (paths[:2], paths[2:])]
    name = Path(os.path.commonpath(paths)).name or "own"
    if {f"{name}_train", f"{name}_test"} & _named().keys():
        name = f"own_{name}"
    return json.dumps({"name": name, "kind": "coco", "train": keys[0], "test": keys[1]})


def declared(file: str) -> dict[str, Part]:
    """Return {"<stem>_train": Part, "<stem>_test": Part} of the YAML file that declares a data set, or of a
    `declaration`.

    Their paths are absolute. FileNotFoundError without the file; ValueError, one line, where a key is
    unknown, missing or of another type, or where the name is that of a known set.
    """
    inline = file.startswith("{")
    path = Path("--train-json" if inline else file)  # what messages name
    if not inline and not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a YAML that declares a data set, see "
                                "docs/detection.md")
    try:
        # YAML would not join the two halves as which JSON writes an emoji.
        values = json.loads(file) if inline else yaml.safe_load(path.read_text())
    except (yaml.YAMLError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected {'JSON' if inline else 'YAML'}, found "
                         f"{' '.join(str(error).split())}; repair it") from None
    if not isinstance(values, dict) or values.get("kind") not in tuple(KINDS):
        found = values.get("kind") if isinstance(values, dict) else values
        raise ValueError(f"{path}: expected a kind of {', '.join(KINDS)}, found {found!r}; write e.g. "
                         f"`kind: {next(iter(KINDS))}`")
    title = values.pop("name", "own") if inline else path.stem
    cls = KINDS[values.pop("kind")].Part
    root = (path.parent / Path(_typed(path, "root", values.pop("root", "."), str)).expanduser()).absolute()
    halves = {side: _typed(path, side, values.pop(side, None), dict) for side in ("train", "test")}
    parts = {f"{title}_{side}": _located(_part(path, cls, {**values, **half}), root)
             for side, half in halves.items()}
    for name in parts.keys() & _named():
        raise ValueError(f"{path}: {name} is a known data set; give the file another name")
    return parts


def settings(own: dict[str, Part]) -> dict[str, str]:
    """Return {KEY: VALUE} of what follows from a declared set: its parts, how many classes, no masks."""
    train, test = own
    classes, masks, _ = own[train].contents()
    found = {"DATASETS.TRAIN": repr((train,)), "DATASETS.TEST": repr((test,)),
             "MODEL.ROI_HEADS.NUM_CLASSES": str(len(classes))}
    return found if masks else {**found, "MODEL.MASK_ON": "False"}


def stated(own: dict[str, Part]) -> dict[str, object]:
    """Return {"<name>.<key>": JSON value} of what a declaration says besides where its files are, such as the
    classes; defaults are left out. It may change the figures, so it belongs to a record's config."""
    values = {f"{name}.{field.name}": getattr(part, field.name) for name, part in own.items()
              for field in dataclasses.fields(part)  # type: ignore[arg-type]  # a Protocol
              if getattr(part, field.name) != field.default}
    return {key: list(value) if isinstance(value, tuple) else value
            for key, value in values.items() if not isinstance(value, Path)}


def _named():
    return {name: part for kind in KINDS.values() for name, part in kind.SETS.items()}


def _located(part, root):
    paths = {key: root / value for key, value in vars(part).items() if isinstance(value, Path)}
    return dataclasses.replace(part, **paths)


def _part(path, cls, values):
    """Return the Part that a YAML file states; its fields are the keys."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise ValueError(f"{path}: unknown key {key!r}; {nearest(str(key), fields)}")
    for key, field in fields.items():
        if key not in values and field.default is dataclasses.MISSING:
            raise ValueError(f"{path}: expected the key {key!r}, found {', '.join(map(str, values))}; "
                             "docs/detection.md has examples")
    return cls(**{key: _typed(path, key, value, fields[key].type) for key, value in values.items()})


def _typed(path, key, value, kind):
    """Return a YAML value as a field's type: str, bool, Path of a str, or a tuple of str of a list."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind == tuple[str, ...] and isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value) and len(set(value)) == len(value):
            return tuple(value)
    if kind in (str, bool, dict) and isinstance(value, kind):
        return value
    expected = {Path: "a path", str: "a word", bool: "true or false", dict: "keys below it"}.get(
        kind, "a list of different words (in quotes where YAML takes them for numbers or yes and no)")
    raise ValueError(f"{path}: {key}: expected {expected}, found {value!r}; see docs/detection.md")
