"""Detection configuration: every value of the protocol, and KEY VALUE overrides."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from transfer.detection.protocol import Config

VOC = Config("pascal_voc_R_50_C4_24k_bt.yaml")
COCO = Config("coco_R_50_C4_1x_bt.yaml")

# PROTOCOLS 7.1 (item 10) and 7.2, tolerance none; sources beside the rows of those tables.
BOTH = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN", "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm", "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.BACKBONE.FREEZE_AT": 0, "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.PIXEL_MEAN": [123.675, 116.280, 103.530], "MODEL.PIXEL_STD": [58.395, 57.120, 57.375],
    "INPUT.FORMAT": "RGB", "INPUT.MIN_SIZE_TEST": 800, "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice", "INPUT.RANDOM_FLIP": "horizontal", "INPUT.CROP.ENABLED": False,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000, "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12000, "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.LOSS_WEIGHT": 1.0,
    "SOLVER.IMS_PER_BATCH": 16, "SOLVER.REFERENCE_WORLD_SIZE": 0, "SOLVER.MOMENTUM": 0.9,
    "SOLVER.NESTEROV": False, "SOLVER.WEIGHT_DECAY": 1e-4, "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "SOLVER.BIAS_LR_FACTOR": 1.0, "SOLVER.GAMMA": 0.1, "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.WARMUP_METHOD": "linear", "SOLVER.WARMUP_ITERS": 1000, "SOLVER.AMP.ENABLED": False,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False, "TEST.PRECISE_BN.ENABLED": True, "TEST.PRECISE_BN.NUM_ITER": 200,
    "TEST.EVAL_PERIOD": 0, "TEST.AUG.ENABLED": False,
}
GOLDEN = {
    "voc": (VOC, BOTH | {
        "DATASETS.TRAIN": ["voc_2007_trainval", "voc_2012_trainval"], "DATASETS.TEST": ["voc_2007_test"],
        "MODEL.ROI_HEADS.NUM_CLASSES": 20, "MODEL.MASK_ON": False, "SOLVER.BASE_LR": 0.1,
        "SOLVER.WARMUP_FACTOR": 0.333, "SOLVER.STEPS": [18000, 22000], "SOLVER.MAX_ITER": 24000,
        "INPUT.MIN_SIZE_TRAIN": [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]}),
    "coco": (COCO, BOTH | {
        "DATASETS.TRAIN": ["coco_2017_train"], "DATASETS.TEST": ["coco_2017_val"],
        "MODEL.ROI_HEADS.NUM_CLASSES": 80, "MODEL.MASK_ON": True, "SOLVER.BASE_LR": 0.03,
        "SOLVER.WARMUP_FACTOR": 0.001, "SOLVER.STEPS": [60000, 80000], "SOLVER.MAX_ITER": 90000,
        "INPUT.MIN_SIZE_TRAIN": [640, 672, 704, 736, 768, 800]}),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_yaml_is_the_paper_s_protocol(name):
    config, golden = GOLDEN[name]
    values = config.resolved()
    assert {key: values.get(key) for key in golden} == golden


def test_resolved_holds_what_may_change_the_number_as_json():
    values = VOC.resolved()
    assert json.loads(json.dumps(values)) == values
    owned = {"MODEL.WEIGHTS", "OUTPUT_DIR", "SEED", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS"}
    assert not owned & values.keys()
    assert "DATALOADER.ASPECT_RATIO_GROUPING" in values


@pytest.mark.parametrize("key, text, value", [
    ("SOLVER.BASE_LR", "1", 1.0),
    ("SOLVER.BASE_LR", "2e-2", 0.02),
    ("SOLVER.STEPS", "(3, 4)", [3, 4]),
    ("SOLVER.STEPS", "()", []),
    ("INPUT.MIN_SIZE_TRAIN", "96", [96]),
    ("INPUT.MIN_SIZE_TRAIN", "96,128", [96, 128]),
    ("DATASETS.TRAIN", "voc_2007_trainval", ["voc_2007_trainval"]),
    ("MODEL.MASK_ON", "true", True),
    ("MODEL.RESNETS.NORM", "naiveSyncBN", "naiveSyncBN"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[[16, 32]]", [[16, 32]]),
])
def test_a_value_takes_the_type_of_the_default(key, text, value):
    config = VOC.override([key, text])
    changed = {name: new for name, new in config.resolved().items() if new != VOC.resolved()[name]}
    assert changed == {key: value}
    assert type(config.resolved()[key]) is type(value)


def test_the_last_override_of_a_key_counts():
    config = VOC.override(["SOLVER.MAX_ITER", "5"]).override(["SOLVER.MAX_ITER", "7", "SOLVER.GAMMA", "0.5"])
    assert config.resolved()["SOLVER.MAX_ITER"] == 7
    assert config.options == ("SOLVER.MAX_ITER", "7", "SOLVER.GAMMA", "0.5")


@pytest.mark.parametrize("pairs, message", [
    (["SOLVER.BASE_LT", "1"], "did you mean SOLVER.BASE_LR"),
    (["base_lr", "1"], "SOLVER.BASE_LR"),
    (["SOLVER", "1"], "unknown key 'SOLVER'"),
    (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER: expected int such as 24000, found 'many'"),
    (["SOLVER.MAX_ITER", "1.5"], "expected int"),
    (["MODEL.MASK_ON", "1"], "expected bool"),
    (["SOLVER.MAX_ITER", "0"], "1 or more"),
    (["MODEL.WEIGHTS", "x.pkl"], "--weights"),
    (["SEED", "3"], "--seed"),
    (["OUTPUT_DIR", "x"], "--output"),
    (["MODEL.DEVICE", "cpu"], "--device"),
    (["DATALOADER.NUM_WORKERS", "2"], "--workers"),
])
def test_a_wrong_override_names_the_way_out(pairs, message):
    with pytest.raises(ValueError) as error:
        VOC.override(pairs)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_yaml_names_the_known_ones():
    with pytest.raises(ValueError, match="pascal_voc_R_50_C4_24k_bt.yaml"):
        Config("pascal_voc_R_50_C4.yaml").resolved()


def test_the_protocol_is_imported_without_detectron2():
    code = "import sys, transfer.detection.protocol; assert not {'detectron2', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
