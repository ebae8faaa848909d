"""The files that a run leaves: curve.json, per_class.json and picture.jpg in out/record; pictures in out."""

import io
import json
from pathlib import Path

from PIL.Image import Image

from parallel.attachments import attach
from transfer.detection import pictures
from transfer.detection.curves import curve, read_metrics

PICTURE_BYTES = 150_000


def write(out: Path, prefixes: dict[str, str], sheet: Image) -> None:
    """Write out/record and the pictures beside it from the files of a finished run.

    prefixes: of the test set (sets). sheet: the picture of pictures.detections.
    """
    record = out / "record"
    rows = curve(read_metrics(out / "metrics.json"), prefixes)
    per_class = json.loads((out / "inference" / "per_class.json").read_text())
    attach(record, "curve.json", rows)
    attach(record, "per_class.json", per_class)
    attach(record, "picture.jpg", small_jpeg(sheet))
    sheet.save(out / "detections.jpg", quality=90)
    pictures.precisions(rows, out / "precision.png")
    pictures.bars(per_class, out / "per_class.png")


def small_jpeg(picture: Image, most: int = PICTURE_BYTES) -> bytes:
    """Return the bytes of a PIL image as a JPEG of at most `most` bytes; first quality goes, then size."""
    while True:
        for quality in (85, 75, 65, 55):
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=quality, optimize=True)
            if len(file.getvalue()) <= most:
                return file.getvalue()
        picture = picture.resize((picture.width * 4 // 5, picture.height * 4 // 5))
