"""Images per second of detection training batches: our loader against Detectron2's own, in one process.

    python -m benchmarks.detection_loader

Both decode, resize, flip and collate with the mapper of the paper's VOC configuration, on one thread without
workers. Ours also makes image and augmentation a function of seed and iteration, so a resumed run gets the
same batches. The ratio shows what that costs. The pictures are those of benchmarks/views.py, with three boxes
each.
"""
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.structures import BoxMode

from benchmarks import common
from benchmarks.common import compare, ratio
from benchmarks.views import photographs
from transfer.detection import configuration
from transfer.detection.loader import TrainLoader

FLAGS = {}
NAME, BATCH, BATCHES = "benchmark_photographs", 4, 4


def register(folder):
    """Write the photographs and register them as a data set of Detectron2."""
    images = []
    for number, file in enumerate(photographs() * 4):
        path = folder / f"{number}.jpg"
        path.write_bytes(file)
        boxes = [[20.0 + 9 * number, 30.0, 90.0 + 9 * number, 200.0 + number * 5], [5.0, 5.0, 80.0, 60.0],
                 [200.0, 100.0, 480.0, 360.0]]
        things = [{"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0} for box in boxes]
        images.append({"file_name": str(path), "image_id": number, "width": 500, "height": 375,
                       "annotations": things})
    DatasetCatalog.register(NAME, lambda: images)
    MetadataCatalog.get(NAME).thing_classes = ["thing"]


def loaders():
    """Return {name: iterable of batches}, Detectron2's as its own trainer builds it."""
    cfg = configuration.build("pascal_voc_R_50_C4_24k_bt.yaml", ("SOLVER.IMS_PER_BATCH", str(BATCH)))
    cfg.DATASETS.TRAIN, cfg.DATALOADER.NUM_WORKERS, cfg.SEED = (NAME,), 0, 0
    own = build_detection_train_loader(get_detection_dataset_dicts(cfg.DATASETS.TRAIN),
                                       mapper=DatasetMapper(cfg, is_train=True), total_batch_size=BATCH)
    return {"detectron2": own, "ours": TrainLoader(cfg)}


def drawing(batches):
    """Return a function that takes the next BATCHES batches of an endless loader."""
    stream = iter(batches)
    return lambda: [next(stream) for _ in range(BATCHES)]


def measure(args):
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        register(Path(folder))
        seconds = compare({name: drawing(batches) for name, batches in loaders().items()})
    return [common.Row(f"{BATCHES} batches of {BATCH} images", "time, Detectron2 over ours",
                       ratio(seconds["detectron2"], seconds["ours"]),
                       beside=f"{BATCH * BATCHES / statistics.median(seconds['ours']):.1f} images/s")]


if __name__ == "__main__":
    sys.exit(common.main(__doc__, FLAGS, measure))
