"""Detectron2's global state, set up for one run: configuration, data-set registry, processes, log.

What Detectron2 does with environment variables and module-level registries at import time is done here
explicitly, so that one process can run several tasks, roots and seeds one after the other.
"""

import ast
import contextlib
import difflib
import logging
import os
import sys
from pathlib import Path

import torch.distributed as dist

from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, load_voc_instances
from detectron2.utils import comm

from transfer.config import nearest
from transfer.detection import data as sets
from transfer.detection import heads  # noqa: F401  registers Res5ROIHeadsExtraNorm

CONFIGS = Path(__file__).resolve().parent.parent.parent / "detection_configs"

# Keys that the command line owns, with the flag to use instead.
FLAGS = {"MODEL.WEIGHTS": "--weights", "OUTPUT_DIR": "--output", "SEED": "--seed", "MODEL.DEVICE": "--device",
         "DATALOADER.NUM_WORKERS": "--workers"}
# Keys that must not change the number, so that they are no part of a record's config.
WITHOUT_EFFECT = {*FLAGS, "VERSION", "VIS_PERIOD", "SOLVER.CHECKPOINT_PERIOD", "TEST.EXPECTED_RESULTS"}
REFERENCE_GPUS = 8  # of every published recipe here

# Loggers whose lines are shown on the console; log.txt has everything. The checkpointer's warnings of what
# the file does not hold are not shown: the proof counts them (transfer/weights/proof.py).
SPOKEN = ("detectron2.utils.events", "detectron2.evaluation.evaluator", "detectron2.engine.hooks",
          "transfer.detection")
UNSPOKEN = ("fvcore.common.checkpoint", "detectron2.checkpoint")


# Configuration

def configuration(yaml, options=()):
    """Return the CfgNode of a YAML in detection_configs/, (KEY, VALUE, ...) applied; see Config.override."""
    path = CONFIGS / yaml
    if not path.is_file():
        raise ValueError(f"unknown preset {yaml!r} in detection_configs/; "
                         f"{nearest(yaml, [file.name for file in CONFIGS.glob('*.yaml')])}")
    config = _defaults()
    config.merge_from_file(str(path))
    values = flat(config)
    for key, text in zip(options[::2], options[1::2]):
        if key in FLAGS:
            raise ValueError(f"{key} is set by {FLAGS[key]}; use that flag")
        if key not in values:
            near = difflib.get_close_matches(key.upper(), values, n=3, cutoff=0.0)
            raise ValueError(f"unknown key {key!r}; did you mean {' or '.join(near)}?")
        *path, leaf = key.split(".")
        node = config
        for part in path:
            node = node[part]
        node[leaf] = _typed(key, text, node[leaf])
    for key in ("MAX_ITER", "IMS_PER_BATCH", "ACCUMULATE"):
        if config.SOLVER[key] < 1:
            raise ValueError(f"expected SOLVER.{key} of 1 or more, found {config.SOLVER[key]}")
    if config.SOLVER.REFERENCE_WORLD_SIZE:  # Detectron2 would change the recipe behind the record's back
        raise ValueError("SOLVER.REFERENCE_WORLD_SIZE is set by --rescale; use that flag")
    return config


def _defaults():
    """Return Detectron2's defaults with the two keys of ours."""
    config = get_cfg()
    config.SOLVER.ACCUMULATE = 1         # micro-batches of an iteration (accumulation.py)
    config.MODEL.CHANNELS_LAST = False   # memory layout of the convolutions: speed, and other rounding
    return config


def rescaled(config, gpus):
    """Return the KEY VALUE strings by which Detectron2's linear rule takes `config` from 8 GPUs to `gpus`."""
    from detectron2.engine import DefaultTrainer

    if config.SOLVER.IMS_PER_BATCH % REFERENCE_GPUS:
        raise ValueError(f"--rescale starts from a batch for {REFERENCE_GPUS} GPUs, found "
                         f"SOLVER.IMS_PER_BATCH {config.SOLVER.IMS_PER_BATCH}; use a multiple of it")
    reference = config.clone()
    reference.SOLVER.REFERENCE_WORLD_SIZE = REFERENCE_GPUS
    scaled = DefaultTrainer.auto_scale_workers(reference, gpus)
    scaled.SOLVER.REFERENCE_WORLD_SIZE = 0  # done: to scale it again would be wrong
    before = flat(config)
    return [word for key, value in flat(scaled).items() if value != before[key] for word in (key, str(value))]


def flat(node, without=(), prefix=""):
    """Return {"SOLVER.BASE_LR": 0.1, ...} of a CfgNode with tuples as lists, in the order of the keys."""
    found = {}
    for key, value in sorted(node.items()):
        name = prefix + key
        if isinstance(value, CfgNode):
            found.update(flat(value, without, f"{name}."))
        elif name not in without:
            found[name] = _listed(value)
    return found


def _listed(value):
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value


def _typed(key, text, default):
    """Return text in the default's type: whole numbers do for floats, one value for a tuple of one."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    kind = type(default)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is str:
        return text
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind is float and number:
        return float(value)
    if kind is int and number and isinstance(value, int):
        return value
    if kind in (tuple, list):
        return kind(value) if isinstance(value, (tuple, list)) else kind([value])
    if default is None:
        return value
    raise ValueError(f"{key}: expected {kind.__name__} such as {default!r}, found {text!r}")


# Data sets

def register(names, root):
    """Point Detectron2's registries at the data sets `names` under `root`, whatever they held before."""
    for name in names:
        entry = sets.find(name)
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog.list():
                catalog.remove(name)
        if isinstance(entry, sets.VocSet):
            _register_voc(name, entry, Path(root) / entry.folder)
        else:
            _register_coco(name, entry, Path(root) / "coco")


def _register_voc(name, entry, folder):
    DatasetCatalog.register(name, lambda: load_voc_instances(str(folder), entry.split, list(entry.classes)))
    MetadataCatalog.get(name).set(thing_classes=list(entry.classes), dirname=str(folder), year=entry.year,
                                  split=entry.split, evaluator_type="pascal_voc")


def _register_coco(name, entry, folder):
    labels, images = str(folder / "annotations" / entry.annotations), str(folder / entry.images)
    DatasetCatalog.register(name, lambda: load_coco_json(labels, images, name))  # sets the class names too
    MetadataCatalog.get(name).set(json_file=labels, image_root=images, evaluator_type="coco")


# Processes

def join_processes():
    """Tell Detectron2 which processes share this machine; its own launch() would have done so.

    torch.distributed is initialised already, or there is one process. Idempotent, called on every rank.
    """
    if not dist.is_initialized() or comm._LOCAL_PROCESS_GROUP is not None:
        return
    size = dist.get_world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size))  # torchrun's; our own launch uses one machine
    if hasattr(comm, "create_local_process_group"):  # newer than v0.6
        comm.create_local_process_group(local)
        return
    for first in range(0, size, local):  # every rank has to take part in creating every group
        group = dist.new_group(list(range(first, first + local)))
        if first <= dist.get_rank() < first + local:
            comm._LOCAL_PROCESS_GROUP = group


# Log

@contextlib.contextmanager
def log_to(out):
    """While open, Detectron2's log goes to out/log.txt (other ranks: log.txt.rankN), progress to the console.

    Handlers are removed at the end, so that runs in one process do not write into each other's files.
    """
    rank = comm.get_rank()
    file = logging.FileHandler(out / ("log.txt" if rank == 0 else f"log.txt.rank{rank}"))
    layout = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
    file.setFormatter(logging.Formatter(layout, "%m/%d %H:%M:%S"))
    handlers = [file]
    if rank == 0:
        console = logging.StreamHandler(sys.stdout)
        console.addFilter(_spoken)
        console.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", "%H:%M:%S"))
        handlers.append(console)
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "transfer.detection")]
    loop = logging.getLogger("detectron2.engine.train_loop")
    loop.addFilter(_without_traceback)
    logging.captureWarnings(True)
    warned = logging.getLogger("py.warnings")
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    for logger in [*loggers, warned]:
        logger.addHandler(file)
    for logger in loggers:
        for handler in handlers[1:]:
            logger.addHandler(handler)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        loop.removeFilter(_without_traceback)
        for logger in [*loggers, warned]:
            for handler in handlers:
                logger.removeHandler(handler)
        file.close()


def _spoken(record):
    if record.levelno >= logging.WARNING:
        return not record.name.startswith(UNSPOKEN)
    return record.name.startswith(SPOKEN)


def _without_traceback(record):
    return record.exc_info is None  # the exception itself reaches the caller, who says it in one line
