"""The embedded data: same bytes from the same seed, exact labels, formats that the real readers accept."""

import hashlib
import itertools
import json
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import hypothesis.extra.numpy
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy import ndimage
from sklearn.datasets import load_digits

from tools import demo, demo_data, demo_pictures
from transfer.tasks import TASKS

VOC_SPLITS = [("VOC2007", "train", 24), ("VOC2007", "val", 24), ("VOC2007", "trainval", 48),
              ("VOC2007", "test", 40), ("VOC2012", "train", 12), ("VOC2012", "val", 12),
              ("VOC2012", "trainval", 24)]


def tree_hash(root):
    """One hash over the names and bytes of every file below `root`."""
    total = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return total.hexdigest()


def voc_objects(folder, split):
    """Yield (image id, object element) of a split."""
    for identity in (folder / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
        for thing in ElementTree.parse(folder / "Annotations" / f"{identity}.xml").findall("object"):
            yield identity, thing


def voc_box(thing):
    """(xmin, ymin, xmax, ymax) as the file has them."""
    return [int(thing.find(f"bndbox/{name}").text) for name in ("xmin", "ymin", "xmax", "ymax")]


def overlap(first, second):
    """Intersection over union of two (x0, y0, x1, y1)."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return both / (sum(areas) - both)


@pytest.fixture(scope="module")
def coco(demo_root):
    return {split: COCO(demo_root / f"coco/annotations/instances_{split}.json")
            for split in ("train2017", "val2017")}


def test_same_seed_same_bytes(demo_root, tmp_path):
    demo_data.write(tmp_path / "again", seed=0)
    assert tree_hash(tmp_path / "again") == tree_hash(demo_root)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo_data, "PORTRAITS", {"imagenet": {"train": 10, "val": 1}})
    monkeypatch.setattr(demo_data, "SCENES", {"VOC2007": {"train": 1, "val": 1, "test": 1},
                                              "VOC2012": {"train": 1, "val": 1},
                                              "coco": {"train2017": 2, "val2017": 2}})


def test_another_seed_gives_other_pictures_of_other_digits(small, tmp_path):
    for seed in (0, 1):
        demo_data.write(tmp_path / str(seed), seed)
    name = "coco/train2017/000000000009.jpg"
    assert (tmp_path / "0" / name).read_bytes() != (tmp_path / "1" / name).read_bytes()
    shown = [json.loads((tmp_path / f"{seed}/demo_data.json").read_text())["samples"] for seed in (0, 1)]
    assert shown[0]["imagenet/train"] != shown[1]["imagenet/train"]


def test_finished_tree_is_kept_and_unfinished_or_other_one_is_replaced(small, tmp_path):
    picture = tmp_path / "imagenet/train/n00000003/n00000003_0.JPEG"
    stray = tmp_path / "coco/stray.txt"
    demo_data.write(tmp_path)
    first = tree_hash(tmp_path)
    stray.write_text("")
    demo_data.write(tmp_path)
    assert stray.exists(), "a finished tree was written again"

    state = json.loads((tmp_path / demo_data.MARK).read_text())
    for change in ({"complete": False}, {"seed": 7}, {"code": "older"}):
        picture.unlink()
        stray.write_text("")
        (tmp_path / demo_data.MARK).write_text(json.dumps({**state, **change}))
        demo_data.write(tmp_path)
        assert tree_hash(tmp_path) == first, change


def test_foreign_data_is_refused_and_left_alone(tmp_path):
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco/mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="found coco from elsewhere.*name another folder"):
        demo_data.write(tmp_path)
    command = [sys.executable, "-m", "tools.demo_data", str(tmp_path)]
    result = subprocess.run(command, cwd=demo.ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["coco", "mine.txt"]


@pytest.mark.parametrize("pattern, count", [
    ("imagenet/train/*/*.JPEG", 400), ("imagenet/val/*/*.JPEG", 200), ("places205/train/*/*.jpg", 120),
    ("places205/val/*/*.jpg", 60), ("inat18/train_val2018/*/*/*.jpg", 180), ("VOC2007/JPEGImages/*.jpg", 88),
    ("VOC2007/Annotations/*.xml", 88), ("VOC2012/JPEGImages/*.jpg", 24), ("VOC2012/Annotations/*.xml", 24),
    ("coco/train2017/*.jpg", 40), ("coco/val2017/*.jpg", 24),
])
def test_counts(demo_root, pattern, count):
    assert len(list(demo_root.glob(pattern))) == count


@pytest.mark.parametrize("folder, classes, of_class", [
    ("imagenet/train", 10, 40), ("imagenet/val", 10, 20),
    ("places205/train", 10, 12), ("places205/val", 10, 6),
])
def test_image_folders(demo_root, folder, classes, of_class):
    counts = [len(list(path.iterdir())) for path in (demo_root / folder).iterdir()]
    assert counts == [of_class] * classes


def test_imagenet_pictures_and_lists(demo_root):
    modes, square = [], 0
    for path in (demo_root / "imagenet").glob("*/*/*.JPEG"):
        assert path.name.startswith(path.parent.name + "_")
        with Image.open(path) as picture:
            assert picture.format == "JPEG" and all(96 <= side <= 161 for side in picture.size)
            modes.append(picture.mode)
            square += picture.width == picture.height
    assert set(modes) == {"RGB", "L"} and 10 <= modes.count("L") <= 60 and square == 0
    for name, of_class in (("1percent", 1), ("10percent", 4)):
        lines = (demo_root / f"imagenet/{name}.txt").read_text().splitlines()
        assert len(set(lines)) == len(lines) == 10 * of_class
        assert all((demo_root / "imagenet/train" / line.split("_")[0] / line).is_file() for line in lines)
        assert len({line.split("_")[0] for line in lines}) == 10


@pytest.mark.parametrize("split, of_class", [("train2018", 12), ("val2018", 6)])
def test_inat_json(demo_root, split, of_class):
    content = json.loads((demo_root / f"inat18/{split}.json").read_text())
    files = {image["id"]: image for image in content["images"]}
    labels = [annotation["category_id"] for annotation in content["annotations"]]
    assert np.bincount(labels).tolist() == [of_class] * 10 and len(content["categories"]) == 10
    for annotation in content["annotations"]:
        image = files.pop(annotation["image_id"])
        assert image["file_name"].split("/")[2] == str(annotation["category_id"])
        with Image.open(demo_root / "inat18" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
    assert not files


def test_no_digit_is_in_a_training_and_in_a_test_split(demo_root):
    samples = json.loads((demo_root / demo_data.MARK).read_text())["samples"]
    tests = {name for name in samples if name.split("/")[1] in ("val", "test", "val2018", "val2017")}
    tests -= {"VOC2007/val", "VOC2012/val"}  # parts of trainval
    training = set().union(*(samples[name] for name in samples.keys() - tests))
    held_out = set().union(*(samples[name] for name in tests))
    assert len(samples) == 13 and len(training) > 700 and len(held_out) > 300 and not training & held_out
    for year in ("VOC2007", "VOC2012"):
        assert not set(samples[f"{year}/train"]) & set(samples[f"{year}/val"])
    for name, rows in samples.items():
        assert len(set(rows)) == len(rows), f"{name} shows a digit twice"


@pytest.mark.parametrize("year, split, count", VOC_SPLITS)
def test_voc_boxes_and_presence(demo_root, year, split, count):
    folder = demo_root / year
    identities = (folder / "ImageSets/Main" / f"{split}.txt").read_text().split()
    assert len(set(identities)) == len(identities) == count
    expected = {name: {identity: -1 for identity in identities} for name in demo_data.VOC_NAMES}
    for identity in identities:
        tree = ElementTree.parse(folder / "Annotations" / f"{identity}.xml")
        with Image.open(folder / "JPEGImages" / f"{identity}.jpg") as picture:
            size = picture.size
        assert size == tuple(int(tree.find(f"size/{name}").text) for name in ("width", "height"))
        assert tree.find("filename").text == f"{identity}.jpg" and 200 <= min(size) and max(size) <= 320
        for thing in tree.findall("object"):
            x0, y0, x1, y1 = voc_box(thing)
            assert 1 <= x0 < x1 <= size[0] and 1 <= y0 < y1 <= size[1] and min(x1 - x0, y1 - y0) >= 4
            row = expected[thing.find("name").text]
            row[identity] = max(row[identity], 0 if thing.find("difficult").text == "1" else 1)
    for name, row in expected.items():
        lines = (folder / "ImageSets/Main" / f"{name}_{split}.txt").read_text().splitlines()
        assert lines == [f"{identity} {label:2d}" for identity, label in row.items()]
        if year == "VOC2007":  # three positives let three-fold cross-validation see one in each fold
            assert list(row.values()).count(1) >= (1 if split in ("train", "val") else 3), name
    if year == "VOC2007" and split in ("trainval", "test"):
        assert any(0 in row.values() for row in expected.values()), "no image with only difficult ones"


def test_voc_difficult_truncated_occluded_and_overlapping(demo_root):
    for split in ("trainval", "test"):
        flags, pairs = {"difficult": 0, "truncated": 0, "occluded": 0}, 0
        objects = list(voc_objects(demo_root / "VOC2007", split))
        for _, things in itertools.groupby(objects, key=lambda row: row[0]):
            boxes = []
            for _, thing in things:
                boxes.append(voc_box(thing))
                for name in flags:
                    flags[name] += int(thing.find(name).text)
            pairs += sum(overlap(*two) > 0.1 for two in itertools.combinations(boxes, 2))
        assert 0.05 * len(objects) < flags["difficult"] < 0.3 * len(objects), flags
        assert min(flags.values()) >= 5 and pairs >= 15, (flags, pairs)


def test_voc_boxes_fit_what_was_painted(demo_root):
    painter, generator = demo_pictures.Painter(0), demo_data._generator(0, "VOC2007/test")
    deck = demo_pictures.Deck(painter.parts["held out"], generator)
    objects = voc_objects(demo_root / "VOC2007", "test")
    for canvas in demo_data.scenes(painter, deck, generator, 40):
        for thing in canvas.things:
            _, found = next(objects)
            x0, y0, x1, y1 = voc_box(found)  # 1-based, the last pixel included
            rows, columns = np.flatnonzero(thing.mask.any(1)), np.flatnonzero(thing.mask.any(0))
            assert [x0, y0, x1, y1] == [columns[0] + 1, rows[0] + 1, columns[-1] + 1, rows[-1] + 1]
            assert found.find("name").text == demo_data.VOC_NAMES[thing.kind]
    assert next(objects, None) is None


@pytest.mark.parametrize("split, images", [("train2017", 40), ("val2017", 24)])
def test_coco_annotations(demo_root, coco, split, images):
    data = coco[split]
    assert len(data.imgs) == images and min(data.anns) >= 1 and len(data.cats) == 80
    areas, crowds = [], 0
    for annotation in data.anns.values():
        image = data.imgs[annotation["image_id"]]
        mask = data.annToMask(annotation).astype(bool)
        assert mask.shape == (image["height"], image["width"]) and mask.sum() == annotation["area"]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        width, height = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
        assert annotation["bbox"] == [columns[0], rows[0], width, height]
        assert isinstance(annotation["segmentation"], dict) == bool(annotation["iscrowd"])
        crowds += annotation["iscrowd"]
        areas.append(0 if annotation["iscrowd"] else annotation["area"])
    areas = np.array(areas)
    for low, high in ((1, 32**2), (32**2, 96**2), (96**2, np.inf)):  # COCO's small, medium, large
        assert ((areas >= low) & (areas < high)).sum() >= 5
    assert crowds >= 4 and len({row["category_id"] for row in data.anns.values()}) == 20
    assert any(not data.getAnnIds(imgIds=[identity]) for identity in data.imgs), "no picture without objects"
    for image in data.imgs.values():
        with Image.open(demo_root / "coco" / split / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])


def test_coco_masks_of_one_picture_do_not_overlap(coco):
    overlapping_boxes = 0
    for identity in coco["train2017"].imgs:
        annotations = coco["train2017"].loadAnns(coco["train2017"].getAnnIds(imgIds=[identity]))
        if annotations:
            assert sum(coco["train2017"].annToMask(row).astype(int) for row in annotations).max() == 1
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in annotations)]
        overlapping_boxes += sum(overlap(*two) > 0.1 for two in itertools.combinations(boxes, 2))
    assert overlapping_boxes >= 15


def test_masks_fit_the_pixels_that_were_painted(demo_root, coco):
    painter, data = demo_pictures.Painter(0), coco["val2017"]
    generator = demo_data._generator(0, "coco/val2017")
    deck = demo_pictures.Deck(painter.parts["held out"], generator)
    canvases, targets = demo_data.scenes(painter, deck, generator, 24, crowds=True), load_digits().target
    for identity, canvas in zip(sorted(data.imgs), canvases, strict=True):
        with Image.open(demo_root / "coco/val2017" / data.imgs[identity]["file_name"]) as picture:
            assert np.abs(np.asarray(picture, dtype=float) - canvas.pixels).mean() < 4, "another picture"
        change = np.abs(canvas.pixels - canvas.backdrop).max(-1)
        union = np.zeros(change.shape, dtype=bool)
        annotations = data.loadAnns(sorted(data.getAnnIds(imgIds=[identity])))
        for annotation, thing in zip(annotations, canvas.things, strict=True):
            mask = data.annToMask(annotation).astype(bool)
            assert (change[mask] > 1).mean() > 0.95, "the mask reaches beyond what was painted"
            assert (mask == thing.mask).all() and set(targets[list(thing.samples)]) == {thing.kind % 10}
            assert annotation["category_id"] == demo_data.COCO_OF_KIND[thing.kind]
            union |= mask
        assert (change[~ndimage.binary_dilation(union, iterations=6)] < 1).all(), "painted outside every mask"
        assert (change[~ndimage.binary_dilation(union, iterations=2)] < 1).mean() > 0.995


@pytest.mark.parametrize("year, split, count", VOC_SPLITS)
def test_detectron2_reads_voc(demo_root, year, split, count):
    from detectron2.data.datasets.pascal_voc import CLASS_NAMES, load_voc_instances

    assert CLASS_NAMES == demo_data.VOC_NAMES
    dicts = load_voc_instances(str(demo_root / year), split, CLASS_NAMES)
    found = [row["category_id"] for record in dicts for row in record["annotations"]]
    assert len(dicts) == count and len(found) == len(list(voc_objects(demo_root / year, split)))
    assert set(found) == set(range(20)) or year == "VOC2012"


def test_detectron2_reads_coco_with_its_official_categories(demo_root):
    from detectron2.data import MetadataCatalog
    from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
    from detectron2.data.datasets.coco import load_coco_json

    MetadataCatalog.get("official").set(**_get_builtin_metadata("coco"))  # not coco_2017_val: runs share it
    dicts = load_coco_json(str(demo_root / "coco/annotations/instances_val2017.json"),
                           str(demo_root / "coco/val2017"), "official")
    classes = MetadataCatalog.get("official").thing_classes
    shown = {classes[row["category_id"]] for record in dicts for row in record["annotations"]}
    other_spelling = {"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle",
                      "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"}
    assert len(dicts) == 24 and shown == {other_spelling.get(name, name) for name in demo_data.VOC_NAMES}


HAND_MADE = {
    "one pixel": ["#"],
    "touching corners": ["#.", ".#"],
    "ring": ["###", "#.#", "###"],
    "ring closed over a corner": [".##", "#.#", "###"],
    "two holes": ["#####", "#.#.#", "#####"],
    "hole in the hole": ["#####", "#...#", "#.#.#", "#...#", "#####"],
    "nothing": ["...", "..."],
}


def decoded(mask):
    """`mask` after a trip through polygons and pycocotools."""
    rings = demo_pictures.polygons(mask)
    if not rings:
        return np.zeros_like(mask)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, *mask.shape))).astype(bool)


@pytest.mark.parametrize("rows", HAND_MADE.values(), ids=HAND_MADE.keys())
def test_polygons_of_hand_made_masks(rows):
    mask = np.array([[letter == "#" for letter in row] for row in rows])
    assert (decoded(mask) == mask).all()


@settings(max_examples=60, deadline=None)
@given(hypothesis.extra.numpy.arrays(bool, (7, 9)))
def test_polygons_and_runs_of_any_mask(mask):
    assert (decoded(mask) == mask).all()
    counts = demo_pictures.runs(mask)
    again = coco_mask.decode(coco_mask.frPyObjects({"counts": counts, "size": [7, 9]}, 7, 9))
    assert sum(counts) == mask.size and (again == mask).all()


def test_deck_never_repeats_a_sample():
    deck = demo_pictures.Deck({4: np.arange(5)}, np.random.default_rng(0))
    assert sorted(deck.draw(4) for _ in range(5)) == [0, 1, 2, 3, 4]
    with pytest.raises(IndexError):
        deck.draw(4)


def test_the_demo_names_known_tasks_in_commands_that_can_be_printed():
    assert set(demo.TASKS) <= set(TASKS)
    for _, command in demo.steps(Path("build/demo")):
        assert shlex.split(shlex.join(command)) == command
