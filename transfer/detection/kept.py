"""What a run leaves: out/record for its record (curve.json, per_class.json, picture.jpg), pictures in out."""

import io
import json
import os

from parallel.attachments import attach
from parallel.checkpoints import regular
from transfer.detection import pictures
from transfer.detection.evaluation import PREFIXES

ROWS = 200                   # of a curve, about
PICTURE_BYTES = 150_000
EVALUATED = ("AP", "AP50", "AP75")


def read_metrics(path):
    """Return [{"iteration": n, name: number, ...}] of Detectron2's metrics.json, in order, each n once.

    n counts from 0; losses are medians of the last 20 iterations. The figures of the last evaluation stand at
    n = SOLVER.MAX_ITER. No file, no rows.
    """
    rows = {}
    for values in rows_of(path) if os.path.lexists(path) else []:
        rows.setdefault(values["iteration"], {}).update(values)
    return [rows[iteration] for iteration in sorted(rows)]


def rows_of(path):
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


def curve(rows, evaluator_type):
    """Return the rows of read_metrics with losses, lr and average precision under its names in the record.

    evaluator_type: "pascal_voc" or "coco". Of more than ROWS rows, evenly spaced ones are kept and, first of
    all, those with an evaluation.
    """
    names = {f"{kind}/{key}": prefix + key for kind, prefix in PREFIXES[evaluator_type].items()
             for key in EVALUATED}
    found, evaluated = [], []
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


def keep(out, evaluator_type, sheet):
    """Write out/record and the pictures beside it from the files of a finished run.

    sheet: the picture of detections beside the ground truth (pictures.detections).
    """
    record = out / "record"
    rows = curve(read_metrics(out / "metrics.json"), evaluator_type)
    per_class = json.loads((out / "inference" / "per_class.json").read_text())
    attach(record, "curve.json", rows)
    attach(record, "per_class.json", per_class)
    attach(record, "picture.jpg", small_jpeg(sheet))
    sheet.save(out / "detections.jpg", quality=90)
    pictures.precisions(rows, out / "precision.png")
    pictures.bars(per_class, out / "per_class.png")


def small_jpeg(picture, most=PICTURE_BYTES):
    """Return the bytes of a PIL image as a JPEG of at most `most` bytes; first quality goes, then size."""
    while True:
        for quality in (85, 75, 65, 55):
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=quality, optimize=True)
            if len(file.getvalue()) <= most:
                return file.getvalue()
        picture = picture.resize((picture.width * 4 // 5, picture.height * 4 // 5))
