"""The check of VOC and COCO trees, and Detectron2's registry pointed at them."""

import json

import detection_toys as toys
import pytest
from PIL import Image

from transfer.detection import d2
from transfer.detection import data as sets
from transfer.detection.protocol import Config, data

VOC = Config("pascal_voc_R_50_C4_24k_bt.yaml")
COCO = Config("coco_R_50_C4_1x_bt.yaml").override(["MODEL.ROI_HEADS.NUM_CLASSES", "3"])


@pytest.fixture
def voc(tmp_path):
    return toys.write_voc(tmp_path)


@pytest.fixture
def coco(tmp_path):
    return toys.write_coco(tmp_path)


def test_voc_counts_and_fingerprint(voc):
    found = data(VOC, toys.context(voc, voc))
    assert found["counts"] == {"train": 9, "test": 3}
    assert found == data(VOC, toys.context(voc, voc))
    label = next((voc / "VOC2012" / "Annotations").iterdir())
    label.write_text(label.read_text().replace("<difficult>0", "<difficult>1"))
    assert data(VOC, toys.context(voc, voc))["fingerprint"] != found["fingerprint"]


def test_coco_counts_and_fingerprint(coco):
    found = data(COCO, toys.context(coco, coco))
    assert found["counts"] == {"train": 6, "test": 3}
    image = coco / "coco" / "val2017" / "000000000007.jpg"
    image.write_bytes(image.read_bytes() + b"x")
    assert data(COCO, toys.context(coco, coco))["fingerprint"] != found["fingerprint"]


def remove(path):
    return lambda root: (root / path).unlink()


def write(path, text):
    return lambda root: (root / path).write_text(text)


ONE_BOX = toys.voc_xml((10, 10), [("unicorn", [1, 1, 5, 5])])
NO_BOX = toys.voc_xml((10, 10), [("cat", [5, 5, 1, 5])])


@pytest.mark.parametrize("damage, kind, message", [
    (remove("VOC2012/ImageSets/Main/trainval.txt"), FileNotFoundError, "VOC2012/ImageSets/Main/trainval.txt"),
    (remove("VOC2007/JPEGImages/000001.jpg"), FileNotFoundError, "1 of 5 listed files are missing"),
    (write("VOC2007/JPEGImages/000009.jpg", ""), FileNotFoundError, "000009.jpg"),
    (remove("VOC2007/Annotations/000010.xml"), FileNotFoundError, "000010.xml"),
    (write("VOC2007/ImageSets/Main/test.txt", "\n"), ValueError, "found none"),
    (write("VOC2007/Annotations/000010.xml", "<annotation>"), ValueError, "expected a VOC annotation"),
    (write("VOC2007/Annotations/000010.xml", "<annotation/>"), ValueError, "expected a VOC annotation"),
    (write("VOC2007/Annotations/000010.xml", ONE_BOX), ValueError, "unknown class 'unicorn'"),
    (write("VOC2007/Annotations/000010.xml", NO_BOX), ValueError, "expected a box"),
])
def test_an_incomplete_voc_tree_is_named_in_one_line(voc, damage, kind, message):
    damage(voc)
    with pytest.raises(kind) as error:
        data(VOC, toys.context(voc, voc))
    assert message in str(error.value) and "\n" not in str(error.value)


def change(split, function):
    def damage(root):
        path = root / "coco" / "annotations" / f"instances_{split}.json"
        truth = json.loads(path.read_text())
        function(truth)
        path.write_text(json.dumps(truth))
    return damage


@pytest.mark.parametrize("damage, kind, message", [
    (remove("coco/annotations/instances_val2017.json"), FileNotFoundError, "instances_val2017.json"),
    (remove("coco/train2017/000000000002.jpg"), FileNotFoundError, "1 of 6 listed files are missing"),
    (write("coco/annotations/instances_val2017.json", '{"images": ['), ValueError, "download it again"),
    (change("val2017", lambda truth: truth.pop("annotations")), ValueError, "'annotations'"),
    (change("val2017", lambda truth: truth["images"].clear()), ValueError, "found 0 images"),
    (change("val2017", lambda truth: truth["annotations"][0].update(image_id=99)), ValueError, "1 annotat"),
    (change("val2017", lambda truth: truth["categories"][0].update(name="dog")), ValueError, "other classes"),
])
def test_an_incomplete_coco_tree_is_named_in_one_line(coco, damage, kind, message):
    damage(coco)
    with pytest.raises(kind) as error:
        data(COCO, toys.context(coco, coco))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("pairs, message", [
    (["MODEL.ROI_HEADS.NUM_CLASSES", "3"], "pass MODEL.ROI_HEADS.NUM_CLASSES 20"),
    (["DATASETS.TEST", "voc_2007_tests"], "did you mean voc_2007_test"),
    (["DATASETS.TEST", "()"], "one test set"),
])
def test_data_and_config_must_fit(voc, pairs, message):
    with pytest.raises(ValueError, match=message):
        data(VOC.override(pairs), toys.context(voc, voc))


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="VOC2007"):
        data(VOC, toys.context(tmp_path / "nowhere", tmp_path))


def test_boxes_may_have_fractions(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(toys.voc_xml((50, 40), [("cat", [1, 2.5, 30, 39.7])], difficult={0}))
    assert sets.read_voc(path) == ((50, 40), [("cat", [1, 2.5, 30, 39.7], True)])


def test_registering_again_and_another_root_replaces(tmp_path):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    first, second = (toys.write_coco(toys.write_voc(tmp_path / name)) for name in ("first", "second"))
    names = ["voc_2007_test", "coco_2017_val"]
    for root in (first, first, second):
        d2.register(names, root)
        for name in names:
            records = DatasetCatalog.get(name)
            assert len(records) == 3
            for record in records:
                assert record["file_name"].startswith(str(root))
                assert Image.open(record["file_name"]).size == (record["width"], record["height"])
            assert [name for name in MetadataCatalog.get(name).thing_classes if name in toys.CLASSES]
    assert MetadataCatalog.get("coco_2017_val").thing_classes == list(toys.CLASSES)
