"""Detectron2's metrics.json of a run as rows, and the curve of them that its record keeps."""

import json
import os
from pathlib import Path

from parallel.checkpoints import regular

ROWS = 200                   # of a curve, about
EVALUATED = ("AP", "AP50", "AP75")


def read_metrics(path: Path) -> list[dict]:
    """Return [{"iteration": n, name: number, ...}] of Detectron2's metrics.json, in order, each n once.

    n counts from 0; losses are medians of the last 20 iterations. The figures of the last evaluation stand at
    n = SOLVER.MAX_ITER. No file, no rows.
    """
    rows: dict[int, dict] = {}
    for values in rows_of(path) if os.path.lexists(path) else []:
        rows.setdefault(values["iteration"], {}).update(values)
    return [rows[iteration] for iteration in sorted(rows)]


def rows_of(path: Path) -> list[dict]:
    """Return what each whole line of a metrics.json holds, as read_metrics; a last one without its end, as a
    kill leaves it, is none. ValueError where a line is no JSON object with an iteration."""
    rows = []
    for number, line in enumerate(regular(path).read_bytes().splitlines(keepends=True), start=1):
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            row = {}
        if row is None:
            break
        if not isinstance(row, dict) or type(row.get("iteration")) is not int:
            raise ValueError(f"{path}: expected an object with an iteration in line {number}, found "
                             f"{line[:40].decode(errors='replace').strip()!r}; take the line out")
        rows.append(row)
    return rows


def curve(rows: list[dict], prefixes: dict[str, str]) -> list[dict]:
    """Return the rows of read_metrics with losses, lr and average precision under its names in the record.

    prefixes: of the test set (sets). Of more than ROWS rows, evenly spaced ones are kept and, first of all,
    those with an evaluation.
    """
    names = {f"{kind}/{key}": prefix + key for kind, prefix in prefixes.items() for key in EVALUATED}
    found: list[dict] = []
    evaluated: list[dict] = []
    for row in rows:
        kept = {names.get(key, key): value for key, value in row.items()
                if "loss" in key or key in names or key in ("iteration", "lr")}
        if len(kept) > 1:
            (evaluated if any(key in row for key in names) else found).append(kept)
    evaluated = _thinned(evaluated, ROWS // 2)
    found = _thinned(found, ROWS - len(evaluated))
    return sorted(found + evaluated, key=lambda row: row["iteration"])


def _thinned(rows, most):
    """Return at most `most` rows (2 or more), evenly spaced, the first and the last among them."""
    if len(rows) <= most:
        return rows
    return [rows[round(number * (len(rows) - 1) / (most - 1))] for number in range(most)]
