"""What may be odd about the data of a detection run, and whether a run takes it.

CASES: (name, edit, promise). A name begins with one of SETS, which says how the data is used. edit changes a
folder with the trees of detection_toys. promise: "accepted", or what the error says in its one line.
"""

import json
import re
from pathlib import Path

import numpy as np
import pycocotools.mask
from PIL import Image

TRAIN, VAL = ("train2017",), ("val2017",)
BOTH = TRAIN + VAL
# name: (YAML, KEY VALUE pairs); "mine": a set of the user's own, see write_declaration
SETS = {
    "coco": ("coco_R_50_C4_1x_bt.yaml", ("MODEL.ROI_HEADS.NUM_CLASSES", "3")),
    "coco boxes": ("coco_R_50_C4_1x_bt.yaml", ("MODEL.ROI_HEADS.NUM_CLASSES", "3", "MODEL.MASK_ON", "False")),
    "coco bitmask": ("coco_R_50_C4_1x_bt.yaml", ("MODEL.ROI_HEADS.NUM_CLASSES", "3", "INPUT.MASK_FORMAT",
                                                 "bitmask")),
    "coco 80": ("coco_R_50_C4_1x_bt.yaml", ()),
    "voc": ("pascal_voc_R_50_C4_24k_bt.yaml", ()),
    "voc07": ("pascal_voc07_R_50_C4_12k5.yaml", ()),
    "mine": ("pascal_voc_R_50_C4_24k_bt.yaml", ()),
}


def write_declaration(root: Path) -> str:
    """Write a file that declares the toys' COCO tree as a set of the user's own; return its name."""
    (root / "mine.yaml").write_text("""{kind: coco, root: coco,
train: {annotations: annotations/instances_train2017.json, images: train2017},
test: {annotations: annotations/instances_val2017.json, images: val2017}}""")
    return str(root / "mine.yaml")


# Edits of COCO's form

def labels(root, split):
    return root / "coco" / "annotations" / f"instances_{split}.json"


def whole(function, splits=TRAIN):
    """Change a file's dict."""
    def edit(root):
        for split in splits:
            truth = json.loads(labels(root, split).read_text())
            function(truth)
            labels(root, split).write_text(json.dumps(truth))
    return edit


def text(content, split="train2017"):
    """Change a file's bytes."""
    return lambda root: labels(root, split).write_bytes(content(labels(root, split).read_bytes()))


def first(kind, splits=TRAIN, **values):
    """Change keys of a file's first image, annotation or category; ... takes one out."""
    def change(truth):
        truth[kind][0].update(values)
        truth[kind][0] = {key: value for key, value in truth[kind][0].items() if value is not ...}
    return whole(change, splits)


def image(splits=TRAIN, **values):
    return first("images", splits, **values)


def item(splits=TRAIN, **values):
    return first("annotations", splits, **values)


def category(splits=BOTH, **values):
    return first("categories", splits, **values)


def each(function, splits=TRAIN):
    """Change every annotation."""
    return whole(lambda truth: [function(one) for one in truth["annotations"]], splits)


def crowds(function, splits):
    """Change the crowds: the toys have one in each file."""
    return each(lambda one: one["iscrowd"] and function(one), splits)


def outline(value, splits=TRAIN):
    """Change the first annotation's segmentation: a value, or a function of the one that is there."""
    return whole(lambda truth: truth["annotations"][0].update(
        segmentation=value(truth["annotations"][0]["segmentation"]) if callable(value) else value), splits)


def runs(compressed, splits=BOTH, change=lambda outline: None):
    """Give all outlines as run lengths; then change the first of them."""
    def edit(truth):
        sizes = {one["id"]: (one["height"], one["width"]) for one in truth["images"]}
        for one in truth["annotations"]:
            if isinstance(one["segmentation"], list):
                size = sizes[one["image_id"]]
                rle = pycocotools.mask.merge(pycocotools.mask.frPyObjects(one["segmentation"], *size))
                counts = rle["counts"].decode()
                if not compressed:
                    mask = pycocotools.mask.decode(rle).ravel(order="F")
                    ends = np.flatnonzero(np.diff(mask, prepend=0, append=2 if mask[-1] == 0 else 0))
                    counts = np.diff(ends, prepend=0).tolist()
                one["segmentation"] = {"size": list(size), "counts": counts}
        change(truth["annotations"][0]["segmentation"])
    return whole(edit, splits)


def renumber(truth):
    """Give the classes other ids in the same order, and the annotations these."""
    new = {one["id"]: 100 + one["id"] for one in truth["categories"]}
    for one in truth["categories"]:
        one["id"] = new[one["id"]]
    for one in truth["annotations"]:
        one["category_id"] = new[one["category_id"]]


def eighty(names):
    """As many classes as COCO has."""
    return whole(lambda truth: truth.update(categories=[
        {"id": number, "name": name} for number, name in enumerate(names, 1)]), BOTH)


def into_folders(split, folder="a"):
    def edit(root):
        (root / "coco" / split / folder).mkdir()
        for path in (root / "coco" / split).glob("*.jpg"):
            path.rename(path.parent / folder / path.name)
        whole(lambda truth: [one.update(file_name=f"{folder}//{one['file_name']}")
                             for one in truth["images"]], (split,))(root)
    return edit


# Edits of pictures

COCO_TRAIN, COCO_VAL = "coco/train2017/000000000001.jpg", "coco/val2017/000000000007.jpg"
VOC_TRAIN, VOC_TEST = "VOC2007/JPEGImages/000000.jpg", "VOC2007/JPEGImages/000009.jpg"


def turned(path, orientation):
    """Give a picture an EXIF orientation, as a camera does."""
    def edit(root):
        picture, exif = Image.open(root / path), Image.Exif()
        exif[0x0112] = orientation
        picture.save(root / path, exif=exif)
    return edit


def upright(root):
    """A picture that EXIF turns, and labels of what is seen then."""
    turned(COCO_TRAIN, 8)(root)
    image(width=64, height=96)(root)
    each(lambda one: one["image_id"] == 1 and one.update(bbox=[1, 1, 9, 9]))(root)


def redrawn(path, change=lambda picture: picture, form="JPEG"):
    """Replace a picture by one that is made of it, under the same name."""
    def edit(root):
        picture = change(Image.open(root / path))
        (root / path).unlink()
        picture.save(root / path, form)
    return edit


def content(path, change):
    return lambda root: (root / path).write_bytes(change((root / path).read_bytes()))


def removed(path):
    return lambda root: (root / path).unlink()


def folder_instead(path):
    def edit(root):
        (root / path).unlink()
        (root / path).mkdir()
    return edit


def renamed(folder, ending):
    """Give the pictures of a folder another ending."""
    return lambda root: [path.rename(path.with_suffix(ending)) for path in (root / folder).glob("*.jpg")]


def all_endings(root):
    """Give the pictures an ending that they are named by."""
    for split in BOTH:
        renamed(f"coco/{split}", ".bmp")(root)
    whole(lambda truth: [one.update(file_name=one["file_name"].replace(".jpg", ".bmp"))
                         for one in truth["images"]], BOTH)(root)


def tied(root):
    """One folder of pictures for both parts of a set of the user's own, and one picture in both."""
    write_declaration(root)
    (root / "mine.yaml").write_text((root / "mine.yaml").read_text().replace("val2017}", "train2017}"))
    for path in (root / "coco" / "val2017").iterdir():
        path.rename(root / "coco" / "train2017" / path.name)
    one = json.loads(labels(root, "train2017").read_text())["images"][0]
    image(VAL, **{key: one[key] for key in ("file_name", "width", "height")})(root)
    whole(lambda truth: [one.update(bbox=[1, 1, 5, 5]) for one in truth["annotations"]], VAL)(root)
    crowds(lambda one: None, VAL)(root)


# Edits of VOC's form

XML, TEST_XML = "VOC2007/Annotations/000000.xml", "VOC2007/Annotations/000009.xml"
LIST, TEST_LIST = "VOC2007/ImageSets/Main/trainval.txt", "VOC2007/ImageSets/Main/test.txt"
BOMB = ('<!DOCTYPE a [<!ENTITY a "haha">' + "".join(
    f'<!ENTITY {new} "{f"&{old};" * 40}">' for old, new in zip("abcdef", "bcdefg")) + "]>")


def swap(pattern, replacement, path=XML, count=1):
    """Replace what a pattern finds in a text file, which must be there."""
    def edit(root):
        changed, times = re.subn(pattern, replacement, (root / path).read_text(), count=count)
        assert times
        (root / path).write_text(changed)
    return edit


def difficult(word, path=XML):
    return swap("<difficult>.</difficult>", word, path, count=0)


def everywhere(edit, folder="VOC2007/Annotations"):
    """The edit of one XML file (a function of its path) in all of a folder."""
    return lambda root: [edit(f"{folder}/{path.name}")(root) for path in sorted((root / folder).iterdir())]


def objects(path, *boxes):
    """Replace the objects of an XML file: (name, xmin, ymin, xmax, ymax)."""
    sides = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
    items = "".join(f"<object><name>{name}</name><bndbox>{sides.format(*box)}</bndbox></object>"
                    for name, *box in boxes)
    return swap("<object>.*</object>", items, path)


def box(*sides, name="cat"):
    return objects(XML, (name, *sides))


def more_lines(*lines, path=LIST):
    return content(path, lambda old: old + "".join(f"{line}\n" for line in lines).encode())


def encoded(encoding, declared=None):
    """Write an XML file with a letter beyond ASCII in an encoding."""
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    return content(XML, lambda old: (head + old.decode().replace("Unspecified", "größer")).encode(encoding))


CASES = (
    # The file
    ("coco: no JSON", text(lambda old: b"<html>"), "expected JSON in UTF-8"),
    ("coco: cut off", text(lambda old: old[:-9]), "expected JSON in UTF-8"),
    ("coco: empty", text(lambda old: b""), "expected JSON in UTF-8"),
    ("coco: a mark at the start, which pycocotools does not read", text(lambda old: b"\xef\xbb\xbf" + old),
     "expected JSON in UTF-8, found Unexpected UTF-8 BOM"),
    ("coco: UTF-16", text(lambda old: old.decode().encode("utf-16")), "expected JSON in UTF-8"),
    ("coco: brackets without end", text(lambda old: b"[" * 100_000), "expected JSON in UTF-8"),
    ("coco: a list", text(lambda old: b"[]"), "found no list of objects as 'images'"),
    ("coco: without blanks", text(lambda old: json.dumps(json.loads(old), separators=(",", ":")).encode()),
     "accepted"),
    ("coco: in lines", text(lambda old: json.dumps(json.loads(old), indent="\t").encode()), "accepted"),
    ("coco: no images", whole(lambda truth: truth.pop("images")), "no list of objects as 'images'"),
    ("coco: no annotations", whole(lambda truth: truth.pop("annotations")),
     "no list of objects as 'annotations'"),
    ("coco: no categories", whole(lambda truth: truth.pop("categories"), VAL),
     "no list of objects as 'categories'"),
    ("coco: annotations by id", whole(lambda truth: truth.update(annotations={"1": {}})),
     "no list of objects as 'annotations'"),
    ("coco: an image that is a name", whole(lambda truth: truth["images"].append("a.jpg")),
     "no list of objects as 'images'"),
    ("coco: other keys", whole(lambda truth: truth.update(info=None, licenses=[])), "accepted"),
    # Categories
    ("coco: none of the categories", whole(lambda truth: truth["categories"].clear(), BOTH),
     "expected categor"),
    ("coco: category without id", category(id=...), "category None (number 0): expected an id of its own"),
    ("coco: category id in words", category(id="1"), "category '1' (number 0): expected an id of its own"),
    ("coco: category twice", category(id=3), "category 3 (number 1): expected an id of its own"),
    ("coco: category without name", category(name=...), "category 1 (number 0): expected a name of its own"),
    ("coco: category with a blank name", category(name=" "), "expected a name of its own, found ' '"),
    ("coco: two categories of one name", category(name="bus"), "expected a name of its own, found 'bus'"),
    ("coco: another class in val", category(VAL, name="dog"), "coco_2017_val has other classes"),
    ("coco: one class more", whole(lambda truth: truth["categories"].append({"id": 9, "name": "dog"}), BOTH),
     "pass MODEL.ROI_HEADS.NUM_CLASSES 4"),
    ("coco: categories in another order", whole(lambda truth: truth["categories"].reverse()), "accepted"),
    ("coco: other ids of the same classes in val", whole(renumber, VAL), "accepted"),
    ("coco 80: eighty other classes", eighty(["cat", "person", "bus", *map(str, range(77))]),
     "expected COCO's categories, found 'cat' in place of 'person'"),
    # Images
    ("coco: none of the images", whole(lambda truth: truth["images"].clear()), "expected images, found none"),
    ("coco: image without id", image(id=...), "image None (number 0): expected an id of its own"),
    ("coco: image id in words", image(id="1"), "image '1' (number 0): expected an id of its own"),
    ("coco: image id with a fraction", image(VAL, id=7.5), "image 7.5 (number 0): expected an id"),
    ("coco: image id below 0", image(VAL, id=-7), "image -7 (number 0): expected an id of its own"),
    ("coco: image id of 70 bits", image(VAL, id=2 ** 70), "expected an id of its own, a whole number from 0"),
    ("coco: image id true", image(id=True), "image True (number 0): expected an id"),
    ("coco: two images of one id", image(id=2), "image 2 (number 1): expected an id of its own"),
    ("coco: image without file", image(file_name=...), "expected the file_name of a picture below"),
    ("coco: file name empty", image(file_name=""), "expected the file_name of a picture below"),
    ("coco: file name a number", image(file_name=1), "expected the file_name of a picture below"),
    ("coco: file name absolute", image(file_name="/etc/hosts"),
     "below the folder of images, found '/etc/hosts'"),
    ("coco: file name that leads out", image(file_name="a/../../val2017/000000000007.jpg"),
     "below the folder"),
    ("coco: file name with a zero byte", image(file_name="a\0.jpg"), "below the folder of images"),
    ("coco: file names with folders", into_folders("train2017"), "accepted"),
    ("coco: file names of Windows", whole(lambda truth: [
        one.update(file_name=f"train2017\\{one['file_name']}") for one in truth["images"]]),
     "; 6 of the names have \\ where / is meant"),
    ("coco: file listed twice", image(file_name="000000000002.jpg"), "expected each picture once"),
    ("coco: file listed under two names", image(file_name="./000000000002.jpg"), "expected each picture"),
    ("coco: width missing", image(width=...), "(000000000001.jpg): expected width and height, whole numbers"),
    ("coco: width in words", image(width="60"), "whole numbers above 0, found ('60', "),
    ("coco: width 0", image(width=0), "expected width and height, whole numbers above 0"),
    ("coco: height negative", image(VAL, height=-9), "expected width and height, whole numbers above 0"),
    ("coco: width with a fraction", image(width=96.0), "expected width and height, whole numbers above 0"),
    ("coco: width of another picture", image(width=97),
     "000000000001.jpg: expected a picture as large as its"),
    ("coco: width and height exchanged", image(VAL, width=64, height=96), "found 96 x 64, labelled 64 x 96"),
    # Annotations: where they belong
    ("coco: annotation without id", item(id=...), "annotation None of 000000000001.jpg: expected an id"),
    ("coco: annotation id a list", item(id=[1]), "annotation [1] of 000000000001.jpg: expected an id"),
    ("coco: two annotations of one id", item(id=2),
     "annotation 2 of 000000000001.jpg: expected an id of its own"),
    ("coco: annotation ids from 0", whole(lambda truth: [
        one.update(id=number) for number, one in enumerate(truth["annotations"])], BOTH), "accepted"),
    ("coco: annotation ids in words", each(lambda one: one.update(id=f"x{one['id']}"), BOTH), "accepted"),
    ("coco: image unknown", item(image_id=99), "annotation 1: expected one of the images, found image_id 99"),
    ("coco: image in words", item(VAL, image_id="7"), "expected one of the images, found image_id '7'"),
    ("coco: image missing", item(image_id=...), "expected one of the images, found image_id None"),
    ("coco: image a list", item(image_id=[1]), "expected one of the images, found image_id [1]"),
    ("coco: category unknown", item(category_id=2), "expected one of the categories, found category_id 2"),
    ("coco: category missing", item(category_id=...), "expected one of the categories"),
    ("coco: crowd not said", each(lambda one: one["iscrowd"] or one.pop("iscrowd"), BOTH), "accepted"),
    ("coco: crowd true and false", each(lambda one: one.update(iscrowd=bool(one["iscrowd"])), BOTH),
     "accepted"),
    ("coco: crowd in words", item(iscrowd="0"), "expected iscrowd 0 or 1, found '0'"),
    ("coco: crowd null", item(VAL, iscrowd=None), "expected iscrowd 0 or 1, found None"),
    ("coco: ignored objects", item(ignore=1), "expected no `ignore`, which Detectron2 refuses, found 1"),
    ("coco: nothing ignored", each(lambda one: one.update(ignore=0), BOTH), "accepted"),
    ("coco: keypoints", each(lambda one: one.update(keypoints=[5, 5, 2], num_keypoints=1), BOTH), "accepted"),
    ("coco: keypoints in words", item(keypoints=["5", "5", "2"]), "expected keypoints as a list of numbers"),
    ("coco: area missing in training", each(lambda one: one.pop("area")), "accepted"),
    ("coco: area missing in val", item(VAL, area=...), "expected an area in pixels"),
    ("coco: area NaN in val", item(VAL, area=float("nan")), "expected an area in pixels"),
    ("coco: area in words in val", item(VAL, area="12"), "expected an area in pixels"),
    ("coco: area negative in val", item(VAL, area=-1), "expected an area in pixels"),
    ("coco: no objects to train on", whole(lambda truth: truth["annotations"].clear()),
     "expected objects to train on, found none"),
    ("coco: no objects to measure", whole(lambda truth: truth["annotations"].clear(), VAL),
     "expected objects to measure, found none"),
    ("coco: crowds alone in training", each(lambda one: one.update(iscrowd=1)),
     "train on, found 15, all of them"),
    ("coco: crowds alone in val", each(lambda one: one.update(iscrowd=1), VAL), "objects to measure, found"),
    ("coco: an image without objects", whole(lambda truth: truth.update(annotations=[
        one for one in truth["annotations"] if one["image_id"] not in (1, 7)]), BOTH), "accepted"),
    # Boxes
    ("coco: box missing", item(bbox=...), "expected a bbox of left, top, width and height"),
    ("coco: box null", item(bbox=None), "expected a bbox of left, top, width and height"),
    ("coco: box by name", item(bbox={"x": 1, "y": 1, "w": 9, "h": 9}), "expected a bbox of left, top, width"),
    ("coco: box of three numbers", item(bbox=[1, 1, 9]), "expected a bbox of left, top, width and height"),
    ("coco: box of five numbers", item(VAL, bbox=[1, 1, 9, 9, 0.9]), "expected a bbox of left, top, width"),
    ("coco: box in words", item(bbox=["1", "1", "9", "9"]), "expected a bbox of left, top, width and height"),
    ("coco: box NaN", item(bbox=[float("nan"), 1, 9, 9]),
     "annotation 1 of 000000000001.jpg: expected a bbox"),
    ("coco: box infinite", item(VAL, bbox=[1, 1, float("inf"), 9]), "expected a bbox of left, top, width"),
    ("coco: box beyond all numbers", item(bbox=[10 ** 400, 1, 9, 9]), "expected a bbox of left, top, width"),
    ("coco: box of negative width", item(bbox=[9, 9, -5, 5]),
     "expected a bbox of left, top, width and height"),
    ("coco: many such boxes", each(lambda one: one.update(bbox=[9, 9, -5, 5])),
     "(and 14 more like it); repair"),
    ("coco: box without area", item(bbox=[9, 9, 0, 5]), "expected a box with an area"),
    ("coco: box without area in val", item(VAL, bbox=[9, 9, 5, 0]), "expected a box with an area"),
    ("coco: box beyond the picture", item(bbox=[50, 9, 90, 5]), "expected a box within its picture"),
    ("coco: box before the picture", item(VAL, bbox=[-50, 9, 60, 5]), "expected a box within its picture"),
    ("coco: corners for sides", each(lambda one: one.update(bbox=[30, 30, 80, 80]), BOTH), "box within its"),
    ("coco: one pixel beyond", whole(lambda truth: truth["annotations"][0].update(
        bbox=[-1, 0, truth["images"][0]["width"] + 2, 20])), "accepted"),
    ("mine: box beyond the picture", item(bbox=[50, 9, 90, 5]), "expected a box within its picture"),
    # Outlines
    ("coco: no outlines", each(lambda one: one.pop("segmentation"), BOTH),
     "coco_2017_train has boxes only, and MODEL.MASK_ON is True; pass MODEL.MASK_ON False"),
    ("coco: no outlines in val", each(lambda one: one.update(segmentation=[]), VAL),
     "coco_2017_val has boxes only"),
    ("coco boxes: no outlines", each(lambda one: one.update(segmentation=[]), BOTH), "accepted"),
    ("mine: no outlines", each(lambda one: one.update(segmentation=None), BOTH), "accepted"),
    ("coco: one outline missing", item(segmentation=...),
     "expected a segmentation in every annotation, found None"),
    ("coco: one outline empty", item(segmentation=[]),
     "annotation, found []; complete them or pass MODEL.MASK_ON"),
    ("coco: one outline missing in val", item(VAL, segmentation=None), "expected a segmentation in every"),
    ("coco boxes: one outline missing", item(BOTH, segmentation=...), "accepted"),
    ("coco: crowd without outline in training", crowds(lambda one: one.pop("segmentation"), TRAIN),
     "accepted"),
    ("coco: crowd without outline in val", crowds(lambda one: one.pop("segmentation"), VAL),
     "in every annotation"),
    ("coco: polygon without its list", outline(lambda old: old[0]),
     "expected polygons [[x, y, x, y, ...], ...]"),
    ("coco: polygon of two points", outline([[5, 5, 9, 9]]),
     "one of them with three points or more, found [[5,"),
    ("coco: polygon of two points in val", outline([[5, 5, 9, 9]], VAL), "with three points or more"),
    ("coco boxes: polygon of two points", outline([[5, 5, 9, 9]]), "with three points or more"),
    ("coco: polygon of odd numbers", outline([[5, 5, 9, 9, 5, 9, 5]]), "with three points or more"),
    ("coco: two points beside a polygon", outline(lambda old: [*old, [5, 5, 9, 9], []], BOTH), "accepted"),
    ("coco: polygon in words", outline([list("112233")]), "expected polygons [[x, y, x, y, ...], ...]"),
    ("coco: polygon with NaN", outline([[5, 5, 9, 9, 5, float("nan")]], VAL), "expected polygons"),
    ("coco: polygon far away", outline([[5, 5, 9, 9, 5, 1e9]], VAL), "near the picture"),
    ("coco: outline in words", outline("M 5 5 L 9 9"), "expected polygons"),
    ("coco: masks in files", outline({"file": "a.png"}), "expected run lengths with `size`"),
    ("coco: list of run lengths", runs(True, change=dict.clear), "expected"),
    ("coco: run lengths", runs(False),
     "expected polygons, as INPUT.MASK_FORMAT says, found run lengths (and 13 more"),
    ("coco: run lengths as text", runs(True), "; pass INPUT.MASK_FORMAT bitmask"),
    ("coco: run lengths in val", runs(True, VAL), "accepted"),
    ("coco bitmask: run lengths", runs(False), "accepted"),
    ("coco bitmask: run lengths as text", runs(True), "accepted"),
    ("coco bitmask: polygons", lambda root: None, "accepted"),
    ("coco boxes: run lengths", runs(True), "accepted"),
    ("coco bitmask: run lengths of another size", runs(True, change=lambda one: one["size"].reverse()),
     "expected run lengths with `size` [height, width] of the image"),
    ("coco bitmask: too few run lengths", runs(False, change=lambda one: one["counts"].pop()),
     "that cover it"),
    ("coco bitmask: too many run lengths", runs(False, VAL, lambda one: one["counts"].append(9999)),
     "that cover"),
    ("coco bitmask: negative run lengths", runs(False, change=lambda one: one.update(counts=[-1, 5761])),
     "cover"),
    ("coco bitmask: text cut off", runs(True, change=lambda one: one.update(counts=one["counts"][:-1])),
     "cover"),
    ("coco bitmask: another text", runs(True, change=lambda one: one.update(counts="zz\u00e4")),
     "that cover it"),
    ("coco: crowd whose run lengths are too few", crowds(
        lambda one: one["segmentation"]["counts"].pop(), VAL), "that cover it"),
    # Pictures
    ("coco: picture missing", removed(COCO_VAL),
     "1 of 3 listed files are missing or empty, first 000000000007.jpg"),
    ("coco: picture empty", content(COCO_TRAIN, lambda old: b""), "1 of 6 listed files are missing or empty"),
    ("coco: picture a folder", folder_instead(COCO_TRAIN), "1 of 6 listed files are missing or empty"),
    ("coco: picture a page", content(COCO_TRAIN, lambda old: b"<html>"),
     "000000000001.jpg: expected a picture"),
    ("coco: picture without its head", content(COCO_VAL, lambda old: old[:40]), "expected a picture, found"),
    ("coco: picture of another size", redrawn(COCO_VAL, lambda old: old.resize((9, 9))),
     "found 9 x 9, labelled"),
    ("coco: picture on its side", turned(COCO_TRAIN, 6),
     "found 64 x 96 as its EXIF orientation turns it, lab"),
    ("coco: picture of val on its side", turned(COCO_VAL, 8),
     "000000000007.jpg: expected a picture as large as"),
    ("coco: picture upside down", turned(COCO_TRAIN, 3), "accepted"),
    ("coco: picture on its side, labelled upright", upright, "accepted"),
    ("coco: a PNG that is called .jpg", redrawn(COCO_TRAIN, form="PNG"), "accepted"),
    ("coco: a grey picture", redrawn(COCO_TRAIN, lambda old: old.convert("L")), "accepted"),
    ("coco: pictures under another ending", renamed("coco/val2017", ".jpeg"),
     "; 3 of them are there as .jpeg, and .jpg is needed"),
    ("coco: endings of all kinds", all_endings, "accepted"),
    ("coco: folder missing", lambda root: (root / "coco" / "val2017").rename(root / "val"),
     "val2017: no such folder"),
    ("mine: a picture of both parts", tied, "mine_test: expected pictures that are not trained on, found 1"),
    # VOC: lists
    ("voc: no list", removed(LIST), "trainval.txt: no such file"),
    ("voc: list empty", content(LIST, lambda old: b"\n"), "expected image names, found none"),
    ("voc: list of other bytes", content(LIST, lambda old: b"\xff\xfe0\x000"), "a text list in UTF-8"),
    ("voc: list with a mark at the start", content(LIST, lambda old: b"\xef\xbb\xbf" + old), "accepted"),
    ("voc: list with numbers", content(LIST, lambda old: old.replace(b"\n", b"  1\r\n")), "accepted"),
    ("voc: name with blanks", more_lines("my cat"), "trainval.txt: expected names without blanks"),
    ("voc: name twice", more_lines("000001"),
     "expected each image once, found 1 other lines, first '000001'"),
    ("voc: name twice in two spellings", more_lines("./000001"), "expected each image once, found 1"),
    ("voc: name twice in test", more_lines("000009", path=TEST_LIST), "test.txt: expected each image once"),
    ("voc: name that leads out", more_lines("../../a"), "expected names below the folder of images"),
    ("voc: names with endings", content(LIST, lambda old: old.replace(b"\n", b".jpg\n")),
     "; the list is to name them without .jpg"),
    ("voc: pictures of test in trainval", more_lines("000009"),
     "voc_2007_test: expected pictures that are not trained on, found 1 that are in voc_2007_trainval"),
    ("voc: labels missing", removed(TEST_XML), "Annotations: 1 of 3 listed files are missing"),
    ("voc: labels empty", content(XML, lambda old: b""), "Annotations: 1 of 5 listed files are missing"),
    # VOC: files
    ("voc: file cut off", content(XML, lambda old: old[:90]),
     "000000.xml: expected a VOC annotation, found no XML"),
    ("voc: many such files", everywhere(lambda path: content(path, lambda old: b"<a>")),
     "(5 such files in all)"),
    ("voc: another root", swap("annotation>", "html>", count=2), "expected a VOC annotation, found <html>"),
    ("voc: entities without end", content(XML, lambda old: (BOMB + old.decode().replace(
        "Unspecified", "&g;")).encode()), "expected a VOC annotation, found no XML"),
    ("voc: far too long", content(XML, lambda old: old + b" " * 2 ** 24),
     "of at most 16,777,216 bytes, found 16,7"),
    ("voc: letters of Latin-1", encoded("latin-1"), "expected a VOC annotation, found no XML"),
    ("voc: letters of Latin-1, as it says", encoded("latin-1", "iso-8859-1"), "accepted"),
    ("voc: an encoding unknown", encoded("utf-8", "klingon"), "expected a VOC annotation, found no XML"),
    ("voc: another file's name", swap("<size>", "<filename>a.png</filename><size>"), "accepted"),
    ("voc: no size", swap("<size>.*</size>", ""),
     "expected a <size> of whole pixels above 0, found width None"),
    ("voc: size 0", swap("<width>\\d+", "<width>0"),
     "expected a <size> of whole pixels above 0, found width '0'"),
    ("voc: size in words", swap("<width>\\d+", "<width>wide"), "expected a <size> of whole pixels above 0"),
    ("voc: size with a point", swap("<width>(\\d+)", r"<width>\1.0"), "accepted"),
    ("voc: size of another picture", swap("<width>\\d+", "<width>99"),
     "000000.jpg: expected a picture as large"),
    ("voc: no objects in a file", swap("<object>.*</object>", ""), "accepted"),
    ("voc: no objects in test", everywhere(lambda path: swap("(<object>.*</object>)?</annotation>",
                                                             "</annotation>", path)),
     "trainval.txt: expected objects to train on, found none"),
    # VOC: objects
    ("voc: difficult empty", everywhere(lambda path: difficult("<difficult/>", path)), "accepted"),
    ("voc: difficult left out", everywhere(lambda path: difficult("", path)), "accepted"),
    ("voc: difficult False", everywhere(lambda path: difficult("<difficult>False</difficult>", path)),
     "accepted"),
    ("voc: difficult Unspecified", difficult("<difficult>Unspecified</difficult>"), "accepted"),
    ("voc: difficult in a line of its own", difficult("<difficult>\n1\n</difficult>"), "accepted"),
    ("voc: difficult maybe", difficult("<difficult>maybe</difficult>"),
     "): expected <difficult> 0 or 1, found 'maybe'"),
    ("voc07: everything difficult in test", everywhere(
        lambda path: difficult("<difficult>1</difficult>", path)),
     "test.txt: expected objects to measure, found 8, all of them"),
    ("voc: class missing", swap("<name>.*?</name>", ""), "object 1: expected a <name>, found none"),
    ("voc: class blank", swap("<name>.*?</name>", "<name> </name>"),
     "object 1: expected a <name>, found none"),
    ("voc: class in a line of its own", swap("<name>(.*?)</name>", r"<name>\n\1\n</name>"), "accepted"),
    ("voc: class unknown", box(1, 1, 5, 5, name="unicorn"), "expected a class of aeroplane, bicycle"),
    ("voc: box missing", swap("<bndbox>.*?</bndbox>", ""), "object 1 ("),
    ("voc: side missing", swap("<xmax>.*?</xmax>", ""), "expected a box that ends where it begins or later"),
    ("voc: side in words", box(1, "left", 5, 5), "expected a box that ends where it begins or later"),
    ("voc: box NaN", box(1, 1, "nan", 5), "000000.xml: object 1 (cat): expected a box that ends where"),
    ("voc: box infinite", box(1, 1, 5, "inf"), "expected a box that ends where it begins or later"),
    ("voc: box reversed", box(9, 1, 5, 5), "['9', '1', '5', '5']; repair or remove it"),
    ("voc: box of one pixel", box(5, 5, 5, 5), "accepted"),
    ("voc: box with fractions", box(1.5, 1, 5, 5.25), "accepted"),
    ("voc: box beyond the picture", box(1, 1, 95, 5),
     "expected a box within its picture, found xmin, ymin, xmax"),
    ("voc: box before the picture", box(-9, 1, 5, 5), "expected a box within its picture"),
    ("voc: box from 0", box(0, 0, 5, 5), "accepted"),
    # VOC: pictures
    ("voc: picture missing", removed(VOC_TEST), "1 of 3 listed files are missing or empty, first 000009.jpg"),
    ("voc: picture a page", content(VOC_TRAIN, lambda old: b"<html>"), "000000.jpg: expected a picture"),
    ("voc: picture on its side", turned(VOC_TEST, 5),
     "000009.jpg: expected a picture as large as its label says"),
    ("voc: pictures under another ending", renamed("VOC2007/JPEGImages", ".png"),
     "are missing or empty, first 000000.jpg; 5 of them are there as .png, and .jpg is needed"),
    ("voc: pictures under a shouted ending", renamed("VOC2007/JPEGImages", ".JPG"),
     "5 of them are there as .JPG"),
)
