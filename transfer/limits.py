"""What no training, fit or evaluation can have, by the name of the setting: known before anything starts."""

import math
from collections.abc import Callable
from typing import Any

MOST = 1_000_000  # of anything that is counted


def each(fits: Callable[[float], bool]) -> Callable[[Any], bool]:
    """Return a test of a number, or of every number of a tuple."""
    return lambda value: all(map(fits, value if isinstance(value, (tuple, list)) else (value,)))


def some(fits: Callable[[float], bool]) -> Callable[[Any], bool]:
    """Return a test of every number of a tuple that has at least one."""
    return lambda value: bool(value) and each(fits)(value)


def counted(number: float) -> bool:
    return 1 <= number <= MOST


def finite(number: float) -> bool:
    return 0 <= number < math.inf


def positive(number: float) -> bool:
    return 0 < number < math.inf


COUNT = each(counted), f"from 1 to {MOST}"
RATE = each(finite), "a finite number, 0 or more"
POSITIVE = each(positive), "a finite number above 0"
SHARE = each(lambda number: 0 < number < 1), "a share between 0 and 1"
MOMENTUM = each(lambda number: 0 <= number < 1), "a number from 0 to below 1"
LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "epochs": COUNT, "batch_size": COUNT, "max_iterations": COUNT, "strengths": COUNT, "draws": COUNT,
    "folds": (each(lambda number: 2 <= number <= MOST), f"from 2 to {MOST}"),
    "image_size": (each(lambda number: number == 0 or 8 <= number <= 4096),
                   "from 8 to 4096, or 0 for the stem's size"),
    "k": (some(lambda number: 0 <= number <= MOST), f"values from 0 to {MOST}"),
    "shots": (some(counted), f"values from 1 to {MOST}"),
    "temperature": (some(positive), "finite values above 0"),
    "costs": (some(positive), "finite values above 0"),
    "learning_rate": RATE, "backbone_learning_rate": RATE, "head_learning_rate": RATE, "weight_decay": RATE,
    "initial_std": RATE, "norm_epsilon": RATE, "drop_factor": RATE,
    "sweep_learning_rates": RATE, "sweep_weight_decays": RATE,
    "drop_epochs": (each(lambda number: 0 <= number <= MOST), f"values from 0 to {MOST}"),
    "momentum": MOMENTUM,
    "positive_weight": POSITIVE, "tolerance": POSITIVE, "weakest": POSITIVE, "strongest": POSITIVE,
    "held_out": SHARE,
    "crop_scale": (lambda value: len(value) == 2 and 0 < value[0] <= value[1] <= 1,
                   "two shares in rising order, above 0 and up to 1"),
    # Of Detectron2; a size of 0 leaves pictures as they are.
    **dict.fromkeys(("SOLVER.MAX_ITER", "SOLVER.IMS_PER_BATCH", "SOLVER.ACCUMULATE",
                     "SOLVER.CHECKPOINT_PERIOD", "INPUT.MAX_SIZE_TRAIN",
                     "INPUT.MAX_SIZE_TEST", "TEST.DETECTIONS_PER_IMAGE", "TEST.PRECISE_BN.NUM_ITER",
                     "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
                     "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION",
                     "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", "MODEL.RPN.PRE_NMS_TOPK_TRAIN",
                     "MODEL.RPN.PRE_NMS_TOPK_TEST", "MODEL.RPN.POST_NMS_TOPK_TRAIN",
                     "MODEL.RPN.POST_NMS_TOPK_TEST"), COUNT),
    **dict.fromkeys(("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST", "SOLVER.WARMUP_ITERS",
                     "TEST.EVAL_PERIOD"),
                    (each(lambda number: 0 <= number <= MOST), f"from 0 to {MOST}")),
    **dict.fromkeys(("SOLVER.BASE_LR", "SOLVER.GAMMA", "SOLVER.WEIGHT_DECAY", "SOLVER.WEIGHT_DECAY_NORM",
                     "SOLVER.WARMUP_FACTOR", "SOLVER.BIAS_LR_FACTOR", "MODEL.RPN.LOSS_WEIGHT",
                     "MODEL.RPN.BBOX_REG_LOSS_WEIGHT", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT",
                     "MODEL.RPN.SMOOTH_L1_BETA", "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA"), RATE),
    **dict.fromkeys(("MODEL.RPN.NMS_THRESH", "MODEL.ROI_HEADS.NMS_THRESH_TEST",
                     "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "MODEL.RPN.POSITIVE_FRACTION",
                     "MODEL.ROI_HEADS.POSITIVE_FRACTION", "MODEL.RPN.IOU_THRESHOLDS",
                     "MODEL.ROI_HEADS.IOU_THRESHOLDS"), (each(lambda number: 0 <= number <= 1),
                                                         "from 0 to 1")),
    "SOLVER.MOMENTUM": MOMENTUM,
    "SOLVER.STEPS": (lambda value: list(value) == sorted({*value}) and each(counted)(value),
                     "iterations in rising order"),
}


def require_possible(settings: dict[str, Any]) -> None:
    """Raise ValueError for the first of {setting: value} that nothing can have; others are not looked at."""
    for name, value in settings.items():
        if name in LIMITS and not LIMITS[name][0](value):
            raise ValueError(f"{name}: expected {LIMITS[name][1]}, found {value}")
