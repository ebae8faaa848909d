"""Seconds of our COCO evaluation, as ratios to pycocotools, on as many detections as COCO has.

    python -m benchmarks.evaluation [--images 200]

Both take truth and detections from memory, index, evaluate, accumulate and summarise them. The twelve figures
must be equal. The detections are synthetic: 7 objects and 100 detections in each image of 640 x 480, 80
classes, polygons of 24 corners as truth, run lengths as detections, half of them near an object.
"""
import contextlib
import io
import os
import statistics
import sys

import numpy as np
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks import common
from benchmarks.common import compare, ratio
from transfer.detection.sets.coco import FIGURES, figures

FLAGS = {"images": 200}  # COCO's validation set has 5000
WIDTH, HEIGHT, CLASSES, OBJECTS, DETECTIONS, CORNERS = 640, 480, 80, 7, 100, 24


def outline(draw, centre, radii):
    """Return a polygon [x0, y0, x1, y1, ...] around a centre, with a ragged edge, inside the image."""
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    edge = draw.uniform(0.8, 1.0, CORNERS)
    x = np.clip(centre[0] + radii[0] * edge * np.cos(angles), 0, WIDTH)
    y = np.clip(centre[1] + radii[1] * edge * np.sin(angles), 0, HEIGHT)
    return np.stack([x, y], 1).ravel().round(2).tolist()


def box(polygon):
    x, y = polygon[::2], polygon[1::2]
    return [min(x), min(y), max(x) - min(x), max(y) - min(y)]


def synthetic(images, seed=0):
    """Return (COCO annotation dict, COCO results) with boxes and masks."""
    draw = np.random.default_rng(seed)
    annotations, found = [], []
    for image in range(1, images + 1):
        objects = [(draw.uniform((20, 20), (620, 460)), np.exp(draw.uniform(2, 5, 2)),
                    int(draw.integers(CLASSES))) for _ in range(OBJECTS)]
        for centre, radii, kind in objects:
            polygon = outline(draw, centre, radii)
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": kind + 1,
                                "iscrowd": 0, "segmentation": [polygon], "bbox": box(polygon),
                                "area": box(polygon)[2] * box(polygon)[3] * 0.7})
        for number in range(DETECTIONS):
            centre, radii, kind = objects[number % OBJECTS]
            if number < DETECTIONS // 2:  # near an object, of its class
                centre, radii = centre + draw.normal(scale=radii / 6), radii * draw.uniform(0.8, 1.2)
            else:
                centre, kind = draw.uniform((20, 20), (620, 460)), int(draw.integers(CLASSES))
            polygon = outline(draw, centre, radii)
            rle = masks.merge(masks.frPyObjects([polygon], HEIGHT, WIDTH))
            found.append({"image_id": image, "category_id": kind + 1, "score": round(float(draw.random()), 3),
                          "bbox": box(polygon),
                          "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}})
    return {"images": [{"id": number, "width": WIDTH, "height": HEIGHT} for number in range(1, images + 1)],
            "categories": [{"id": number + 1, "name": f"class {number}"} for number in range(CLASSES)],
            "annotations": annotations}, found


def official(truth, detections, kind):
    """Evaluate with pycocotools as Detectron2 calls it; returns {name: percent}."""
    own = [{key: value for key, value in item.items() if key != "bbox" or kind == "bbox"}
           for item in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {**truth, "annotations": [dict(item) for item in truth["annotations"]]}
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(own), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(FIGURES, 100 * evaluation.stats))


def measure(args):
    if hasattr(os, "sched_setaffinity"):  # faster-coco-eval uses as many threads as it may have cores
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    truth, detections = synthetic(args.images)
    rows = []
    for kind in ("bbox", "segm"):
        theirs, ours = official(truth, detections, kind), figures(truth, detections, kind)[0]
        apart = max(abs(theirs[name] - ours[name]) for name in FIGURES)
        if apart > 1e-6:
            raise ValueError(f"{kind}: expected pycocotools' figures, found {ours}, theirs {theirs}")
        seconds = compare({"pycocotools": lambda kind=kind: official(truth, detections, kind),
                           "ours": lambda kind=kind: figures(truth, detections, kind)}, rounds=3)
        rows.append(common.Row(f"{kind}, {args.images} images", "time, pycocotools over ours",
                               ratio(seconds["pycocotools"], seconds["ours"]),
                               beside=f"{statistics.median(seconds['ours']):.2f} s; twelve figures equal to "
                                      f"{apart:.0e} percent"))
    return rows


if __name__ == "__main__":
    sys.exit(common.main(__doc__, FLAGS, measure))
