"""VOC: the check of a tree; average precision against hand-made cases, a plain loop and Detectron2's."""

import json

import detection_toys as toys
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_voc_instances
from detectron2.evaluation import PascalVOCDetectionEvaluator

from transfer.detection import sets
from transfer.detection.protocol import Config, data
from transfer.detection.sets import voc

VOC = Config("pascal_voc_R_50_C4_24k_bt.yaml")

# The check


@pytest.fixture
def root(tmp_path):
    return toys.write_voc(tmp_path)


def test_voc_counts_and_fingerprint(root):
    found = data(VOC, toys.context(root, root))
    assert found["counts"] == {"train": 9, "test": 3}
    assert found == data(VOC, toys.context(root, root))
    label = next((root / "VOC2012" / "Annotations").iterdir())
    label.write_text(label.read_text().replace("<difficult>0", "<difficult>1"))
    assert data(VOC, toys.context(root, root))["fingerprint"] != found["fingerprint"]


def test_boxes_may_have_fractions(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(toys.voc_xml((50, 40), [("cat", [1, 2.5, 30, 39.7])], difficult={0}))
    assert voc.read_objects(path) == ((50, 40), [("cat", [1, 2.5, 30, 39.7], True)])


# Average precision

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
    assert voc.class_precisions(detections, truth, True)[0] == pytest.approx(eleven, abs=1e-9)
    assert voc.class_precisions(detections, truth, False)[0] == pytest.approx(area, abs=1e-9)


def test_voc_class_without_an_object_that_counts_has_no_figure():
    assert voc.class_precisions([("a", 0.9, A)], table(a=[(A, True)]), True) is None
    assert voc.class_precisions([], table(a=[]), True) is None


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
    ours = voc.class_precisions(detections, table(**truth), eleven)
    plain = [100 * plain_voc(detections, truth, threshold / 100, eleven) for threshold in range(50, 100, 5)]
    assert ours == pytest.approx(plain, abs=1e-9)
    assert max(plain) > 0


# The evaluator

FOLDERS = {"voc_2007_test": ("VOC2007", "test", 2007), "voc_2012_val": ("VOC2012", "val", 2012)}


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    root = toys.write_voc(tmp_path_factory.mktemp("voc"), {"VOC2007/test": 6, "VOC2012/val": 6})
    toys.register(FOLDERS, root)
    return root


def evaluator(root, name, folder):
    found = sets.find(name, root, {}).evaluator(name, folder, masks=False)
    found.reset()
    return found


@pytest.mark.parametrize("name", FOLDERS)
def test_records_are_those_of_detectron2(registered, name):
    folder, split, _ = FOLDERS[name]
    reference = load_voc_instances(str(registered / folder), split, list(voc.CLASSES))
    assert DatasetCatalog.get(name) == reference and len(reference) == 6


@pytest.mark.parametrize("name", FOLDERS)
def test_evaluator_equals_detectron2_s(registered, name, tmp_path):
    """Without equal scores. Ours leaves absent classes out of the mean, theirs counts 0: compare sums."""
    folder, split, year = FOLDERS[name]
    MetadataCatalog.get(name).set(dirname=str(registered / folder), split=split, year=year)
    draw = np.random.default_rng(0)
    ours, theirs = evaluator(registered, name, tmp_path), PascalVOCDetectionEvaluator(name)
    theirs.reset()
    scores = iter(draw.permutation(np.arange(1, 1000)) / 1000)
    for record in DatasetCatalog.get(name):
        objects = record["annotations"] * 3
        boxes = np.array([np.array(item["bbox"]) + draw.normal(scale=1.5, size=4) for item in objects])
        kinds = [item["category_id"] for item in objects]
        found = [toys.instances(record["height"], record["width"], boxes, [next(scores) for _ in boxes],
                                kinds)]
        for one in (ours, theirs):
            one.process([record], found)
    mine = ours.evaluate()["bbox"]
    with np.errstate(all="ignore"):  # Detectron2 divides by zero for classes without objects
        reference = theirs.evaluate()["bbox"]
    present = len(json.loads((tmp_path / "per_class.json").read_text()))
    assert 1 < present < 20
    for key in ("AP", "AP50", "AP75"):
        assert mine[key] * present == pytest.approx(reference[key] * 20, abs=1e-9)
    assert 0 < mine["AP75"] < mine["AP50"] < 100


def test_evaluator_does_not_depend_on_the_order_of_images(registered, tmp_path):
    results = []
    for step in (1, -1):
        found = evaluator(registered, "voc_2007_test", tmp_path)
        for number, record in list(enumerate(DatasetCatalog.get("voc_2007_test")))[::step]:
            box = record["annotations"][0]["bbox"] if number % 2 else [0, 0, 9, 9]
            kind = record["annotations"][0]["category_id"]
            found.process([record], [toys.instances(90, 90, [box], [0.5], [kind])])
        results.append(found.evaluate()["bbox"])
    assert results[0] == results[1] and results[0]["AP50"] > 0


def test_without_detections_the_figures_are_zero(registered, tmp_path):
    figures = evaluator(registered, "voc_2007_test", tmp_path).evaluate()["bbox"]
    assert figures == {"AP50": 0.0, "AP": 0.0, "AP75": 0.0}
