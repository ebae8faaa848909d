"""Tiny VOC and COCO trees for the tests of the detection wing: coloured rectangles, some wide, some tall."""

import json

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from transfer.detection import d2, sets
from transfer.settings import Context

# KEY VALUE pairs that make a run of seconds, for any detection config
SMALL = ("SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "1", "SOLVER.STEPS", "()",
         "SOLVER.BASE_LR", "0.001", "INPUT.MIN_SIZE_TRAIN", "(48, 64)", "INPUT.MAX_SIZE_TRAIN", "96",
         "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96",
         "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "20",
         "MODEL.RPN.POST_NMS_TOPK_TEST", "5", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "4",
         "TEST.DETECTIONS_PER_IMAGE", "5", "TEST.PRECISE_BN.NUM_ITER", "1")

CLASSES = ("cat", "person", "bus")


def context(root, out, **changes):
    defaults = {"gpus": 1, "workers": 0, "seed": 0, "device": "cpu"}
    return Context(out=out, data=root, **{**defaults, **changes})


SIZES = ((60, 90), (96, 64))


def picture(draw, number, sizes=SIZES):
    """Return (PIL image, [(class number, [x0, y0, x1, y1])]), 0-based, exclusive ends."""
    width, height = sizes[number % len(sizes)]
    pixels = np.full((height, width, 3), 90, np.uint8)
    objects = []
    for _ in range(draw.integers(1, 4)):
        x0, y0 = (int(draw.integers(0, side - 24)) for side in (width, height))
        x1, y1 = x0 + int(draw.integers(12, 24)), y0 + int(draw.integers(12, 24))
        kind = int(draw.integers(len(CLASSES)))
        pixels[y0:y1, x0:x1] = np.eye(3, dtype=np.uint8)[kind] * 220
        objects.append((kind, [x0, y0, x1, y1]))
    return Image.fromarray(pixels), objects


def voc_xml(size, objects, difficult=()):
    """objects: [(class name, [xmin, ymin, xmax, ymax])], 1-based and inclusive; difficult: their numbers."""
    items = "".join(
        f"<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>"
        f"<difficult>{int(number in difficult)}</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for number, (name, box) in enumerate(objects))
    return (f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
            f"{items}</annotation>")


def write_voc(root, counts={"VOC2007/trainval": 5, "VOC2012/trainval": 4, "VOC2007/test": 3}, sizes=SIZES):
    """Write folder/split trees with so many images each; every fifth object is difficult."""
    draw, number = np.random.default_rng(0), 0
    for place, count in counts.items():
        folder, split = root / place.split("/")[0], place.split("/")[1]
        for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        names = []
        for _ in range(count):
            image, objects = picture(draw, number, sizes)
            name = f"{number:06d}"
            image.save(folder / "JPEGImages" / f"{name}.jpg")
            boxes = [(CLASSES[kind], [x0 + 1, y0 + 1, x1, y1]) for kind, (x0, y0, x1, y1) in objects]
            difficult = {0} if number % 5 == 4 and len(boxes) > 1 else ()
            (folder / "Annotations" / f"{name}.xml").write_text(voc_xml(image.size, boxes, difficult))
            names.append(name)
            number += 1
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def write_coco(root, counts={"train2017": 6, "val2017": 3}):
    """Write coco/ with polygon masks, one crowd region, and category ids 1, 3, 7 (with gaps, as COCO has)."""
    draw, number, label = np.random.default_rng(1), 0, 0
    for split, count in counts.items():
        images, annotations = [], []
        (root / "coco" / split).mkdir(parents=True, exist_ok=True)
        (root / "coco" / "annotations").mkdir(exist_ok=True)
        for _ in range(count):
            number += 1
            image, objects = picture(draw, number)
            image.save(root / "coco" / split / f"{number:012d}.jpg")
            images.append({"id": number, "file_name": f"{number:012d}.jpg", "width": image.width,
                           "height": image.height})
            for kind, (x0, y0, x1, y1) in objects:
                label += 1
                annotations.append({"id": label, "image_id": number, "category_id": (1, 3, 7)[kind],
                                    "iscrowd": 0, "bbox": [x0, y0, x1 - x0, y1 - y0],
                                    "area": (x1 - x0) * (y1 - y0),
                                    "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]]})
        # the first rows of the last image as one crowd region, run lengths by columns
        size = [images[-1]["height"], images[-1]["width"]]
        label += 1
        annotations.append({"id": label, "image_id": number, "category_id": 1, "iscrowd": 1,
                            "bbox": [0, 0, size[1], 10], "area": 10 * size[1],
                            "segmentation": {"size": size, "counts": [0] + [10, size[0] - 10] * size[1]}})
        categories = [{"id": category, "name": name} for category, name in zip((1, 3, 7), CLASSES)]
        (root / "coco" / "annotations" / f"instances_{split}.json").write_text(
            json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return root


def register(names, root):
    """Register data sets that are known by name, below a root."""
    d2.register({name: sets.find(name, root, {}) for name in names})


def instances(height, width, boxes, scores, classes, masks=None):
    """Return the output of a detector for one image."""
    found = Instances((height, width))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores, found.pred_classes = torch.tensor(scores), torch.tensor(classes, dtype=torch.int64)
    if masks is not None:
        found.pred_masks = torch.as_tensor(masks)
    return {"instances": found}
