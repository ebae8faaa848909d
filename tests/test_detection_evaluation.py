"""Average precision: VOC against hand-made cases, a plain loop and Detectron2; COCO against pycocotools."""

import copy
import json

import detection_toys as toys
import numpy as np
import pycocotools.mask
import pytest
import torch
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances

from benchmarks.evaluation import official, synthetic
from transfer import run as command
from transfer.detection import d2, evaluation

# VOC

def table(**images):
    """image=[(box, difficult), ...] -> the truth that voc_class_precisions takes."""
    return {name: (np.array([box for box, _ in items], float).reshape(-1, 4),
                   np.array([difficult for _, difficult in items], bool)) for name, items in images.items()}


A, B = [1, 1, 10, 10], [31, 31, 40, 40]
FAR = [81, 81, 90, 90]
HALF = [1, 1, 10, 20]  # 200 pixels, of which A has 100: IoU exactly 0.5

# name: (detections, truth, AP50 with eleven points, AP50 as area), by hand
CASES = {
    "perfect": ([("a", 0.9, A)], table(a=[(A, False)]), 100, 100),
    "nothing found": ([], table(a=[(A, False)]), 0, 0),
    "a duplicate after the right one costs nothing": (
        [("a", 0.9, A), ("a", 0.8, A)], table(a=[(A, False)]), 100, 100),
    "a duplicate is wrong": (  # right, duplicate, right: precision 1 to recall 1/2, then 2/3
        [("a", 0.9, A), ("a", 0.8, A), ("a", 0.7, B)], table(a=[(A, False), (B, False)]),
        100 * (6 + 5 * 2 / 3) / 11, 100 * (1 / 2 + 1 / 3)),
    "wrong first": ([("a", 0.9, FAR), ("a", 0.8, A)], table(a=[(A, False)]), 50, 50),
    "half of the objects": ([("a", 0.9, A)], table(a=[(A, False), (B, False)]), 100 * 6 / 11, 50),
    "difficult counts neither way": (
        [("a", 0.9, B), ("a", 0.8, A)], table(a=[(A, False), (B, True)]), 100, 100),
    "difficult twice": (
        [("a", 0.9, B), ("a", 0.8, B), ("a", 0.7, A)], table(a=[(A, False), (B, True)]), 100, 100),
    "equal scores keep the order: wrong first": (
        [("a", 0.5, FAR), ("b", 0.5, A)], table(a=[], b=[(A, False)]), 50, 50),
    "equal scores keep the order: right first": (
        [("a", 0.5, A), ("b", 0.5, FAR)], table(a=[(A, False)], b=[]), 100, 100),
    "an overlap of exactly the threshold is too little": ([("a", 0.9, HALF)], table(a=[(A, False)]), 0, 0),
    "a detection belongs to the object it overlaps most, though another one is free": (
        [("a", 0.9, A), ("a", 0.8, [1, 1, 10, 11]), ("a", 0.7, A)],
        table(a=[(A, False), ([1, 3, 10, 12], False)]), 100 * 6 / 11, 50),
    "an image without the class": ([("b", 0.9, A)], table(a=[(A, False)], b=[]), 0, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_voc_by_hand(name):
    detections, truth, eleven, area = CASES[name]
    assert evaluation.voc_class_precisions(detections, truth, True)[0] == pytest.approx(eleven, abs=1e-9)
    assert evaluation.voc_class_precisions(detections, truth, False)[0] == pytest.approx(area, abs=1e-9)


def test_voc_class_without_an_object_that_counts_has_no_figure():
    assert evaluation.voc_class_precisions([("a", 0.9, A)], table(a=[(A, True)]), True) is None
    assert evaluation.voc_class_precisions([], table(a=[]), True) is None


def overlap(first, second):
    """IoU of two inclusive pixel boxes by counting pixels."""
    def pixels(box):
        return {(x, y) for x in range(box[0], box[2] + 1) for y in range(box[1], box[3] + 1)}
    return len(pixels(first) & pixels(second)) / len(pixels(first) | pixels(second))


def plain_voc(detections, truth, threshold, eleven):
    """The devkit's procedure as a plain loop over detections; IoU by counting pixels."""
    ranked = sorted(enumerate(detections), key=lambda item: (-item[1][1], item[0]))
    positives = sum(not difficult for items in truth.values() for _, difficult in items)
    used, right, wrong, curve = set(), 0, 0, []
    for _, (image, _, box) in ranked:
        overlaps = [overlap(box, other) for other, _ in truth[image]]
        best = max(range(len(overlaps)), key=lambda index: (overlaps[index], -index), default=None)
        if best is None or not overlaps[best] > threshold:
            wrong += 1
        elif not truth[image][best][1]:
            right, wrong = (right, wrong + 1) if (image, best) in used else (right + 1, wrong)
            used.add((image, best))
        curve.append((right / positives, right / max(right + wrong, 1)))
    if eleven:
        steps = [0.1 * step for step in range(11)]
        return sum(max((p for r, p in curve if r >= step), default=0) for step in steps) / 11
    area, before = 0.0, 0.0
    for index, (recall, _) in enumerate(curve):
        area += (recall - before) * max(p for _, p in curve[index:])
        before = recall
    return area


def random_boxes(draw, boxes, image):
    """Detections around some boxes, with duplicates, strangers and many equal scores."""
    found = []
    for box, _ in boxes:
        for _ in range(draw.integers(0, 4)):
            moved = [int(value + draw.integers(-3, 4)) for value in box]
            found.append((image, int(draw.integers(1, 8)) / 8, moved))
    return found + [(image, int(draw.integers(1, 8)) / 8, [40, 40, 52, 52])]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("eleven", [True, False], ids=["11 points", "area"])
def test_voc_against_a_plain_loop(seed, eleven):
    draw = np.random.default_rng(seed)
    truth = {}
    for image in "abcd":
        corners = draw.integers(1, 30, size=(draw.integers(0, 5), 2)).tolist()
        truth[image] = [([x, y, x + 11, y + 9], bool(draw.random() < 0.3)) for x, y in corners]
    truth["a"].append(([5, 5, 20, 20], False))
    detections = [item for image, boxes in truth.items() for item in random_boxes(draw, boxes, image)]
    ours = evaluation.voc_class_precisions(detections, table(**truth), eleven)
    plain = [100 * plain_voc(detections, truth, threshold / 100, eleven) for threshold in range(50, 100, 5)]
    assert ours == pytest.approx(plain, abs=1e-9)
    assert max(plain) > 0


def instances(height, width, boxes, scores, classes, masks=None):
    found = Instances((height, width))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores, found.pred_classes = torch.tensor(scores), torch.tensor(classes, dtype=torch.int64)
    if masks is not None:
        found.pred_masks = torch.as_tensor(masks)
    return {"instances": found}


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    root = toys.write_voc(tmp_path_factory.mktemp("voc"), {"VOC2007/test": 6, "VOC2012/val": 6})
    d2.register(["voc_2007_test", "voc_2012_val"], root)
    return root


@pytest.mark.parametrize("name", ["voc_2007_test", "voc_2012_val"])
def test_voc_evaluator_equals_detectron2_s(voc, name, tmp_path):
    """Without equal scores. Ours leaves absent classes out of the mean, theirs counts 0: compare sums."""
    from detectron2.data import DatasetCatalog

    draw = np.random.default_rng(0)
    ours, theirs = evaluation.VOCEvaluator(name, tmp_path), PascalVOCDetectionEvaluator(name)
    scores = iter(draw.permutation(np.arange(1, 1000)) / 1000)
    for evaluator in (ours, theirs):
        evaluator.reset()
    for record in DatasetCatalog.get(name):
        objects = record["annotations"] * 3
        boxes = np.array([np.array(item["bbox"]) + draw.normal(scale=1.5, size=4) for item in objects])
        kinds = [item["category_id"] for item in objects]
        outputs = [instances(record["height"], record["width"], boxes, [next(scores) for _ in boxes], kinds)]
        for evaluator in (ours, theirs):
            evaluator.process([record], outputs)
    mine = ours.evaluate()["bbox"]
    with np.errstate(all="ignore"):  # Detectron2 divides by zero for classes without objects
        reference = theirs.evaluate()["bbox"]
    present = len(json.loads((tmp_path / "per_class.json").read_text()))
    assert 1 < present < 20
    for key in ("AP", "AP50", "AP75"):
        assert mine[key] * present == pytest.approx(reference[key] * 20, abs=1e-9)
    assert 0 < mine["AP75"] < mine["AP50"] < 100


def test_voc_evaluator_does_not_depend_on_the_order_of_images(voc, tmp_path):
    from detectron2.data import DatasetCatalog

    results = []
    for step in (1, -1):
        evaluator = evaluation.VOCEvaluator("voc_2007_test", tmp_path)
        evaluator.reset()
        for number, record in list(enumerate(DatasetCatalog.get("voc_2007_test")))[::step]:
            box = record["annotations"][0]["bbox"] if number % 2 else [0, 0, 9, 9]
            kind = record["annotations"][0]["category_id"]
            evaluator.process([record], [instances(90, 90, [box], [0.5], [kind])])
        results.append(evaluator.evaluate()["bbox"])
    assert results[0] == results[1] and results[0]["AP50"] > 0


def test_voc_without_detections_is_zero(voc, tmp_path):
    evaluator = evaluation.VOCEvaluator("voc_2007_test", tmp_path)
    evaluator.reset()
    assert evaluator.evaluate()["bbox"] == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}


# COCO

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
def coco_root(tmp_path_factory):
    root = toys.write_coco(tmp_path_factory.mktemp("coco"), {"val2017": 12})
    d2.register(["coco_2017_val"], root)
    return root


@pytest.fixture(scope="module")
def truth(coco_root):
    return json.loads((coco_root / "coco" / "annotations" / "instances_val2017.json").read_text())


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
    ours, per_class = evaluation.coco_figures(truth, detections, kind)
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
    ours, _ = evaluation.coco_figures(truth, detections, kind)
    assert list(ours) == list(evaluation.COCO_NAMES) and len(ours) == 12
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
    figures, _ = evaluation.coco_figures(small, found, "segm")
    assert figures["APs"] == pytest.approx(50, abs=1e-9)


def evaluator(tmp_path, coco_root):
    from detectron2.data import DatasetCatalog

    found = evaluation.COCOFigures("coco_2017_val", ("bbox", "segm"), output_dir=str(tmp_path),
                                   use_fast_impl=False)
    found.reset()
    return found, DatasetCatalog.get("coco_2017_val")


def test_coco_without_detections_is_zero(coco_root, tmp_path):
    found, records = evaluator(tmp_path, coco_root)
    for record in records:
        found.process([record], [instances(record["height"], record["width"], [], [], [],
                                           torch.zeros(0, record["height"], record["width"], dtype=bool))])
    results = found.evaluate()
    assert {kind: values["AP"] for kind, values in results.items()} == {"bbox": 0.0, "segm": 0.0}
    assert all(value == 0.0 for values in results.values() for value in values.values())


def test_coco_evaluator_maps_classes_back_and_finds_perfect_detections(coco_root, tmp_path):
    found, records = evaluator(tmp_path, coco_root)
    for record in records:
        real = [item for item in record["annotations"] if not item["iscrowd"]]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (item["bbox"] for item in real)]
        masks = np.zeros((len(real), record["height"], record["width"]), bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes):
            mask[y0:y1, x0:x1] = True
        found.process([record], [instances(record["height"], record["width"], boxes, [0.9] * len(real),
                                           [item["category_id"] for item in real], masks)])
    results = found.evaluate()
    assert results["bbox"]["AP"] == results["segm"]["AP"] == 100.0
    per_class = json.loads((tmp_path / "per_class.json").read_text())
    names = [kind + name for kind in ("box_", "mask_") for name in ("AP", "AP50", "AP75")]
    assert per_class == dict.fromkeys(toys.CLASSES, dict.fromkeys(names, 100.0))


# --eval-only

def figures(said):
    """The figures that run.py printed, without the time."""
    return [line.split("  (")[0] for line in said.out.splitlines() if line.startswith("voc_det seed 0: AP50")]


def test_eval_only_gives_the_figures_of_the_run_again_and_stores_nothing(tmp_path, monkeypatch, capsys):
    root = toys.write_voc(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    found, original = [], evaluation.voc_class_precisions
    monkeypatch.setattr(evaluation, "voc_class_precisions", lambda detections, *others: (
        found.extend(detections), original(detections, *others))[1])

    def run(*words):
        found.clear()
        status = command.main([
            "--task", "voc_det", "--weights", "random", "--data", str(root), "--results", "runs",
            "--device", "cpu", "--workers", "0", *words, *toys.SMALL, "SOLVER.MAX_ITER", "2",
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"])
        return status, capsys.readouterr()

    status, said = run("--output", "out", "--eval-only")
    assert status == 2 and "expected the checkpoint of a detection run, found none" in said.err
    assert not (tmp_path / "out").exists()
    status, said = run("--output", "out")
    first, detected = figures(said), list(found)
    assert status == 0 and len(detected) > 10
    kept = [tmp_path / "out" / "metrics.json", *(tmp_path / "runs").rglob("*.json")]
    before = [path.read_bytes() for path in kept]
    status, said = run("--output", "out", "--eval-only")
    assert status == 0 and figures(said) == first and found == detected
    assert "model_final.pth: 2 of 2 iterations" in said.out and "eta:" not in said.out
    assert [path.read_bytes() for path in kept] == before and len(kept) > 1
    status, said = run("--output", "out", "--eval-only", "--seed", "1")
    assert status == 2 and "is a run with another seed" in said.err
