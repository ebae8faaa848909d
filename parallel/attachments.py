"""Small files that a task leaves for its record, in out/record: their names and forms, for writer and reader.

    curve.json      a list of rows {"epoch" or "iteration": n, name: number or null, ...}
    per_class.json  {class: {metric: percent or null}}
    confusion.json  {"classes": [...], "matrix": [[...]]}, a row for each true class
    features.json   {"effective_rank": r, "features": their number D, "pictures": how many r is of}
    sweep.json      a list of rows {setting or figure: number, bool or null}, one for each head
    picture.jpg     e.g. detections, drawn

Each may be missing. The tables' figures come from the record alone. Needs no torch.
"""
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parallel.files import write_whole


@dataclass(frozen=True)
class Attachments:
    """The files' content; empty where missing. axis: "epoch" or "iteration", of the curve."""

    curve: list[dict] = field(default_factory=list)
    per_class: dict[str, dict] = field(default_factory=dict)
    confusion: dict[str, list] = field(default_factory=dict)
    features: dict[str, float] = field(default_factory=dict)
    sweep: list[dict] = field(default_factory=list)
    picture: bytes = b""

    @property
    def axis(self) -> str:
        return "epoch" if self.curve and "epoch" in self.curve[0] else "iteration"

    @property
    def rank(self) -> str:
        """The effective rank of the features in words, "" where it is not known."""
        return "{effective_rank:.1f} of {features:,} by {pictures:,} pictures".format(
            **self.features) if self.features else ""


def attach(folder: Path, name: str, content: Any) -> None:
    """Write the file of that name into folder, which is made where there is none. ValueError for what is no
    such file's content."""
    if name != "picture.jpg":
        text = json.dumps(content)
        if not FORMS[name](_parsed(text)):
            raise ValueError(f"{name}: expected what parallel/attachments.py says, found {text[:80]}")
        content = text + "\n"
    write_whole(folder / name, content)


def parse_attachments(contents: Mapping[str, bytes], folder: Path) -> tuple[Attachments, list[str]]:
    """Return what the files {name: content} of a folder say, and a line for each that is damaged or of
    another form, which is left out."""
    found: dict[str, Any] = {}
    problems = []
    for name, fits in FORMS.items():
        if name not in contents:
            continue
        try:
            value = _parsed(contents[name])
            if not fits(value):
                raise ValueError
            found[Path(name).stem] = value
        except (ValueError, RecursionError):
            problems.append(f"{folder / name}: expected what parallel/attachments.py says, found another "
                            "form; run the task again")
    return Attachments(**found, picture=contents.get("picture.jpg", b"")), problems


def _parsed(text):
    """Parse JSON. NaN, the average precision of a class without objects, becomes None."""
    return json.loads(text, parse_constant=lambda name: None)


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_percent(value):
    return value is None or _is_number(value) and 0 <= round(value, 6) <= 100  # a mean may miss by a bit


def _is_curve(rows):
    return isinstance(rows, list) and all(
        isinstance(row, dict) and ("epoch" in row or "iteration" in row)
        and all(value is None or _is_number(value) for value in row.values()) for row in rows)


def _is_per_class(classes):
    return isinstance(classes, dict) and all(
        isinstance(metrics, dict) and all(map(_is_percent, metrics.values())) for metrics in classes.values())


def _is_confusion(value):
    if not isinstance(value, dict) or set(value) != {"classes", "matrix"}:
        return False
    names, matrix = value["classes"], value["matrix"]
    return (isinstance(names, list) and all(isinstance(name, str) for name in names)
            and isinstance(matrix, list) and len(matrix) == len(names)
            and all(isinstance(row, list) and len(row) == len(names) and all(map(_is_number, row))
                    for row in matrix))


def _is_features(value):
    return (isinstance(value, dict) and set(value) == {"effective_rank", "features", "pictures"}
            and all(_is_number(number) and number > 0 for number in value.values()))


def _is_sweep(rows):
    return isinstance(rows, list) and all(isinstance(row, dict) and all(
        value is None or isinstance(value, (int, float)) for value in row.values()) for row in rows)


FORMS = {"curve.json": _is_curve, "per_class.json": _is_per_class, "confusion.json": _is_confusion,
         "features.json": _is_features, "sweep.json": _is_sweep}
