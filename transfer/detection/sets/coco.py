"""COCO: one annotation file for all images, box and mask AP.

The figures are those of pycocotools (tested), computed by faster-coco-eval: Detectron2's fast code needs the
compiled extension. Percent; the figure of a size of which the test set has no object is left out, never NaN.
A model that detects nothing scores 0.
"""

import contextlib
import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core.mask import area as mask_areas

from parallel.files import write_whole
from parallel.listing import LARGEST_LIST
from parallel.reading import read_small_text
from transfer.detection.sets import coco_json, contract
from transfer.detection.sets.contract import Listing, Use, file_states, require_file, require_sizes

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl",  # COCO's twelve, in its order
           "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
CLASSES = tuple(item["name"] for item in COCO_CATEGORIES if item["isthing"])
LARGE = 10_000  # images of a part; to look at fewer takes seconds anyway


@dataclass(frozen=True)
class Part:
    """The images of an annotation file; see contract.Part.

    annotations: json file as COCO's instances_*.json. images: the folder below which it names the images.
    """

    annotations: Path
    images: Path

    prefixes: ClassVar[dict[str, str]] = {"bbox": "box_", "segm": "mask_"}

    def contents(self) -> tuple[tuple[str, ...], bool, int]:
        """See contract.Part."""
        labels = coco_json.read(*self._state())
        return labels.classes, labels.masks, len(labels.names)

    def check(self, use: Use) -> Listing:
        """See contract.Part. What is found of a large part is noted, so that the next look takes seconds."""
        label_hash = coco_json.sha256(*self._state())
        note = use.cache and use.cache / "detection" / f"{_key(label_hash, use)}.json"
        known = note and _noted(note)
        if known:
            names, classes, masks, looked_at = known
        else:
            labels = coco_json.read(*self._state())
            labels.refuse(use)
            names, classes, masks, looked_at = labels.names, labels.classes, labels.masks, ""
        states = file_states(self.images, names)
        pictures = hashlib.sha256(repr(states).encode()).hexdigest()
        if pictures != looked_at:
            labels = coco_json.read(*self._state())
            require_sizes(self.images, names, labels.sizes)
            labels.refuse_boxes()
            if note and len(names) >= LARGE:
                _keep(note, [names, classes, masks, pictures])
        digest = hashlib.sha256(label_hash.encode())
        digest.update("".join(f"{name} {size}\n" for name, (size, _) in zip(names, states)).encode())
        return Listing(tuple(str(self.images / name) for name in names), tuple(classes), masks,
                       digest.hexdigest())

    def register(self, name: str) -> None:
        """See contract.Part."""
        labels, images = str(self.annotations), str(self.images)
        DatasetCatalog.register(name, lambda: load_coco_json(labels, images, name))  # adds thing_classes
        MetadataCatalog.get(name).set(json_file=labels)

    def evaluator(self, name: str, folder: Path, masks: bool) -> DatasetEvaluator:
        """See contract.Part."""
        tasks = ("bbox", "segm") if masks else ("bbox",)
        return Evaluator(name, tasks, output_dir=str(folder), use_fast_impl=False)

    def _state(self):
        require_file(self.annotations)
        state = self.annotations.stat()
        return self.annotations, state.st_size, state.st_mtime_ns


@dataclass(frozen=True)
class Official(Part):
    """A part of COCO itself."""

    def check(self, use: Use) -> Listing:
        """See contract.Part. Also refuses 80 classes that are not COCO's: they would pass for them."""
        listing = super().check(use)
        for found, usual in zip(listing.classes, CLASSES) if len(listing.classes) == len(CLASSES) else ():
            if found != usual:
                raise ValueError(f"{self.annotations}: expected COCO's categories, found {found!r} in place "
                                 f"of {usual!r}; declare a set of your own (docs/detection.md)")
        return listing


SETS = {
    "coco_2017_train": Official(Path("coco/annotations/instances_train2017.json"), Path("coco/train2017")),
    "coco_2017_val": Official(Path("coco/annotations/instances_val2017.json"), Path("coco/val2017")),
}


# What was found of a large part

def _key(label_hash, use):
    """The name of a note: other labels, another use or other rules have another one."""
    rules = b"".join(Path(module.__file__).read_bytes() for module in (coco_json, contract))
    asked = use.trains, use.measures, use.masks, use.polygons
    return hashlib.sha256(f"{label_hash} {asked} ".encode() + rules).hexdigest()[:32]


def _noted(path):
    """[names, classes, masks, hash of the picture files' states]; None without a note or with a damaged
    one."""
    try:
        names, classes, masks, pictures = json.loads(read_small_text(path, LARGEST_LIST))
        return [str(name) for name in names], tuple(map(str, classes)), bool(masks), str(pictures)
    except (OSError, ValueError, TypeError):
        return None


def _keep(path, found):
    with contextlib.suppress(OSError):  # a full disk costs only the next look
        write_whole(path, json.dumps(found))


def figures(truth: dict, detections: list, kind: str) -> tuple[dict, dict]:
    """Return ({name of FIGURES: figure}, {class: {"AP", "AP50", "AP75"}}) in percent.

    truth: a COCO annotation dict. detections: COCO results, [{"image_id", "category_id", "score", "bbox"
    (x, y, w, h) and, for masks, "segmentation" (RLE)}]. Neither is changed. kind: "bbox" or "segm".
    """
    numbered = enumerate(truth["annotations"], 1)  # an object with the id 0 would count as found by none
    with_truth = COCO({**truth, "annotations": [{**item, "id": number} for number, item in numbered]})
    found = with_truth.loadRes([dict(item) for item in detections])  # adds to the items it is given
    if kind == "segm" and detections:  # else the box's area, not the mask's, would decide what is small
        areas = mask_areas([item["segmentation"] for item in detections])  # at once: 16 microseconds a call
        for item, area in zip(found.dataset["annotations"], areas, strict=True):
            item["area"] = float(area)
    evaluation = COCOeval_faster(with_truth, found, kind, print_function=_silent)
    evaluation.run()
    overall = {name: 100 * float(value) for name, value in zip(FIGURES, evaluation.stats) if value >= 0}
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class): all sizes, 100 boxes
    names = [with_truth.cats[number]["name"] for number in evaluation.params.catIds]
    per_class = {name: {key: 100 * float(part[:, :, column].mean()) for key, part in
                        (("AP", precision), ("AP50", precision[:1]), ("AP75", precision[5:6]))}
                 for column, name in enumerate(names) if (precision[:, :, column] >= 0).all()}
    return overall, per_class


def _silent(*_):
    pass


class Evaluator(COCOEvaluator):
    """Detectron2's evaluator with the figures from here.

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
            self._results[kind], of_kind = figures(self._coco_api.dataset, results, kind)
            for name, row in of_kind.items():
                per_class.setdefault(name, {}).update({Part.prefixes[kind] + key: value
                                                       for key, value in row.items()})
        write_whole(Path(self._output_dir) / "per_class.json", json.dumps(per_class, indent=1) + "\n")
