"""Average precision behind Detectron2's evaluators: VOC (11-point or area) and COCO (box and mask).

Detectron2 collects the detections over ranks and writes its files; the figures are computed here, because its
VOC code leaves the order of equal scores to chance (an unstable sort) and its COCO code needs the compiled
extension to be fast. Figures are percent. What cannot be measured is left out, never NaN: a class or a size
without an object in the test set. A model that detects nothing scores 0.
"""

import itertools
import json
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator
from detectron2.utils import comm
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core.mask import area as mask_areas

from parallel.files import write_whole
from transfer.detection.data import read_voc, voc_split

THRESHOLDS = tuple(range(50, 100, 5))  # percent of IoU
COCO_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl",  # COCO's twelve figures, in its order
              "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
# What stands before Detectron2's names of the figures in a record, by kind of data set and of figure
PREFIXES = {"pascal_voc": {"bbox": ""}, "coco": {"bbox": "box_", "segm": "mask_"}}


# Pascal VOC

def voc_average_precision(recall, precision, eleven_points):
    """Return AP in 0-1 of a class: recall and precision (n,) after each detection, best score first.

    eleven_points: mean over recall 0, 0.1, ..., 1 of the best precision at or beyond it (VOC 2007), else the
    area under the envelope of the curve (VOC 2010 on). The recall steps are Detectron2's np.arange, whose
    third, sixth and seventh lie a rounding error above 0.3, 0.6 and 0.7: published figures are made so.
    """
    if not len(recall):
        return 0.0
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if eleven_points:
        places = np.searchsorted(recall, np.arange(0.0, 1.1, 0.1), side="left")  # recall is ascending
        return float(sum(envelope[place] for place in places if place < len(recall)) / 11)
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def voc_overlaps(boxes, box):
    """Return the IoU (n,) of VOC boxes (n, 4) with one box (4,); pixels inclusive: width is max - min + 1."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]) + 1
    shared = np.prod(np.maximum(sides, 0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    return shared / (areas + np.prod(box[2:] - box[:2] + 1) - shared)


def voc_class_precisions(detections, truth, eleven_points):
    """Return AP in percent at each of THRESHOLDS for one class, or None where no object counts.

    detections: [(image, score, box)]; those of equal score keep the order given. truth: {image: (boxes
    (n, 4), difficult (n,) bool)}. The rules of the VOC devkit: a detection belongs to the object it overlaps
    most; the first one on an object is right, later ones wrong; on a difficult one it counts neither way.
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
            overlaps = voc_overlaps(boxes, np.asarray(box, float))
            best = int(overlaps.argmax())
            overlap[row], target[row], ignored[row] = overlaps[best], first_of[image] + best, difficult[best]
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
    return voc_average_precision(true / positives, precision, eleven_points)


class VOCEvaluator(PascalVOCDetectionEvaluator):
    """Detectron2's evaluator, its rounding of scores to 0.001 and boxes to 0.1 pixel included; AP from here.

    Writes folder/per_class.json: {class: {"AP", "AP50", "AP75"}}.
    """

    def __init__(self, dataset_name, folder):
        super().__init__(dataset_name)
        self._folder = Path(folder)

    def evaluate(self):
        """Return {"bbox": {"AP", "AP50", "AP75"}} in percent on the main process, None on the others."""
        gathered = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return None
        lines = defaultdict(list)
        for number, part in itertools.product(range(len(self._class_names)), gathered):
            lines[number] += part.get(number, [])
        meta = MetadataCatalog.get(self._dataset_name)
        truth = self._truth(voc_split(Path(meta.dirname), meta.split))
        per_class = {}
        for number, name in enumerate(self._class_names):
            precisions = voc_class_precisions(_parsed(lines[number], truth[name]), truth[name], self._is_2007)
            if precisions is not None:
                per_class[name] = {"AP": float(np.mean(precisions)), "AP50": precisions[THRESHOLDS.index(50)],
                                   "AP75": precisions[THRESHOLDS.index(75)]}
        if not per_class:
            raise ValueError(f"{self._dataset_name}: every object is difficult or there is none, so nothing "
                             "can be measured; use another test set")
        _write(per_class, self._folder)
        return OrderedDict(bbox={key: float(np.mean([row[key] for row in per_class.values()]))
                                 for key in ("AP", "AP50", "AP75")})

    def _truth(self, images):
        """Return {class: {image: (boxes, difficult)}}, every image under every class, in the list's order."""
        found = {name: {} for name in self._class_names}
        for image in images:
            _, objects = read_voc(self._anno_file_template.format(image))
            for name in self._class_names:
                own = [(box, difficult) for label, box, difficult in objects if label == name]
                found[name][image] = (np.array([box for box, _ in own], float).reshape(-1, 4),
                                      np.array([difficult for _, difficult in own], bool))
        return found


def _parsed(lines, truth):
    """Return [(image, score, box)] of Detectron2's prediction lines, in the order of the test set."""
    rank = {image: number for number, image in enumerate(truth)}
    rows = [line.split() for line in lines]
    rows.sort(key=lambda words: rank[words[0]])
    return [(words[0], float(words[1]), [float(word) for word in words[2:6]]) for words in rows]


# COCO

def coco_figures(truth, detections, kind):
    """Return ({name of COCO_NAMES: figure}, {class: {"AP", "AP50", "AP75"}}) in percent.

    truth: a COCO annotation dict. detections: COCO results, [{"image_id", "category_id", "score", "bbox"
    (x, y, w, h) and, for masks, "segmentation" (RLE)}]. Neither is changed. kind: "bbox" or "segm".
    """
    with_truth = COCO({**truth, "annotations": [dict(item) for item in truth["annotations"]]})
    found = with_truth.loadRes([dict(item) for item in detections])  # adds to the items it is given
    if kind == "segm" and detections:  # else the box's area, not the mask's, would decide what is small
        areas = mask_areas([item["segmentation"] for item in detections])  # at once: 16 microseconds a call
        for item, area in zip(found.dataset["annotations"], areas, strict=True):
            item["area"] = float(area)
    evaluation = COCOeval_faster(with_truth, found, kind, print_function=_silent)
    evaluation.run()
    figures = {name: 100 * float(value) for name, value in zip(COCO_NAMES, evaluation.stats) if value >= 0}
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class): all sizes, 100 boxes
    names = [with_truth.cats[number]["name"] for number in evaluation.params.catIds]
    per_class = {name: {key: 100 * float(part[:, :, column].mean()) for key, part in
                        (("AP", precision), ("AP50", precision[:1]), ("AP75", precision[5:6]))}
                 for column, name in enumerate(names) if (precision[:, :, column] >= 0).all()}
    return figures, per_class


def _silent(*_):
    pass


class COCOFigures(COCOEvaluator):
    """Detectron2's evaluator with the figures of faster-coco-eval; the same figures as pycocotools (tested).

    Writes output_dir/per_class.json, {class: {"box_AP", "box_AP50", "box_AP75" and the same of mask_}},
    beside Detectron2's own files.
    """

    def _eval_predictions(self, predictions, img_ids=None):
        results = list(itertools.chain.from_iterable(item["instances"] for item in predictions))
        official = {ours: theirs for theirs, ours in self._metadata.thing_dataset_id_to_contiguous_id.items()}
        for result in results:
            result["category_id"] = official[result["category_id"]]
        (Path(self._output_dir) / "coco_instances_results.json").write_text(json.dumps(results))
        per_class = {}
        for kind in self._tasks:
            self._results[kind], of_kind = coco_figures(self._coco_api.dataset, results, kind)
            for name, row in of_kind.items():
                per_class.setdefault(name, {}).update({PREFIXES["coco"][kind] + key: value
                                                       for key, value in row.items()})
        _write(per_class, Path(self._output_dir))


def _write(per_class, folder):
    write_whole(folder / "per_class.json", json.dumps(per_class, indent=1) + "\n")
