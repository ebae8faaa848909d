"""The configuration of a run: a YAML of detection_configs/ with KEY VALUE pairs, checked, rescaled, flat."""

import ast
import difflib
import math
from collections.abc import Container, Sequence
from typing import Any

from detectron2.config import CfgNode, get_cfg

from parallel.places import ROOT
from transfer.limits import require_possible
from transfer.settings import nearest

CONFIGS = ROOT / "detection_configs"  # beside transfer, also where it is installed

# Keys that the command line owns, with the flag to use instead.
FLAGS = {"MODEL.WEIGHTS": "--weights", "OUTPUT_DIR": "--output", "SEED": "--seed", "MODEL.DEVICE": "--device",
         "DATALOADER.NUM_WORKERS": "--workers"}
# Keys that must not change the number; a record's config leaves them out.
WITHOUT_EFFECT = {*FLAGS, "VERSION", "VIS_PERIOD", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD",
                  "TEST.EXPECTED_RESULTS"}
# Keys that came to Detectron2 after 0.6 (facebookresearch/detectron2 at 02b5c4e), with the values at which it
# does what 0.6 does. A record leaves them out there, so it is the same whichever of the two is installed.
LATER = {"DATALOADER.REPEAT_SQRT": True, "FLOAT32_PRECISION": "", "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": False,
         "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": False, "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER": 0.5,
         "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": 50, "SOLVER.BASE_LR_END": 0.0, "SOLVER.NUM_DECAYS": 3,
         "SOLVER.RESCALE_INTERVAL": False}
# Keys of Detectron2 that nothing here reads. A record must not claim another value for them.
# LOAD_PROPOSALS would have Detectron2 unpickle files of proposals.
UNREAD = ("DATALOADER.SAMPLER_TRAIN", "TEST.AUG.ENABLED", "CUDNN_BENCHMARK", "MODEL.LOAD_PROPOSALS")
REFERENCE_GPUS = 8  # of every published recipe here
OFFICIAL = {  # images of the sets that are known by name
    "voc_2007_trainval": 5_011, "voc_2007_train": 2_501, "voc_2007_val": 2_510, "voc_2007_test": 4_952,
    "voc_2012_trainval": 11_540, "voc_2012_train": 5_717, "voc_2012_val": 5_823,
    "bccd_trainval": 292, "bccd_test": 72, "coco_2017_train": 118_287, "coco_2017_val": 5_000}


def defaults() -> CfgNode:
    """Return Detectron2's defaults with the three keys of ours."""
    config = get_cfg()
    config.SOLVER.ACCUMULATE = 1         # micro-batches of an iteration (accumulation.py)
    config.SOLVER.TF32 = False           # let a GPU round float32 to 10 bits; the papers' V100s could not
    config.MODEL.CHANNELS_LAST = False   # memory layout of the convolutions: speed, and other rounding
    return config


def build(yaml: str, options: Sequence[str] = ()) -> CfgNode:
    """Return the CfgNode of a YAML in detection_configs/, (KEY, VALUE, ...) applied; see Config.override."""
    config = defaults()
    config.merge_from_file(str(CONFIGS / yaml))
    known = flat(config)
    for key, text in zip(options[::2], options[1::2]):
        _set(config, key, text, known)
    _check(flat(config))
    return config


def check_preset(yaml: str, own: str) -> None:
    """ValueError where a task whose YAML is `own` cannot take `yaml` instead: no such file, or other data."""
    own_test = build(own).DATASETS.TEST
    test = build(yaml).DATASETS.TEST if (CONFIGS / yaml).is_file() else ()
    if not test:  # no such file, or a base of others
        raise ValueError(f"unknown preset {yaml!r}; {nearest(yaml, _presets(own))}")
    if test != own_test:
        raise ValueError(f"{yaml} is tested on {', '.join(test)}, {own} on {', '.join(own_test)}; "
                         "choose the task that belongs to it (--list)")


def _presets(own):
    """Return the names of the YAMLs that fit in place of `own`: the same test set, the same order of colours
    (those for Detectron2's own weights have another)."""
    kinds = {path.name: (config.DATASETS.TEST, config.INPUT.FORMAT)
             for path in CONFIGS.glob("*.yaml") for config in [build(path.name)]}
    return [name for name in kinds if kinds[name] == kinds[own]]


def _set(config, key, text, known):
    if key in FLAGS:
        raise ValueError(f"{key} is set by {FLAGS[key]}; use that flag")
    if key not in known:
        near = _nearest_keys(key, [*known, "preset", "dataset"])
        raise ValueError(f"unknown key {key!r}; " + (f"did you mean {' or '.join(near)}?" if near else
                                                     "--show-config lists them"))
    *path, leaf = key.split(".")
    for part in path:
        config = config[part]
    config[leaf] = _typed(key, text, config[leaf])


def _nearest_keys(key, known):
    """Return up to three known keys that resemble key, whole or in their last part; the nearest first."""
    likeness = {name: max(difflib.SequenceMatcher(None, key.upper(), form.upper()).ratio()
                          for form in (name, name.rpartition(".")[2])) for name in known}
    best = sorted(known, key=likeness.get, reverse=True)[:3]
    return [name for name in best if likeness[name] > 0.75]


def _check(values):
    require_possible(values)
    if values["SOLVER.REFERENCE_WORLD_SIZE"]:  # Detectron2 would change the recipe behind the record's back
        raise ValueError("SOLVER.REFERENCE_WORLD_SIZE is set by --rescale; use that flag")
    usual = flat(defaults())
    for key in UNREAD:
        if values[key] != usual[key]:
            raise ValueError(f"{key}: expected {usual[key]}, found {values[key]}; this suite does not read "
                             "that key, so leave it out")


def rescaled(config: CfgNode, gpus: int) -> list[str]:
    """Return the KEY VALUE strings by which Detectron2's linear rule takes `config` from 8 GPUs to `gpus`."""
    from detectron2.engine import DefaultTrainer

    if config.SOLVER.IMS_PER_BATCH % REFERENCE_GPUS:
        raise ValueError(f"--rescale starts from a batch for {REFERENCE_GPUS} GPUs, found "
                         f"SOLVER.IMS_PER_BATCH {config.SOLVER.IMS_PER_BATCH}; use a multiple of it")
    reference = config.clone()
    reference.SOLVER.REFERENCE_WORLD_SIZE = REFERENCE_GPUS
    scaled = DefaultTrainer.auto_scale_workers(reference, gpus)
    scaled.SOLVER.REFERENCE_WORLD_SIZE = 0  # done: it must not be scaled twice
    before = flat(config)
    return [word for key, value in flat(scaled).items() if value != before[key] for word in (key, str(value))]


def recorded(config: CfgNode) -> dict[str, Any]:
    """Return `flat` of what may change the number, as records have it."""
    return {key: value for key, value in flat(config, WITHOUT_EFFECT).items()
            if key not in LATER or value != LATER[key]}


def fitting(config: CfgNode, pictures: int) -> dict[str, str]:
    """Return {KEY: VALUE} of a schedule for so many training images of one's own: iterations, steps and
    warm-up of `config` times the square root of their number over the official one, to tens.

    Ours, and what the published schedules have in common: at 16 images VOC 07+12 trains for 24,000 iterations
    and VOC 07 for 12,500 (the rule: 13,200), COCO for 90,000 and Cityscapes' 2,975 images for 12,000 (the
    rule: 14,300; Detectron2's configs/Cityscapes has 24,000 at 8 images, from COCO's weights).
    """
    factor = math.sqrt(pictures / sum(OFFICIAL[name] for name in config.DATASETS.TRAIN))

    def scaled(iterations: int) -> int:
        return 10 * max(1, round(factor * iterations / 10))

    return {"SOLVER.MAX_ITER": str(scaled(config.SOLVER.MAX_ITER)),
            "SOLVER.STEPS": str(tuple(map(scaled, config.SOLVER.STEPS))),
            "SOLVER.WARMUP_ITERS": str(scaled(config.SOLVER.WARMUP_ITERS))}


def flat(node: CfgNode, without: Container[str] = (), prefix: str = "") -> dict[str, Any]:
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
        items = value if isinstance(value, (tuple, list)) else [value]
        if not default or _words(items) <= _words(default):
            return kind(items)
    if default is None:
        return value
    raise ValueError(f"{key}: expected {kind.__name__} such as {default!r}, found {text!r}")


def _words(value):
    """Return whether there are words, and whether there are others, in a nested list: a set of bool."""
    if isinstance(value, (list, tuple)):
        return set().union(*map(_words, value))
    return {isinstance(value, str)}
