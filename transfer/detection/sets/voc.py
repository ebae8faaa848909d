"""Pascal VOC: lists of images, an XML file of boxes for each, AP with eleven points or as an area.

The AP is computed here, because in Detectron2's own code the order of equal scores is arbitrary (an unstable
sort). Figures are percent. A class without an object in the test set cannot be measured and is left out,
never NaN. A model that detects nothing scores 0.
"""

import hashlib
import json
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import ClassVar

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode
from detectron2.utils import comm

from parallel import voc
from parallel.files import write_whole
from parallel.voc import read_each, read_names
from transfer.detection.sets.contract import (
    RARE,
    Faults,
    Listing,
    Use,
    file_states,
    misplaced,
    require_file,
    require_objects,
    require_sizes,
)

CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
           "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
           "tvmonitor")
CELLS = ("RBC", "WBC", "Platelets")
THRESHOLDS = tuple(range(50, 100, 5))  # percent of IoU


@dataclass(frozen=True)
class Part:
    """The images of a list; see contract.Part.

    names: text file, an image's name a line. images, annotations: folders of <name><ending> and <name>.xml.
    eleven_points: AP as VOC 2007 measures it; else the area under the curve, as VOC does since 2010.
    """

    names: Path
    classes: tuple[str, ...]
    images: Path = Path("JPEGImages")
    annotations: Path = Path("Annotations")
    ending: str = ".jpg"
    eleven_points: bool = False

    prefixes: ClassVar[dict[str, str]] = {"bbox": ""}

    def contents(self) -> tuple[tuple[str, ...], bool, int]:
        """See contract.Part."""
        return self.classes, False, len(self._names())

    def check(self, use: Use) -> Listing:
        """See contract.Part. Also refuses a class that is not one of `classes`."""
        names = self._names()
        files = [name + self.ending for name in names]
        labels = [f"{name}.xml" for name in names]
        states = file_states(self.images, files)
        file_states(self.annotations, labels)
        sizes, useful, count = [], 0, 0
        foreign, odd = Faults(), Faults()
        for path, (size, objects) in read_each(read_objects, [self.annotations / label for label in labels]):
            sizes.append(size)
            count += len(objects)
            for number, (label, box, difficult) in enumerate(objects, 1):
                where = f"{path}: object {number} ({label})"
                if label not in self.classes:
                    foreign.add(where, f"a class of {', '.join(self.classes)}", repr(label),
                                "correct or remove it")
                wrong = misplaced((box[0] - 1, box[1] - 1, *box[2:]), size)
                if wrong:
                    odd.add(where, wrong, f"xmin, ymin, xmax, ymax {box} in {size[0]} x {size[1]} pixels",
                            "repair or remove it")
                useful += not (difficult and use.measures)
        foreign.refuse()
        require_objects(self.names, useful, count, use)
        require_sizes(self.images, files, sizes)
        odd.refuse(count // RARE)
        digest = hashlib.sha256()
        for name, label, (length, _) in zip(names, labels, states):
            digest.update(f"{name} {length} ".encode() + (self.annotations / label).read_bytes())
        return Listing(tuple(str(self.images / file) for file in files), self.classes, False,
                       digest.hexdigest())

    def register(self, name: str) -> None:
        """See contract.Part."""
        DatasetCatalog.register(name, lambda: self._records())
        MetadataCatalog.get(name).set(thing_classes=list(self.classes))

    def evaluator(self, name: str, folder: Path, masks: bool) -> DatasetEvaluator:
        """See contract.Part."""
        return Evaluator(self, folder)

    def truth(self) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Return {class: {image: (boxes (n, 4), difficult (n,) bool)}}, every image under every class, in
        the list's order; pixels as of read_objects."""
        found: dict = {label: {} for label in self.classes}
        for name in self._names():
            _, objects = read_objects(self.annotations / f"{name}.xml")
            for label in self.classes:
                own = [(box, difficult) for kind, box, difficult in objects if kind == label]
                found[label][name] = (np.array([box for box, _ in own], float).reshape(-1, 4),
                                      np.array([difficult for _, difficult in own], bool))
        return found

    def _names(self):
        require_file(self.names)
        return read_names(self.names)

    def _records(self):
        """Detectron2's dicts. It counts pixels from 0 and to an exclusive end, VOC from 1 to an inclusive
        one: [1, W] is [0, W). Difficult objects are trained on."""
        records = []
        for name in self._names():
            (width, height), objects = read_objects(self.annotations / f"{name}.xml")
            records.append({
                "file_name": str(self.images / (name + self.ending)), "image_id": name,
                "height": height, "width": width,
                "annotations": [{"category_id": self.classes.index(label), "bbox_mode": BoxMode.XYXY_ABS,
                                 "bbox": [xmin - 1, ymin - 1, xmax, ymax]}
                                for label, (xmin, ymin, xmax, ymax), _ in objects]})
        return records


def _official(folder, split, classes=CLASSES, eleven_points=False):
    folder = Path(folder)
    return Part(folder / "ImageSets" / "Main" / f"{split}.txt", classes, folder / "JPEGImages",
                folder / "Annotations", eleven_points=eleven_points)


SETS = {
    "voc_2007_trainval": _official("VOC2007", "trainval", eleven_points=True),
    "voc_2007_train": _official("VOC2007", "train", eleven_points=True),
    "voc_2007_val": _official("VOC2007", "val", eleven_points=True),
    "voc_2007_test": _official("VOC2007", "test", eleven_points=True),
    "voc_2012_trainval": _official("VOC2012", "trainval"),
    "voc_2012_train": _official("VOC2012", "train"),
    "voc_2012_val": _official("VOC2012", "val"),
    # Blood cells (github.com/Shenggan/BCCD_Dataset): small enough to learn something on a CPU
    "bccd_trainval": _official("BCCD", "trainval", CELLS),
    "bccd_test": _official("BCCD", "test", CELLS),
}


def read_objects(path: Path) -> tuple[tuple[int, int], list[tuple[str, list[float], bool]]]:
    """Return ((width, height), [(class name, [xmin, ymin, xmax, ymax], difficult)]) of a VOC annotation file.

    Pixels, 1-based and inclusive as in the file; some of VOC 2012 are no integers. ValueError, one line,
    where it is no such file, or has no size or an object without a box.
    """
    root, objects = voc.read_objects(path)
    sides = [root.findtext(f"size/{side}") for side in ("width", "height")]
    size = [_number(side) for side in sides]
    if not all(side > 0 and side.is_integer() for side in size):  # neither are NaN and infinity
        raise ValueError(f"{path}: expected a <size> of whole pixels above 0, found width {sides[0]!r} and "
                         f"height {sides[1]!r}; write the picture's")
    found = []
    for number, (name, difficult, item) in enumerate(objects, 1):
        corners = [item.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        box = [_number(corner) for corner in corners]
        if not (all(map(isfinite, box)) and box[0] <= box[2] and box[1] <= box[3]):
            raise ValueError(f"{path}: object {number} ({name}): expected a box that ends where it begins or "
                             f"later, found xmin, ymin, xmax, ymax {corners}; repair or remove it")
        found.append((name, box, difficult))
    return (int(size[0]), int(size[1])), found


def _number(text):
    """The number in a text; NaN where there is none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return nan


def average_precision(recall: np.ndarray, precision: np.ndarray, eleven_points: bool) -> float:
    """Return AP in 0-1 of a class: recall and precision (n,) after each detection, best score first.

    eleven_points: mean over recall 0, 0.1, ..., 1 of the best precision at or beyond it (VOC 2007), else the
    area under the envelope of the curve (VOC 2010 on). The recall steps are Detectron2's np.arange, whose
    third, sixth and seventh are a rounding error above 0.3, 0.6 and 0.7, as in published figures.
    """
    if not len(recall):
        return 0.0
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if eleven_points:
        places = np.searchsorted(recall, np.arange(0.0, 1.1, 0.1), side="left")  # recall is ascending
        return float(sum(envelope[place] for place in places if place < len(recall)) / 11)
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def overlaps(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the IoU (n,) of VOC boxes (n, 4) with one box (4,); pixels inclusive: width is max - min + 1."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]) + 1
    shared = np.prod(np.maximum(sides, 0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    return shared / (areas + np.prod(box[2:] - box[:2] + 1) - shared)


def class_precisions(detections: list, truth: dict, eleven_points: bool) -> list[float] | None:
    """Return AP in percent at each of THRESHOLDS for one class, or None where no object counts.

    detections: [(image, score, box)]; those of equal score keep the order given. truth: {image: (boxes (n,
    4), difficult (n,) bool)}. The rules are those of the VOC devkit. A detection belongs to the object it
    overlaps most. The first one on an object is right, later ones are wrong. On a difficult object it does
    not count.
    """
    positives = sum(int((~difficult).sum()) for _, difficult in truth.values())
    if positives == 0:
        return None
    order = np.argsort([-score for _, score, _ in detections], kind="stable")
    first_of = dict(zip(truth, np.cumsum([0, *(len(boxes) for boxes, _ in truth.values())])))
    overlap, target, ignored = np.zeros(len(order)), np.full(len(order), -1), np.zeros(len(order), bool)
    for row, number in enumerate(order):
        image, _, box = detections[number]
        boxes, difficult = truth[image]
        if len(boxes):
            shares = overlaps(boxes, np.asarray(box, float))
            best = int(shares.argmax())
            overlap[row], target[row], ignored[row] = shares[best], first_of[image] + best, difficult[best]
    return [100 * _precision_at(overlap > threshold / 100, target, ignored, positives, eleven_points)
            for threshold in THRESHOLDS]


def _precision_at(hit, target, ignored, positives, eleven_points):
    counted = ~(hit & ignored)
    candidates = np.flatnonzero(hit & ~ignored)
    right = np.zeros(len(hit))
    first = np.unique(target[candidates], return_index=True)[1]  # of the detections of each object
    right[candidates[first]] = 1
    true, all_counted = np.cumsum(right), np.cumsum(counted)
    precision = true / np.maximum(all_counted, 1)
    return average_precision(true / positives, precision, eleven_points)


class Evaluator(DatasetEvaluator):
    """Takes what Detectron2's PascalVOCDetectionEvaluator takes, its rounding of scores to 0.001 and of
    boxes to 0.1 pixel included. Writes folder/per_class.json: {class: {"AP", "AP50", "AP75"}}."""

    def __init__(self, part: Part, folder: Path):
        self._part, self._folder = part, folder

    def reset(self) -> None:
        self._found: defaultdict[int, list] = defaultdict(list)  # {class number: [(image, score, box)]}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for image, output in zip(inputs, outputs):
            found = output["instances"].to("cpu")
            boxes = found.pred_boxes.tensor.numpy() + np.array([1, 1, 0, 0], np.float32)  # VOC counts from 1
            for box, score, label in zip(boxes.tolist(), found.scores.tolist(), found.pred_classes.tolist()):
                self._found[label].append((image["image_id"], float(f"{score:.3f}"),
                                           [float(f"{side:.1f}") for side in box]))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return {"bbox": {"AP50", "AP", "AP75"}} in percent on the main process, None on the others."""
        gathered = comm.gather(self._found, dst=0)
        if not comm.is_main_process():
            return None
        per_class = {}
        for number, (name, truth) in enumerate(self._part.truth().items()):
            place = {image: rank for rank, image in enumerate(truth)}
            found = [row for part in gathered for row in part[number]]
            found.sort(key=lambda row: place[row[0]])  # the order of the test set
            precisions = class_precisions(found, truth, self._part.eleven_points)
            if precisions is not None:
                per_class[name] = {"AP": float(np.mean(precisions)), "AP50": precisions[THRESHOLDS.index(50)],
                                   "AP75": precisions[THRESHOLDS.index(75)]}
        if not per_class:
            raise ValueError(f"{self._part.names}: every object is difficult or there is none, so nothing "
                             "can be measured; use another test set")
        write_whole(self._folder / "per_class.json", json.dumps(per_class, indent=1) + "\n")
        return OrderedDict(bbox={key: float(np.mean([row[key] for row in per_class.values()]))
                                 for key in ("AP50", "AP", "AP75")})
