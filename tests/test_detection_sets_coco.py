"""COCO: the check of an annotation file and its images; the figures against pycocotools."""

import copy
import json

import detection_toys as toys
import numpy as np
import pycocotools.mask
import pytest
import torch

from benchmarks.evaluation import official, synthetic
from transfer.detection import sets
from transfer.detection.protocol import Config, data
from transfer.detection.sets import coco

COCO = Config("coco_R_50_C4_1x_bt.yaml").override(["MODEL.ROI_HEADS.NUM_CLASSES", "3"])

# The check


@pytest.fixture
def root(tmp_path):
    return toys.write_coco(tmp_path)


def test_coco_counts_and_fingerprint(root):
    found = data(COCO, toys.context(root, root))
    assert found["counts"] == {"train": 6, "test": 3}
    image = root / "coco" / "val2017" / "000000000007.jpg"
    image.write_bytes(image.read_bytes() + b"x")
    assert data(COCO, toys.context(root, root))["fingerprint"] != found["fingerprint"]


# Figures

def coco_detections(truth, seed):
    """Moved copies of the objects with RLE masks, some under a wrong class, with many equal scores."""
    draw = np.random.default_rng(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    found = []
    for item in truth["annotations"] * 3:
        height, width = sizes[item["image_id"]]
        x, y, w, h = (max(0.0, value + draw.normal(scale=1.5)) for value in item["bbox"])
        mask = np.zeros((height, width), np.uint8, order="F")
        mask[round(y):round(y + h) + 1, round(x):round(x + w) + 1] = 1
        rle = pycocotools.mask.encode(mask)
        found.append({"image_id": item["image_id"], "bbox": [x, y, w, h],
                      "score": int(draw.integers(1, 9)) / 9,
                      "category_id": item["category_id"] if draw.random() < 0.8 else 3,
                      "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}})
    return found


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    root = toys.write_coco(tmp_path_factory.mktemp("coco"), {"val2017": 12})
    toys.register(["coco_2017_val"], root)
    return root


@pytest.fixture(scope="module")
def truth(registered):
    return json.loads((registered / "coco" / "annotations" / "instances_val2017.json").read_text())


def with_empty_images(truth):
    """The toys' truth, the first image without an object of its own, and one more that nobody labelled."""
    first = truth["images"][0]
    return {**truth, "images": [*truth["images"], {**first, "id": 99}],
            "annotations": [item for item in truth["annotations"] if item["image_id"] != first["id"]]}


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_coco_equals_pycocotools(truth, kind, seed):
    detections = coco_detections(truth, seed)
    truth = with_empty_images(truth)
    assert any(item["iscrowd"] for item in truth["annotations"])
    before = copy.deepcopy((truth, detections))
    ours, per_class = coco.figures(truth, detections, kind)
    reference = {name: value for name, value in official(truth, detections, kind).items() if value >= 0}
    assert ours == pytest.approx(reference, abs=1e-6) and len(ours) == 8
    assert 0 < ours["AP75"] < ours["AP50"] <= 100 and 0 < ours["AR1"] < ours["AR100"]
    for key in ("AP", "AP50", "AP75"):
        assert np.mean([row[key] for row in per_class.values()]) == pytest.approx(ours[key], abs=1e-6)
    assert (truth, detections) == before
    assert "APl" not in ours and "ARl" not in ours  # no object of the toys is large: left out, not NaN


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_equals_pycocotools_on_polygons_of_every_size(kind):
    truth, detections = synthetic(images=6)
    ours, _ = coco.figures(truth, detections, kind)
    assert list(ours) == list(coco.FIGURES) and len(ours) == 12
    assert ours == pytest.approx(official(truth, detections, kind), abs=1e-6)


def test_coco_masks_are_small_by_their_own_area_not_their_box_s():
    """One thin object found second: precision 1/2 among the small. By boxes, the wrong one were medium."""
    def thin(left):
        mask = np.zeros((200, 200), np.uint8, order="F")
        for step in range(60):
            mask[20 + step:24 + step, left + step] = 1
        rle = pycocotools.mask.encode(mask)
        return {"bbox": [left, 20, 60, 64],
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}}

    small = {"images": [{"id": 1, "height": 200, "width": 200}], "categories": [{"id": 1, "name": "cat"}],
             "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 240,
                              **thin(10)}]}
    found = [{"image_id": 1, "category_id": 1, "score": score, **thin(left)}
             for score, left in ((0.9, 90), (0.8, 10))]
    figures, _ = coco.figures(small, found, "segm")
    assert figures["APs"] == pytest.approx(50, abs=1e-9)


def evaluator(tmp_path, registered):
    from detectron2.data import DatasetCatalog

    part = sets.find("coco_2017_val", registered, {})
    found = part.evaluator("coco_2017_val", tmp_path, masks=True)
    found.reset()
    return found, DatasetCatalog.get("coco_2017_val")


def test_coco_without_detections_is_zero(registered, tmp_path):
    found, records = evaluator(tmp_path, registered)
    for record in records:
        found.process([record], [toys.instances(record["height"], record["width"], [], [], [],
                                           torch.zeros(0, record["height"], record["width"], dtype=bool))])
    results = found.evaluate()
    assert {kind: values["AP"] for kind, values in results.items()} == {"bbox": 0.0, "segm": 0.0}
    assert all(value == 0.0 for values in results.values() for value in values.values())


def test_coco_evaluator_maps_classes_back_and_finds_perfect_detections(registered, tmp_path):
    found, records = evaluator(tmp_path, registered)
    for record in records:
        real = [item for item in record["annotations"] if not item["iscrowd"]]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (item["bbox"] for item in real)]
        masks = np.zeros((len(real), record["height"], record["width"]), bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes):
            mask[y0:y1, x0:x1] = True
        found.process([record], [toys.instances(record["height"], record["width"], boxes, [0.9] * len(real),
                                           [item["category_id"] for item in real], masks)])
    results = found.evaluate()
    assert results["bbox"]["AP"] == results["segm"]["AP"] == 100.0
    per_class = json.loads((tmp_path / "per_class.json").read_text())
    names = [kind + name for kind in ("box_", "mask_") for name in ("AP", "AP50", "AP75")]
    assert per_class == dict.fromkeys(toys.CLASSES, dict.fromkeys(names, 100.0))
