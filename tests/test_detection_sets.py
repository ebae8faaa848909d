"""The data sets of detection: those with a name, the user's own, and what a further kind has to bring."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import detection_toys as toys
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from parallel.mappings import differences
from transfer import run as command
from transfer.detection import configuration, sets, trainer
from transfer.detection.protocol import Config, data
from transfer.detection.sets.contract import Listing, misplaced, require_objects

ROOT = Path(__file__).resolve().parent.parent
VOC = Config("pascal_voc_R_50_C4_24k_bt.yaml")


@pytest.fixture
def root(tmp_path):
    return toys.write_voc(tmp_path)


@pytest.mark.parametrize("pairs, message", [
    (["MODEL.ROI_HEADS.NUM_CLASSES", "3"], "pass MODEL.ROI_HEADS.NUM_CLASSES 20"),
    (["DATASETS.TEST", "voc_2007_tests"], "did you mean voc_2007_test"),
    (["DATASETS.TEST", "()"], "one test set"),
])
def test_data_and_config_must_fit(root, pairs, message):
    with pytest.raises(ValueError, match=message):
        data(VOC.override(pairs), toys.context(root, root))


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="VOC2007"):
        data(VOC, toys.context(tmp_path / "nowhere", tmp_path))


def test_registering_again_and_another_root_replaces(tmp_path):
    first, second = (toys.write_coco(toys.write_voc(tmp_path / name)) for name in ("first", "second"))
    names = ["voc_2007_test", "coco_2017_val"]
    for root in (first, first, second):
        toys.register(names, root)
        for name in names:
            records = DatasetCatalog.get(name)
            assert len(records) == 3
            for record in records:
                assert record["file_name"].startswith(str(root))
                assert Image.open(record["file_name"]).size == (record["width"], record["height"])
            assert [name for name in MetadataCatalog.get(name).thing_classes if name in toys.CLASSES]
    assert MetadataCatalog.get("coco_2017_val").thing_classes == list(toys.CLASSES)


# The user's own

COCO = Config("coco_R_50_C4_1x_bt.yaml")
VOC_STYLE = f"""
kind: voc
root: VOC2007
classes: [{", ".join(toys.CLASSES)}]
train: {{names: ImageSets/Main/trainval.txt}}
test: {{names: ImageSets/Main/test.txt}}
"""
COCO_STYLE = """
kind: coco
root: coco
train: {annotations: annotations/instances_train2017.json, images: train2017}
test: {annotations: annotations/instances_val2017.json, images: val2017}
"""


@pytest.fixture
def place(root):
    """A folder of both layouts, beside which `declare` writes."""
    return toys.write_coco(root)


def declare(place, text, name="mine.yaml"):
    (place / name).write_text(text)
    return str(place / name)


def edit_annotations(place, function, split="train2017"):
    path = place / "coco" / "annotations" / f"instances_{split}.json"
    truth = json.loads(path.read_text())
    for item in truth["annotations"]:
        function(item)
    path.write_text(json.dumps(truth))


def test_a_voc_style_set_says_names_and_classes_to_the_config_and_its_hash_to_the_record(place, tmp_path):
    config = VOC.override(["dataset", declare(place, VOC_STYLE)])
    changed = differences(VOC.resolved(), config.resolved())
    assert {key: used for key, (_, used) in changed.items()} == {
        "DATASETS.TRAIN": ["mine_train"], "DATASETS.TEST": ["mine_test"], "MODEL.ROI_HEADS.NUM_CLASSES": 3,
        "SOLVER.MAX_ITER": 420, "SOLVER.STEPS": [310, 380], "SOLVER.WARMUP_ITERS": 20,
        "mine_train.classes": list(toys.CLASSES), "mine_test.classes": list(toys.CLASSES)}
    context = toys.context(tmp_path / "no root", tmp_path)
    found = data(config, context)
    assert found["name"] == "mine_train, mine_test" and found["counts"] == {"train": 5, "test": 3}
    label = place / "VOC2007" / "Annotations" / "000000.xml"
    label.write_text(label.read_text().replace("<difficult>0", "<difficult>1"))
    assert data(config, context)["fingerprint"] != found["fingerprint"]


def test_a_coco_style_set_has_its_classes_in_its_file_and_masks_or_none(place, tmp_path):
    path, context = declare(place, COCO_STYLE), toys.context(tmp_path, tmp_path)
    values = COCO.override(["dataset", path]).resolved()
    assert values["MODEL.ROI_HEADS.NUM_CLASSES"] == 3 and values["MODEL.MASK_ON"] is True
    for split in ("train2017", "val2017"):
        edit_annotations(place, lambda item: item.pop("segmentation"), split)
    config = COCO.override(["dataset", path])
    assert config.resolved()["MODEL.MASK_ON"] is False
    assert data(config, context)["counts"] == {"train": 6, "test": 3}
    with pytest.raises(ValueError, match="mine_train has boxes only.*MASK_ON False"):
        data(config.override(["MODEL.MASK_ON", "True"]), context)


def test_a_schedule_fits_the_number_of_images_unless_pairs_say_another(place):
    file = declare(place, VOC_STYLE)
    for pairs in (["SOLVER.MAX_ITER", "9"], ["SOLVER.STEPS", "(5,)"]):
        for order in (["dataset", file, *pairs], [*pairs, "dataset", file]):
            changed = differences(VOC.resolved(), VOC.override(order).resolved())
            assert [key for key in changed if key.startswith("SOLVER.")] == [pairs[0]]
    kept = VOC.override(["dataset", file, "SOLVER.WARMUP_ITERS", "7"]).resolved()
    assert (kept["SOLVER.MAX_ITER"], kept["SOLVER.WARMUP_ITERS"]) == (420, 7)
    both = VOC.override(["dataset", file, "DATASETS.TRAIN", "('mine_train', 'bccd_trainval')"]).resolved()
    assert both["SOLVER.MAX_ITER"] == 3210  # 297 images
    again = VOC.override(["dataset", file]).override(["SOLVER.BASE_LR", "1"]).resolved()
    assert again["SOLVER.MAX_ITER"] == 420


@pytest.mark.parametrize("yaml, pictures, iterations", [
    ("pascal_voc_R_50_C4_24k_bt.yaml", 16_551, 24_000), ("pascal_voc_R_50_C4_24k_bt.yaml", 5_011, 13_210),
    ("coco_R_50_C4_1x_bt.yaml", 118_287, 90_000), ("coco_R_50_C4_1x_bt.yaml", 300, 4_530)])
def test_the_rule_of_schedules(yaml, pictures, iterations):
    found = configuration.fitting(configuration.build(yaml), pictures)
    assert found["SOLVER.MAX_ITER"] == str(iterations)


def test_the_size_of_each_set_with_a_name_is_known():
    assert configuration.OFFICIAL.keys() == {name for kind in sets.KINDS.values() for name in kind.SETS}


def test_four_flags_stand_for_a_declaration(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    flags = ["--train-json", "coco/annotations/instances_train2017.json", "--train-images", "coco/train2017",
             "--val-json", "coco/annotations/instances_val2017.json", "--val-images", "coco/val2017"]
    words = ["--task", "coco_det", "--weights", "random", "--check", "--device", "cpu", "--cache", ""]
    assert command.main([*words, *flags, "TEST.DETECTIONS_PER_IMAGE", "5"]) == 0
    out = capsys.readouterr().out
    assert "data    coco_train, coco_test {'train': 6, 'test': 3}" in out, out
    assert "MODEL.ROI_HEADS.NUM_CLASSES: default 80, here 3" in out
    assert str(place) not in out
    for wrong, task in ((flags[:6], "coco_det"), (flags, "imagenet_knn")):
        found = f"found {len(wrong) // 2} and --task {task}"
        assert command.main(["--task", task, *words[2:], *wrong]) == 2
        err = capsys.readouterr().err
        assert "expected all four and a task of detection" in err and found in err and err.count("\n") == 1


def test_the_flags_and_a_declaration_at_once_are_refused(capsys):
    flags = ["--train-json", "a", "--train-images", "b", "--val-json", "c", "--val-images", "d"]
    words = ["--task", "coco_det", "--weights", "random", "--check", *flags]
    assert command.main([*words, "TEST.DETECTIONS_PER_IMAGE", "5", "dataset", "mine.yaml"]) == 2
    assert "--train-json: expected it or the pair dataset FILE, found both" in capsys.readouterr().err


def test_a_folder_of_any_name_is_a_declaration_and_its_errors_name_the_flag(place):
    for name, title in (("cells \U0001f9a0", "cells \U0001f9a0"), ("bccd", "own_bccd"), ("a.b", "a.b")):
        folder = (place / "coco").rename(place / name)
        halves = [(str(folder / f"annotations/instances_{split}.json"), str(folder / split))
                  for split in ("train2017", "val2017")]
        parts = sets.declared(sets.declaration(*halves))
        assert list(parts) == [f"{title}_train", f"{title}_test"]
        assert parts[f"{title}_train"].contents()[2] == 6
        folder.rename(place / "coco")
    for text, message in (("{kind: coco}", "^--train-json: expected JSON, found"),
                          ('{"kind": "coco"}', "^--train-json: train: expected keys below it, found None")):
        with pytest.raises(ValueError, match=message):
            sets.declared(text)


def test_later_pairs_win_and_a_named_set_may_stand_beside_one_s_own(place, tmp_path):
    other = declare(place, VOC_STYLE.replace("trainval", "test"), "other.yaml")
    config = VOC.override(["dataset", declare(place, VOC_STYLE), "dataset", other, "SOLVER.BASE_LR", "1"])
    config = config.override(["DATASETS.TRAIN", "('other_train', 'bccd_test')"])
    assert config.resolved()["DATASETS.TRAIN"] == ["other_train", "bccd_test"]
    assert config.resolved()["DATASETS.TEST"] == ["other_test"] and config.resolved()["SOLVER.BASE_LR"] == 1
    with pytest.raises(FileNotFoundError, match="BCCD"):
        data(config, toys.context(tmp_path, tmp_path))


def test_how_a_set_is_measured_belongs_to_the_record_s_config(place):
    eleven = VOC_STYLE.replace("test: {", "test: {eleven_points: true, ")
    area, other = (VOC.override(["dataset", declare(place, text)]).resolved() for text in (VOC_STYLE, eleven))
    assert differences(area, other) == {"mine_test.eleven_points": [None, True]}


def test_the_examples_of_the_documentation_are_declarations(tmp_path):
    examples = (ROOT / "docs" / "detection.md").read_text().split("```yaml\n")[1:]
    for kind, text in zip(sets.KINDS, examples, strict=True):
        parts = sets.declared(declare(tmp_path, text.split("```")[0].replace("\n# ", "\n")))
        assert list(parts) == ["mine_train", "mine_test"]
        assert all(isinstance(part, sets.KINDS[kind].Part) for part in parts.values())


def test_images_may_be_png_and_lie_in_folders_of_their_own(place, tmp_path):
    for path in (place / "VOC2007" / "JPEGImages").iterdir():
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    png = VOC.override(["dataset", declare(place, VOC_STYLE + "ending: .png\n")])
    assert data(png, toys.context(tmp_path, tmp_path))["counts"]["train"] == 5
    (place / "coco" / "test").mkdir()
    (place / "coco" / "val2017").rename(place / "coco" / "test" / "b")
    labels = place / "coco" / "annotations" / "instances_val2017.json"
    labels.write_text(labels.read_text().replace('"file_name": "', '"file_name": "b/'))
    nested = COCO.override(["dataset", declare(place, COCO_STYLE.replace("images: val2017", "images: test"))])
    assert data(nested, toys.context(tmp_path, tmp_path))["counts"]["test"] == 3


@pytest.mark.parametrize("text, message", [
    ("kind: voc: 3", "expected YAML"),
    ("!!python/object/apply:os.mkdir [executed]", "expected YAML.*python/object"),
    ("", "kind of voc, coco, found None"),
    ("[voc]", "kind of voc, coco"),
    ("kind: [voc]", "kind of voc, coco"),
    (VOC_STYLE.replace("kind: voc", "kind: vox"), "found 'vox'"),
    (VOC_STYLE.replace("test:", "val:"), "test: expected keys below it, found None"),
    (VOC_STYLE.replace("names: ImageSets/Main/test.txt", ""), "expected the key 'names'"),
    (VOC_STYLE.replace("{names: ImageSets/Main/test.txt}", "test.txt"), "test: expected keys below it"),
    (VOC_STYLE.replace("classes:", "clases:"), "unknown key 'clases'; did you mean classes"),
    (VOC_STYLE.replace("cat", "1"), "classes: expected a list of different words"),
    (VOC_STYLE.replace("cat", "bus"), "classes: expected a list of different words"),
    (VOC_STYLE + "eleven_points: 2007", "eleven_points: expected true or false"),
    (VOC_STYLE.replace("root: VOC2007", "root: 2007"), "root: expected a word"),
])
def test_a_bad_declaration_is_refused_in_one_line(place, tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        VOC.override(["dataset", declare(place, text)])
    assert "mine.yaml" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()


def test_a_declaration_must_exist_and_take_no_known_name(place):
    with pytest.raises(FileNotFoundError, match="none.yaml.*declares a data set"):
        VOC.override(["dataset", str(place / "none.yaml")])
    with pytest.raises(ValueError, match="bccd_test is a known data set"):
        VOC.override(["dataset", declare(place, VOC_STYLE, "bccd.yaml")])


def test_a_set_of_boxes_in_coco_s_form_trains_by_the_command_and_is_scaled(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split in ("train2017", "val2017"):
        edit_annotations(place, lambda item: item.pop("segmentation"), split)
    words = ["--task", "voc_det", "--weights", "random", "--device", "cpu", "--workers", "0",
             "--results", "runs", "--output", "out", "dataset", declare(place, COCO_STYLE)]
    assert command.main([*words, *toys.SMALL, "SOLVER.MAX_ITER", "2"]) == 0
    record = json.loads(next((tmp_path / "runs").rglob("*-s0.json")).read_text())
    assert record["data"]["name"] == "mine_train, mine_test" and len(record["data"]["fingerprint"]) == 64
    assert record["scaled"]["MODEL.ROI_HEADS.NUM_CLASSES"] == [20, 3]
    assert list(record["metrics"])[:3] == ["box_AP", "box_AP50", "box_AP75"]
    assert str(place) not in json.dumps(record["config"])
    per_class = json.loads((tmp_path / "out" / "record" / "per_class.json").read_text())
    assert per_class and set(per_class) <= set(toys.CLASSES)


# A further kind

@dataclass(frozen=True)
class Table:
    """One object an image, in a table: name, width, height, left, top, right, bottom, class number."""

    table: Path
    classes: tuple[str, ...]
    prefixes: ClassVar[dict[str, str]] = {"bbox": "toy_"}

    def rows(self):
        return [line.split() for line in self.table.read_text().splitlines()]

    def contents(self):
        return self.classes, False, len(self.rows())

    def check(self, use):
        boxes = [([float(side) for side in row[3:7]], (int(row[1]), int(row[2]))) for row in self.rows()]
        require_objects(self.table, sum(not misplaced(*box) for box in boxes), len(boxes), use)
        return Listing(tuple(row[0] for row in self.rows()), self.classes, False,
                       sha256(self.table.read_bytes()).hexdigest())

    def register(self, name):
        DatasetCatalog.register(name, lambda: [
            {"file_name": row[0], "image_id": row[0], "width": int(row[1]), "height": int(row[2]),
             "annotations": [{"bbox": [float(side) for side in row[3:7]], "bbox_mode": BoxMode.XYXY_ABS,
                              "category_id": int(row[7])}]} for row in self.rows()])
        MetadataCatalog.get(name).set(thing_classes=list(self.classes))

    def evaluator(self, name, folder, masks):
        return SimpleNamespace(name=name, folder=folder, masks=masks)


def test_a_further_kind_is_one_file_and_one_entry(tmp_path, monkeypatch):
    monkeypatch.setitem(sets.KINDS, "table", SimpleNamespace(
        Part=Table, SETS={"table_test": Table(Path("b.txt"), ("cat", "bus"))}))
    (tmp_path / "a.txt").write_text("0.jpg 60 40 1 2 30 40 0\n1.jpg 60 40 1 2 30 40 1\n")
    (tmp_path / "b.txt").write_text("2.jpg 60 40 1 2 30 40 1\n")
    text = "{kind: table, classes: [cat, bus], train: {table: a.txt}, test: {table: b.txt}}"
    config = VOC.override(["dataset", declare(tmp_path, text), "DATASETS.TEST", "table_test"])
    context = toys.context(tmp_path, tmp_path / "out")
    assert data(config, context)["counts"] == {"train": 2, "test": 1}
    cfg = trainer.prepare(config, context)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2 and len(DatasetCatalog.get("mine_train")) == 2
    assert trainer.Trainer.build_evaluator(cfg, "table_test") == SimpleNamespace(
        name="table_test", folder=tmp_path / "out" / "inference", masks=False)
    assert trainer.figures({"bbox": {"AP": 5}}, cfg) == {"toy_AP": 5.0}
    (tmp_path / "a.txt").write_text("0.jpg 60 40 1 2 99 40 0\n")
    with pytest.raises(ValueError, match="a.txt: expected objects to train on, found 1"):
        data(config, context)
