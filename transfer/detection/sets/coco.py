"""COCO: one annotation file for all images, box and mask AP.

The figures are those of pycocotools (tested), computed by faster-coco-eval: Detectron2's fast code needs the
compiled extension. Percent; the figure of a size of which the test set has no object is left out, never NaN.
A model that detects nothing scores 0.
"""

import functools
import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core.mask import area as mask_areas

from parallel.files import write_whole
from transfer.detection.sets.contract import Listing, file_sizes, require_file

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl",  # COCO's twelve, in its order
           "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class Part:
    """The images of an annotation file; see contract.Part.

    annotations: json file as COCO's instances_*.json. images: the folder below which it names the images.
    """

    annotations: Path
    images: Path

    prefixes: ClassVar[dict[str, str]] = {"bbox": "box_", "segm": "mask_"}

    def contents(self) -> tuple[tuple[str, ...], bool]:
        """See contract.Part."""
        _, classes, masks, _ = self._read()
        return classes, masks

    def check(self) -> Listing:
        """See contract.Part. Also refuses annotations of unknown images or classes."""
        names, classes, masks, label_hash = self._read()
        sizes = file_sizes(self.images, names)
        digest = hashlib.sha256(label_hash.encode())
        digest.update("".join(f"{name} {sizes[name]}\n" for name in names).encode())
        return Listing(len(names), classes, masks, digest.hexdigest())

    def register(self, name: str) -> None:
        """See contract.Part."""
        labels, images = str(self.annotations), str(self.images)
        DatasetCatalog.register(name, lambda: load_coco_json(labels, images, name))  # adds thing_classes
        MetadataCatalog.get(name).set(json_file=labels)

    def evaluator(self, name: str, folder: Path, masks: bool) -> DatasetEvaluator:
        """See contract.Part."""
        tasks = ("bbox", "segm") if masks else ("bbox",)
        return Evaluator(name, tasks, output_dir=str(folder), use_fast_impl=False)

    def _read(self):
        require_file(self.annotations)
        state = self.annotations.stat()
        return _read(self.annotations, state.st_size, state.st_mtime_ns)


SETS = {
    "coco_2017_train": Part(Path("coco/annotations/instances_train2017.json"), Path("coco/train2017")),
    "coco_2017_val": Part(Path("coco/annotations/instances_val2017.json"), Path("coco/val2017")),
}


@functools.lru_cache(maxsize=4)  # the training file has 450 MB: seconds to parse; size and time tell it apart
def _read(path, size, modified):
    """Return (image file names, class names, whether there are masks, sha256) of an annotation file that
    belongs together."""
    raw = path.read_bytes()
    try:
        truth = json.loads(raw)
        names = tuple(image["file_name"] for image in truth["images"])
        classes = tuple(item["name"] for item in sorted(truth["categories"], key=lambda item: item["id"]))
        images, categories = ({item["id"] for item in truth[kind]} for kind in ("images", "categories"))
        foreign = sum(item["image_id"] not in images or item["category_id"] not in categories
                      for item in truth["annotations"])
        outlined = sum(bool(item.get("segmentation")) for item in truth["annotations"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected COCO's images, annotations and categories, found "
                         f"{type(error).__name__} ({str(error)[:80]}); download it again") from None
    if not names or foreign:
        raise ValueError(f"{path}: expected images and their annotations, found {len(names)} images and "
                         f"{foreign} annotations of unknown images or categories; download it again")
    if outlined not in (0, len(truth["annotations"])):
        raise ValueError(f"{path}: expected a segmentation in every annotation or in none, found {outlined} "
                         f"in {len(truth['annotations'])} annotations; complete them or take all out")
    return names, classes, outlined == len(truth["annotations"]), hashlib.sha256(raw).hexdigest()


def figures(truth: dict, detections: list, kind: str) -> tuple[dict, dict]:
    """Return ({name of FIGURES: figure}, {class: {"AP", "AP50", "AP75"}}) in percent.

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
