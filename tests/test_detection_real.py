"""Real VOC and COCO images through the papers' own YAML: only sizes and numbers of iterations differ."""

import json
import shutil

import numpy as np
import pycocotools.mask
import pytest

from benchmarks.evaluation import official
from transfer import run as command
from transfer.detection.sets import coco

SMALLER = {"SOLVER.MAX_ITER": "2", "SOLVER.IMS_PER_BATCH": "1", "TEST.PRECISE_BN.NUM_ITER": "1",
           "INPUT.MIN_SIZE_TRAIN": "24", "INPUT.MAX_SIZE_TRAIN": "32",
           "INPUT.MIN_SIZE_TEST": "24", "INPUT.MAX_SIZE_TEST": "32"}


def transfer(task, data, out):
    """Run a task by its command; return its record, which departs from the paper as asked for only."""
    words = ["--task", task, "--weights", "random", "--data", str(data), "--output", str(out / "run"),
             "--results", str(out / "records"), "--device", "cpu", "--workers", "0"]
    assert command.main([*words, *(word for pair in SMALLER.items() for word in pair)]) == 0
    record = json.loads(next((out / "records").rglob("*-s0.json")).read_text())
    assert {key for key in record["scaled"] if not key.startswith("data.")} == {
        *SMALLER, "batch_norm_images"}
    return record


@pytest.fixture(scope="module")
def coco_run(shared_data, tmp_path_factory):
    """A run on 80 and 79 images of COCO: (truth of the test images, its detections, its record)."""
    folder = tmp_path_factory.mktemp("coco")
    shutil.unpack_archive(shared_data / "coco_mini" / "coco_mini.tar.xz", folder)
    record = transfer("coco_det", folder, folder)
    truth = json.loads((folder / "coco" / "annotations" / "instances_val2017.json").read_text())
    found = json.loads((folder / "run" / "inference" / "coco_instances_results.json").read_text())
    return truth, found, record


def test_voc_runs_through_the_paper_s_yaml(shared_data, tmp_path):
    shutil.unpack_archive(shared_data / "voc_mini" / "voc_mini.tar.xz", tmp_path)
    record = transfer("voc_det", tmp_path / "VOCdevkit", tmp_path)
    assert record["data"]["counts"] == {"train": 60, "test": 40}
    assert set(record["metrics"]) == {"AP50", "AP", "AP75"}
    assert len(json.loads((tmp_path / "run" / "record" / "per_class.json").read_text())) == 20


def test_coco_runs_through_the_paper_s_yaml(coco_run):
    truth, _, record = coco_run
    assert record["data"]["counts"] == {"train": 80, "test": 79} and len(truth["images"]) == 79
    assert set(record["metrics"]) == {prefix + name for prefix in coco.Part.prefixes.values()
                                      for name in coco.FIGURES}


def moved(truth, seed=0):
    """Return detections near the objects of a COCO truth: boxes and masks moved, a fifth of another class."""
    draw, found = np.random.default_rng(seed), []
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    kinds = [category["id"] for category in truth["categories"]]
    for item in truth["annotations"] * 2:
        size, outline = sizes[item["image_id"]], item["segmentation"]
        runs = pycocotools.mask.frPyObjects(outline, *size)
        mask = pycocotools.mask.decode(pycocotools.mask.merge(runs) if isinstance(runs, list) else runs)
        shift = draw.normal(scale=np.array(item["bbox"][2:]) / 12).round().astype(int)
        rle = pycocotools.mask.encode(np.asfortranarray(np.roll(mask, shift[::-1], (0, 1))))
        x, y, width, height = item["bbox"]
        found.append({"image_id": item["image_id"], "bbox": [x + shift[0], y + shift[1], width, height],
                      "category_id": item["category_id"] if draw.random() < 0.8 else int(draw.choice(kinds)),
                      "score": int(draw.integers(1, 50)) / 50,
                      "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}})
    return found


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_figures_equal_pycocotools_on_real_annotations(coco_run, kind):
    truth, found, _ = coco_run
    detections = moved(truth) + found  # of the run: few or none
    ours, _ = coco.figures(truth, detections, kind)
    assert ours == pytest.approx(official(truth, detections, kind), abs=1e-6)
    assert 10 < ours["AP75"] < ours["AP50"] < 90 and len(ours) == 12
