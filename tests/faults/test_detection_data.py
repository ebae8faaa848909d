"""The data of a detection run: what is refused before it, in one line, and what a run takes as it is."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import detection_toys as toys
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from tests.faults import detection_data as faults
from transfer import run as command
from transfer.classification import layouts
from transfer.detection import sets, trainer
from transfer.detection.loader import TrainLoader
from transfer.detection.protocol import Config, data
from transfer.detection.sets import coco, coco_json, contract, voc

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return toys.write_coco(toys.write_voc(tmp_path_factory.mktemp("good")))


@pytest.fixture
def root(good, tmp_path):
    return shutil.copytree(good, tmp_path / "data")


def configured(kind, root):
    yaml, pairs = faults.SETS[kind]
    if kind == "mine":
        pairs = ("dataset", faults.write_declaration(root) if not (root / "mine.yaml").exists() else
                 str(root / "mine.yaml"))
    return Config(yaml).override(pairs)


def run_through(config, context):
    """Read all data as a run does: every training picture mapped, every test picture measured."""
    cfg = trainer.prepare(config, context)
    loader = TrainLoader(cfg)
    for place in range(len(loader.stream)):
        found = loader.mapper(loader.stream[place])["instances"]
        assert torch.isfinite(found.gt_boxes.tensor).all()
        assert found.has("gt_masks") is cfg.MODEL.MASK_ON or not len(found)
    name = cfg.DATASETS.TEST[0]
    evaluator = trainer.Trainer.build_evaluator(cfg, name)
    evaluator.reset()
    records = {record["image_id"]: record for record in DatasetCatalog.get(name)}
    for (picture,) in trainer.Trainer.build_test_loader(cfg, name):
        real = [item for item in records[picture["image_id"]]["annotations"] if not item.get("iscrowd")]
        boxes = [[*box[:2], box[0] + box[2], box[1] + box[3]] if item["bbox_mode"] == 1 else box
                 for item in real for box in [item["bbox"]]]
        masks = np.zeros((len(real), picture["height"], picture["width"]), bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes):
            mask[int(y0):int(y1), int(x0):int(x1)] = True  # the toys' outlines
        evaluator.process([picture], [toys.instances(
            picture["height"], picture["width"], boxes, [0.9] * len(real),
            [item["category_id"] for item in real], masks if cfg.MODEL.MASK_ON else None)])
    return evaluator.evaluate()


@pytest.mark.parametrize("name, edit, promise", faults.CASES, ids=[name for name, *_ in faults.CASES])
def test_what_is_promised_of_odd_data_holds(root, record_property, name, edit, promise):
    edit(root)
    config, context = configured(name.split(":")[0], root), toys.context(root, root.parent / "out")
    if promise != "accepted":
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            data(config, context)
        record_property("seen", str(error.value).replace(str(root), ""))
        assert promise in str(error.value) and "\n" not in str(error.value)
        return
    data(config, context)
    (root.parent / "out" / "inference").mkdir(parents=True)
    figures = run_through(config, context)
    record_property("seen", f"accepted: AP50 {figures['bbox']['AP50']:.1f} of the truth itself")
    assert figures["bbox"]["AP50"] == pytest.approx(100)
    assert ("segm" in figures) is config.resolved()["MODEL.MASK_ON"]
    assert figures.get("segm", {}).get("AP50", 100) == pytest.approx(100)


@pytest.mark.parametrize("outline, sound", [
    ("[[1, 2, 3, 4, 5, 6]]", True), ("[[1.5,2,3,4,5,0]]", True),
    ("[ [1,\n2, 3,4, 5,6], [0,0,9,9,9,0,0,9] ]", True),
    ("[[1, 2, 3, 4]]", False), ("[[1, 2, 3, 4, 5, 6, 7]]", False), ("[[1, 2, 3, 4, 5, 6], [1, 2]]", False),
    ("[[1, 2, 3, 4, 5, NaN]]", False), ("[[1, 2, 3, 4, 5, 1e9]]", False), ("[[1, 2, 3, 4, 5, 20000]]", False),
    ("[[1, 2, 3, 4, 5, 06]]", False), ("[[1, 2, 3, 4, 5, 6.]]", False), ("[[1, 2, 3, 4, 5, 6,]]", False),
    ("[1, 2, 3, 4, 5, 6]", False), ("[[-1, 2, 3, 4, 5, 6]]", False), ("[]", False),
    ('"[[1, 2, 3, 4, 5, 6]]"', False),
])
def test_outlines_that_are_not_parsed_are_sound(outline, sound):
    found = coco_json.SOUND.fullmatch(b'"segmentation": ' + outline.encode())
    assert bool(found) is sound
    assert not found or coco_json._polygons(json.loads(outline))


def test_those_of_a_usual_file_are_not_parsed(root):
    text = faults.labels(root, "train2017").read_bytes()
    assert len(coco_json.SOUND.findall(text)) == text.count(b'"iscrowd": 0')


def test_the_table_has_every_kind_once():
    names = [name for name, *_ in faults.CASES]
    assert len(set(names)) == len(names) > 70


def test_a_few_useless_boxes_of_very_many_are_tolerated(root, monkeypatch):
    """COCO's training set has some without area, which Detectron2 leaves out."""
    faults.item(bbox=[9, 9, 0, 5])(root)
    for module in (coco_json, voc):
        monkeypatch.setattr(module, "RARE", 15)  # of so many one is tolerated
    config, context = configured("coco", root), toys.context(root, root.parent)
    data(config, context)
    faults.box(1, 1, 95, 5)(root)
    with pytest.raises(ValueError, match="000000.xml: object 1 .cat.: expected a box within its picture"):
        data(configured("voc", root), context)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_command_refuses_in_one_line_and_all_processes_end(root, processes):
    faults.turned(faults.COCO_VAL, 6)(root)
    words = [str(ROOT / "transfer" / "run.py"), "--task", "coco_det", "--weights", "random", "--smoke",
             "--check", "--device", "cpu", "--data", str(root), "MODEL.ROI_HEADS.NUM_CLASSES", "3"]
    if processes > 1:
        words = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
                 "--no-python", sys.executable, *words]
    done = subprocess.run([sys.executable, *words], cwd=root, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    said = [line for line in done.stderr.splitlines() if "000000000007.jpg" in line]
    assert done.returncode != 0 and len(said) == 1, done.stderr
    assert said[0].startswith("error: ") and "as its EXIF orientation turns it, labelled" in said[0]
    if processes == 1:
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout


def test_the_check_says_what_would_run(root, capsys, monkeypatch):
    monkeypatch.chdir(root)
    words = ["--task", "voc_det", "--weights", "random", "--device", "cpu", "--data", str(root), "--check"]
    assert command.main(words) == 0 and "{'train': 9, 'test': 3}" in capsys.readouterr().out
    faults.difficult("<difficult>maybe</difficult>")(root)
    assert command.main(words) == 2
    assert "object 1 (" in capsys.readouterr().err and not (root / "output").exists()


def test_what_was_found_of_a_large_part_is_noted_and_holds_until_something_changes(root, monkeypatch):
    """Without the note, labels are parsed and pictures opened; with it, neither."""
    looks = []
    monkeypatch.setattr(coco, "LARGE", 4)  # train2017 has six pictures, val2017 three
    for module, name in ((coco_json, "_lists"), (contract, "picture_size")):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda path, *rest, original=original: (
            looks.append(Path(path).name), original(path, *rest))[1])
    context = toys.context(root, root / "out", cache=root / "cache")

    def check():
        looks.clear()
        coco_json.read.cache_clear()
        return data(configured("coco", root), context)

    first = check()
    assert "instances_train2017.json" in looks and "000000000001.jpg" in looks
    assert check() == first and "instances_train2017.json" not in looks and "000000000001.jpg" not in looks
    assert "000000000007.jpg" in looks  # of the small part
    (note,) = (root / "cache" / "detection").iterdir()
    for edit, promise in (
            (faults.content(faults.COCO_TRAIN, lambda old: old + b"x"), "accepted"),
            (faults.turned(faults.COCO_TRAIN, 6), "000000000001.jpg: expected a picture as large as"),
            (faults.item(bbox=[1, 2, 3]), "expected a bbox"),
            (lambda root: note.write_text("[1, 2]"), "accepted"),
    ):
        saved = shutil.copytree(root / "coco", root / "saved")
        edit(root)
        if promise == "accepted":
            assert check()["counts"] == first["counts"] and "000000000001.jpg" in looks
        else:
            with pytest.raises(ValueError, match=promise):
                check()
        shutil.rmtree(root / "coco")
        saved.rename(root / "coco")
    with pytest.raises(ValueError, match="pass INPUT.MASK_FORMAT bitmask"):  # another use, another note
        faults.runs(True)(root)
        check()


# The SVMs

@pytest.mark.parametrize("edit, promise", [
    (edit, promise) for name, edit, promise in faults.CASES if name in (
        "voc: difficult empty", "voc: difficult False", "voc: difficult left out", "voc: difficult maybe",
        "voc: class missing", "voc: class in a line of its own", "voc: file cut off", "voc: another root",
        "voc: entities without end", "voc: letters of Latin-1", "voc: letters of Latin-1, as it says",
        "voc: list with a mark at the start", "voc: name twice", "voc: names with endings",
        "voc: pictures under another ending")] + [
    (faults.more_lines("000009"), "trainval, found 1 of them, first JPEGImages/000009.jpg")])
def test_the_svms_accept_what_detection_accepts(root, edit, promise):
    edit(root)
    if promise == "accepted":
        detection = sets.find("voc_2007_trainval", root, {}).truth()
        samples = layouts.voc(root / "VOC2007", "trainval")
        for column, name in enumerate(samples.classes):
            wanted = [1 if (~hard).any() else 0 if len(hard) else -1 for _, hard in detection[name].values()]
            assert samples.labels[:, column].tolist() == wanted
    else:
        with pytest.raises((ValueError, FileNotFoundError), match=re.escape(promise.split("first ")[-1])):
            layouts.voc_pair(root / "VOC2007", 1)
