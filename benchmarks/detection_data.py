"""Seconds of the check of a COCO annotation file and its pictures, as ratios to Detectron2's loading of it.

    python -m benchmarks.detection_data [--images 10000]

Detectron2's loader parses the file and makes its dicts, which every process of a run does, too. The check
parses it, looks at every annotation, and opens each picture for its size; when nothing has changed since, it
finds its own note. 7 objects in each image of 640 x 480, as polygons of 24 corners.
"""
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from detectron2.data.datasets import load_coco_json
from PIL import Image

from benchmarks import common
from benchmarks.common import compare, ratio
from benchmarks.evaluation import CLASSES, HEIGHT, OBJECTS, WIDTH, box, outline
from transfer.detection.sets import coco, coco_json
from transfer.detection.sets.contract import Use

FLAGS = {"images": coco.LARGE}  # COCO's training set has 118,287


def written(folder, images):
    """Write a COCO tree; return its Part. The pictures are one file under many names."""
    draw, annotations = np.random.default_rng(0), []
    first = folder / "0.jpg"
    Image.fromarray(draw.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(first)
    for number in range(images * OBJECTS):
        polygon = outline(draw, draw.uniform((20, 20), (620, 460)), np.exp(draw.uniform(2, 5, 2)))
        annotations.append({"id": number, "image_id": number // OBJECTS, "category_id": 1 + number % CLASSES,
                            "iscrowd": 0, "area": 99, "bbox": box(polygon), "segmentation": [polygon]})
    for number in range(1, images):
        os.link(first, folder / f"{number}.jpg")
    rows = [{"id": number, "file_name": f"{number}.jpg", "width": WIDTH, "height": HEIGHT}
            for number in range(images)]
    kinds = [{"id": number, "name": str(number)} for number in range(1, 1 + CLASSES)]
    (folder / "labels.json").write_text(json.dumps(
        {"images": rows, "annotations": annotations, "categories": kinds}))
    return coco.Part(folder / "labels.json", folder)


def measure(args):
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        part = written(Path(folder), args.images)

        def check(cache):
            coco_json.read.cache_clear()
            coco_json.sha256.cache_clear()
            part.check(Use(trains=True, measures=False, masks=True, cache=cache))

        seconds = compare({"detectron2": lambda: load_coco_json(str(part.annotations), folder, "benchmark"),
                           "check": lambda: check(None), "noted": lambda: check(Path(folder) / "cache")})
    case = f"{args.images:,} images, {OBJECTS * args.images:,} objects"
    return [common.Row(case, f"time, Detectron2's loader over {what}",
                       ratio(seconds["detectron2"], seconds[name]),
                       beside=f"{statistics.median(seconds[name]):.1f} s")
            for name, what in (("check", "ours"), ("noted", "ours with its note"))]


if __name__ == "__main__":
    sys.exit(common.main(__doc__, FLAGS, measure))
