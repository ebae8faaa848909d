"""Write small data sets of real digits on real photographs in the real formats, for the demo and the tests.

    python tools/demo_data.py ROOT [--seed S]

ROOT becomes a data root: imagenet/, places205/, inat18/, VOC2007/, VOC2012/ and coco/, about 1100 pictures
and 14 MB. The same seed gives the same bytes. The digits and photographs are real and the labels are exact,
but the class "sofa" is a handwritten 7 on a round sign. Figures measured here show that the code runs, and
nothing about a method. A digit in a training split is in no validation or test split of any set.
demo_pictures.py draws the pictures.
"""

import argparse
import hashlib
import json
import shutil
import sys
import xml.etree.ElementTree as ElementTree
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from parallel.files import write_whole
from tools import demo_pictures

MARK = "demo_data.json"  # beside the sets: shows that they are ours, their code and seed, whether complete
FOLDERS = ("imagenet", "places205", "inat18", "VOC2007", "VOC2012", "coco")

# Pictures a class (classification) or in all (detection), by split.
PORTRAITS = {"imagenet": {"train": 40, "val": 20}, "places205": {"train": 12, "val": 6},
             "inat18": {"train2018": 12, "val2018": 6}}
SCENES = {"VOC2007": {"train": 24, "val": 24, "test": 40}, "VOC2012": {"train": 12, "val": 12},
          "coco": {"train2017": 40, "val2017": 24}}
HELD_OUT = ("val", "val2018", "val2017")  # VOC's val is part of its trainval, on which detectors train

PLACES = ("abbey", "airport_terminal", "alley", "amphitheater", "amusement_park", "aquarium", "aqueduct",
          "arch", "art_gallery", "art_studio")
SPECIES = ("Aves/Anas acuta", "Aves/Bubo bubo", "Aves/Pica pica", "Insecta/Apis mellifera",
           "Insecta/Danaus plexippus", "Mammalia/Lynx lynx", "Mammalia/Vulpes vulpes", "Plantae/Acer rubrum",
           "Plantae/Quercus alba", "Reptilia/Natrix natrix")
# Kind k of demo_pictures is VOC_NAMES[k] in VOC and COCO_OF_KIND[k], the id of the same thing, in COCO.
VOC_NAMES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
             "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
             "tvmonitor")
COCO_OF_KIND = (5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72)
# COCO's 80 categories: {supercategory: {first id: consecutive names}}, cocodataset.org.
COCO_NAMES = {
    "person": {1: "person"},
    "vehicle": {2: "bicycle,car,motorcycle,airplane,bus,train,truck,boat"},
    "outdoor": {10: "traffic light,fire hydrant", 13: "stop sign,parking meter,bench"},
    "animal": {16: "bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe"},
    "accessory": {27: "backpack,umbrella", 31: "handbag,tie,suitcase"},
    "sports": {34: "frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,"
                   "surfboard,tennis racket"},
    "kitchen": {44: "bottle", 46: "wine glass,cup,fork,knife,spoon,bowl"},
    "food": {52: "banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake"},
    "furniture": {62: "chair,couch,potted plant,bed", 67: "dining table", 70: "toilet"},
    "electronic": {72: "tv,laptop,mouse,remote,keyboard,cell phone"},
    "appliance": {78: "microwave,oven,toaster,sink,refrigerator"},
    "indoor": {84: "book,clock,vase,scissors,teddy bear,hair drier,toothbrush"},
}


def write(root, seed=0):
    """Write every set into the folder `root`, unless this code has already done so with this seed.

    What an interrupted or older call left is replaced. Raises ValueError if `root` holds data that is not
    ours.
    """
    root = Path(root)
    mark, state = root / MARK, {"code": _code(), "seed": int(seed)}
    if mark.is_file():
        if json.loads(mark.read_text()).items() >= {**state, "complete": True}.items():
            return
        for folder in FOLDERS:
            shutil.rmtree(root / folder, ignore_errors=True)
    foreign = [folder for folder in FOLDERS if (root / folder).exists()]
    if foreign:
        raise ValueError(f"{root}: expected a folder without data sets, found {', '.join(foreign)} from "
                         f"elsewhere (no {MARK}); name another folder")
    root.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps({**state, "complete": False}))
    painter = demo_pictures.Painter(seed)
    shown = {}  # {"imagenet/train": rows of load_digits}
    for name in PORTRAITS:
        shown.update(_write_portraits(root, name, painter, seed))
    for name in ("VOC2007", "VOC2012"):
        shown.update(_write_voc(root / name, painter, seed))
    shown.update(_write_coco(root / "coco", painter, seed))
    write_whole(mark, json.dumps({**state, "complete": True, "samples": shown}))


def _code():
    """Return a hash of the sources that draw and write, so that a change to them renews the data."""
    sources = Path(__file__), Path(demo_pictures.__file__)
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]


def _generator(seed, name):
    """Return a generator for one split, so that no split depends on what was drawn before it."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _save(pixels, path, quality=92):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "JPEG", quality=quality)


# Classification

def _write_portraits(root, name, painter, seed):
    """Write one classification set with its lists; returns {split: samples shown}."""
    shown = {}
    for split, count in PORTRAITS[name].items():
        generator = _generator(seed, f"{name}/{split}")
        deck = demo_pictures.Deck(painter.parts["held out" if split in HELD_OUT else "train"], generator)
        images = []  # (file name inside the set, label, height, width)
        for digit in range(10):
            for number in range(count):
                kind = digit + 10 * (name == "places205" or (name == "inat18" and number % 2))
                pixels = painter.portrait(kind, deck.draw(digit), generator)
                if name == "imagenet" and number % 16 == 5:  # ImageNet has greyscale files
                    pixels = np.asarray(Image.fromarray(pixels).convert("L"))
                file_name = _file_name(name, split, digit, number)
                _save(pixels, root / name / file_name)
                images.append((file_name, digit, *pixels.shape[:2]))
        shown[f"{name}/{split}"] = sorted(deck.used)
        if name == "inat18":
            _write_json(root / name / f"{split}.json", _inat(images))
        elif (name, split) == ("imagenet", "train"):
            for list_name, of_class in (("1percent.txt", 1), ("10percent.txt", count // 10)):
                lines = [f"n{digit:08d}_{number}.JPEG\n" for digit in range(10) for number in range(of_class)]
                (root / name / list_name).write_text("".join(lines))
    return shown


def _file_name(name, split, digit, number):
    if name == "imagenet":
        return f"{split}/n{digit:08d}/n{digit:08d}_{number}.JPEG"
    if name == "places205":
        return f"{split}/{PLACES[digit]}/{number:08d}.jpg"
    group = SPECIES[digit].split("/")[0]
    return f"train_val2018/{group}/{digit}/{hashlib.md5(f'{split}{digit}{number}'.encode()).hexdigest()}.jpg"


def _inat(images):
    """Return iNaturalist 2018's json of `images`."""
    return {
        "info": {"description": "digits in the format of iNaturalist 2018", "year": 2018},
        "categories": [{"id": label, "name": species.split("/")[1], "supercategory": species.split("/")[0]}
                       for label, species in enumerate(SPECIES)],
        "images": [{"id": number, "file_name": file_name, "height": height, "width": width, "license": 0,
                    "rights_holder": ""} for number, (file_name, _, height, width) in enumerate(images)],
        "annotations": [{"id": number, "image_id": number, "category_id": label}
                        for number, (_, label, _, _) in enumerate(images)],
    }


def _write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# Detection

def scenes(painter, deck, generator, count, crowds=False):
    """Yield `count` scenes of one to five objects, in which the twenty kinds are equally frequent.

    With `crowds`, as in COCO, every fifth scene has a crowd region, and the last one shows no object at all.
    """
    kinds = []
    for number in range(count):
        wanted = int(generator.integers(2, 6))
        if len(kinds) < wanted:
            kinds += list(generator.permutation(demo_pictures.KINDS))
        take, kinds = kinds[:wanted], kinds[wanted:]
        if crowds and number == count - 1:
            take = []
        crowd = int(generator.integers(10)) if crowds and number % 5 == 2 else None
        yield painter.scene([int(kind) for kind in take], deck, generator, number % 5 == 1, crowd)


def _write_voc(folder, painter, seed):
    """Write one VOC year; returns {split: samples shown}."""
    shown, members = {}, {}  # members: {split: [(id, things)]}
    number = 0
    parts = {"trainval": ("train", "val"), "test": ("test",)}
    for whole, splits in parts.items():
        if splits[0] not in SCENES[folder.name]:
            continue
        generator = _generator(seed, f"{folder.name}/{whole}")
        deck = demo_pictures.Deck(painter.parts["train" if whole == "trainval" else "held out"], generator)
        for split in splits:
            first = len(deck.used)
            members[split] = []
            for canvas in scenes(painter, deck, generator, SCENES[folder.name][split]):
                number += 1
                identity = f"{number:06d}" if folder.name == "VOC2007" else f"2012_{number:06d}"
                _save(canvas.picture(), folder / "JPEGImages" / f"{identity}.jpg", 95)
                _write_xml(folder, identity, canvas)
                members[split].append((identity, canvas.things))
            shown[f"{folder.name}/{split}"] = sorted(deck.used[first:])
    members["trainval"] = members["train"] + members["val"]
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split, images in members.items():
        (lists / f"{split}.txt").write_text("".join(f"{identity}\n" for identity, _ in images))
        for kind, name in enumerate(VOC_NAMES):
            rows = [f"{identity} {_presence(things, kind):2d}\n" for identity, things in images]
            (lists / f"{name}_{split}.txt").write_text("".join(rows))
    return shown


def _presence(things, kind):
    """Return VOC's image label: 1 present, 0 only difficult ones, -1 absent."""
    difficult = [thing.difficult for thing in things if thing.kind == kind]
    return -1 if not difficult else int(not all(difficult))


def _write_xml(folder, identity, canvas):
    """Write VOC's annotation; boxes are 1-based and include their last pixel."""
    height, width = canvas.pixels.shape[:2]
    tree = ElementTree.Element("annotation")
    fields = {"folder": folder.name, "filename": f"{identity}.jpg",
              "source": {"database": "digits on photographs", "annotation": "exact", "image": "scikit-learn"},
              "size": {"width": width, "height": height, "depth": 3}, "segmented": 0}
    _add(tree, fields)
    for thing in canvas.things:
        x0, y0, x1, y1 = thing.box
        _add(tree, {"object": {
            "name": VOC_NAMES[thing.kind], "pose": "Unspecified", "truncated": int(thing.truncated),
            "occluded": int(thing.occluded), "difficult": int(thing.difficult),
            "bndbox": {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1}}})
    ElementTree.indent(tree)
    path = folder / "Annotations" / f"{identity}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ElementTree.tostring(tree, encoding="unicode") + "\n")


def _add(parent, fields):
    for name, value in fields.items():
        element = ElementTree.SubElement(parent, name)
        if isinstance(value, dict):
            _add(element, value)
        else:
            element.text = str(value)


def _write_coco(folder, painter, seed):
    """Write COCO's train2017 and val2017; returns {split: samples shown}."""
    shown, image_id, annotation_id = {}, 0, 0
    categories = [{"supercategory": group, "id": first + step, "name": name}
                  for group, blocks in COCO_NAMES.items() for first, names in blocks.items()
                  for step, name in enumerate(names.split(","))]
    for split, count in SCENES["coco"].items():
        generator = _generator(seed, f"coco/{split}")
        deck = demo_pictures.Deck(painter.parts["held out" if split in HELD_OUT else "train"], generator)
        images, annotations = [], []
        for canvas in scenes(painter, deck, generator, count, crowds=True):
            image_id += 9  # COCO's ids have gaps too
            height, width = canvas.pixels.shape[:2]
            images.append({"id": image_id, "file_name": f"{image_id:012d}.jpg", "height": height,
                           "width": width, "license": 1})
            _save(canvas.picture(), folder / split / f"{image_id:012d}.jpg", 95)
            for thing in canvas.things:
                annotation_id += 1  # from 1: pycocotools takes 0 for "no match"
                x0, y0, x1, y1 = thing.box
                outline = {"counts": demo_pictures.runs(thing.mask), "size": [height, width]} if thing.crowd \
                    else demo_pictures.polygons(thing.mask)
                annotations.append({"id": annotation_id, "image_id": image_id,
                                    "category_id": COCO_OF_KIND[thing.kind], "iscrowd": int(thing.crowd),
                                    "segmentation": outline, "area": int(thing.mask.sum()),
                                    "bbox": [x0, y0, x1 - x0, y1 - y0]})
        _write_json(folder / "annotations" / f"instances_{split}.json", {
            "info": {"description": "digits in the format of COCO 2017"},
            "licenses": [{"id": 1, "name": "CC BY 2.0",
                          "url": "https://creativecommons.org/licenses/by/2.0/"}],
            "images": images, "annotations": annotations, "categories": categories})
        shown[f"coco/{split}"] = sorted(deck.used)
    return shown


def main():
    parser = argparse.ArgumentParser(description="write the embedded data sets")
    parser.add_argument("root", help="folder that gets imagenet/, VOC2007/, coco/ and the others")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        write(arguments.root, arguments.seed)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    images = sum(1 for path in Path(arguments.root).rglob("*") if path.suffix in (".jpg", ".JPEG"))
    print(f"{arguments.root}: {images} pictures in {', '.join(FOLDERS)}")


if __name__ == "__main__":
    main()
