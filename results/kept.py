"""Small files that a task leaves beside its record (store.keep), for the report.

    curve.json      a list of rows {"epoch" or "iteration": n, name: number or null, ...}
    per_class.json  {class: {metric: percent}}
    confusion.json  {"classes": [...], "matrix": [[...]]}, a row for each true class
    picture.jpg     e.g. detections, drawn

Each may be missing. What the table's figures rest on is the record alone.
"""

import json
from dataclasses import dataclass

from results import store


@dataclass(frozen=True)
class Kept:
    """The files' content; (), {} and b"" where missing. axis: "epoch" or "iteration", of the curve."""

    axis: str
    curve: tuple
    per_class: dict
    confusion: dict
    picture: bytes


def read(result, root):
    """Return (Kept, problems): a line for each file that is damaged or of another form, which is left out."""
    place, problems = store.files_of(result, root), []

    def content(name, fits, empty):
        path = place / name
        if not path.is_file():
            return empty
        try:
            # Average precision of a class without objects is NaN, which is as good as none.
            value = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: None)
            if fits(value):
                return value
        except (ValueError, TypeError):
            pass
        problems.append(f"{path}: expected what results/kept.py says, found another form; run the task again")
        return empty

    curve = content("curve.json", _is_curve, [])
    axis = "epoch" if curve and "epoch" in curve[0] else "iteration"
    picture = place / "picture.jpg"
    return Kept(axis, tuple(curve), content("per_class.json", _is_per_class, {}),
                content("confusion.json", _is_confusion, {}),
                picture.read_bytes() if picture.is_file() else b""), problems


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
    return all(isinstance(name, str) for name in names) and len(matrix) == len(names) and all(
        len(row) == len(names) and all(map(_is_number, row)) for row in matrix)
