"""Detection configuration: every value of the protocol, presets, rescaling and KEY VALUE overrides."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import detection_toys as toys
import pytest
from detectron2.config import get_cfg

from parallel.mappings import differences
from transfer.detection import configuration
from transfer.detection.configuration import CONFIGS, build, flat
from transfer.detection.protocol import Config, data
from transfer.weights.architectures import ARCHITECTURES
from transfer.weights.backbone import Backbone

VOC = Config("pascal_voc_R_50_C4_24k_bt.yaml")
PAPER = VOC.resolved()

# docs/protocols.md#conversion (item 10) and docs/protocols.md#detection, tolerance none; sources there and in
# the YAML.
ALL = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN", "MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.BACKBONE.FREEZE_AT": 0, "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.PIXEL_MEAN": [123.675, 116.280, 103.530], "MODEL.PIXEL_STD": [58.395, 57.120, 57.375],
    "INPUT.FORMAT": "RGB", "INPUT.MIN_SIZE_TEST": 800, "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice", "INPUT.RANDOM_FLIP": "horizontal", "INPUT.CROP.ENABLED": False,
    "MODEL.RPN.LOSS_WEIGHT": 1.0, "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "SOLVER.IMS_PER_BATCH": 16, "SOLVER.REFERENCE_WORLD_SIZE": 0, "SOLVER.MOMENTUM": 0.9,
    "SOLVER.NESTEROV": False, "SOLVER.WEIGHT_DECAY": 1e-4, "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "SOLVER.BIAS_LR_FACTOR": 1.0, "SOLVER.GAMMA": 0.1, "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.WARMUP_METHOD": "linear", "SOLVER.AMP.ENABLED": False, "SOLVER.ACCUMULATE": 1,
    "SOLVER.TF32": False, "MODEL.CHANNELS_LAST": False,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False, "TEST.PRECISE_BN.ENABLED": True, "TEST.PRECISE_BN.NUM_ITER": 200,
    "TEST.EVAL_PERIOD": 0, "TEST.AUG.ENABLED": False,
}
C4 = ALL | {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"], "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12000, "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
}
STAGES, LEVELS = ["res2", "res3", "res4", "res5"], ["p2", "p3", "p4", "p5"]
FPN = ALL | {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone", "MODEL.RESNETS.OUT_FEATURES": STAGES,
    "MODEL.FPN.IN_FEATURES": STAGES, "MODEL.FPN.NORM": "SyncBN",
    "MODEL.RPN.IN_FEATURES": [*LEVELS, "p6"], "MODEL.ROI_HEADS.IN_FEATURES": LEVELS,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000, "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000, "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7, "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
}
VOC_SETS = {
    "DATASETS.TRAIN": ["voc_2007_trainval", "voc_2012_trainval"], "DATASETS.TEST": ["voc_2007_test"],
    "MODEL.ROI_HEADS.NUM_CLASSES": 20, "MODEL.MASK_ON": False,
    "SOLVER.STEPS": [18000, 22000], "SOLVER.MAX_ITER": 24000,
    "INPUT.MIN_SIZE_TRAIN": [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]}
COCO_SETS = {
    "DATASETS.TRAIN": ["coco_2017_train"], "DATASETS.TEST": ["coco_2017_val"],
    "MODEL.ROI_HEADS.NUM_CLASSES": 80, "MODEL.MASK_ON": True,
    "SOLVER.STEPS": [60000, 80000], "SOLVER.MAX_ITER": 90000,
    "INPUT.MIN_SIZE_TRAIN": [640, 672, 704, 736, 768, 800]}
TWICE = {"SOLVER.STEPS": [120000, 160000], "SOLVER.MAX_ITER": 180000}
VOC07 = {"DATASETS.TRAIN": ["voc_2007_trainval"], "SOLVER.STEPS": [9500], "SOLVER.MAX_ITER": 12500}
PIRL = {"MODEL.RESNETS.NORM": "FrozenBN", "MODEL.BACKBONE.FREEZE_AT": 2, "TEST.PRECISE_BN.ENABLED": False,
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeads", "SOLVER.STEPS": [17000], "SOLVER.MAX_ITER": 25000}


def rate(value, warmup, factor):
    return {"SOLVER.BASE_LR": value, "SOLVER.WARMUP_ITERS": warmup, "SOLVER.WARMUP_FACTOR": factor}


BT_VOC, MOCO_VOC = rate(0.1, 1000, 0.333), rate(0.02, 100, 0.001)
BT_COCO, MOCO_COCO = rate(0.03, 1000, 0.001), rate(0.02, 1000, 0.001)
GOLDEN = {
    "pascal_voc_R_50_C4_24k_bt": C4 | VOC_SETS | BT_VOC,
    "pascal_voc_R_50_C4_24k_swav": C4 | VOC_SETS | BT_VOC,
    "pascal_voc_R_50_C4_24k_vicreg": C4 | VOC_SETS | BT_VOC | {"MODEL.RPN.LOSS_WEIGHT": 0.2},
    "pascal_voc_R_50_C4_24k_moco": C4 | VOC_SETS | MOCO_VOC,
    "pascal_voc_R_50_C4_24k_random": C4 | VOC_SETS | MOCO_VOC,
    "pascal_voc_R_50_C4_24k_supervised": C4 | VOC_SETS | MOCO_VOC,
    "pascal_voc_R_50_C4_25k_pirl": C4 | VOC_SETS | rate(0.003, 1000, 0.333) | PIRL,
    "pascal_voc07_R_50_C4_12k5": C4 | VOC_SETS | MOCO_VOC | VOC07,
    "pascal_voc_R_50_FPN_24k_bt": FPN | VOC_SETS | BT_VOC,
    "coco_R_50_FPN_1x_vicreg": FPN | COCO_SETS | rate(0.04, 50, 0.001),
    "coco_R_50_C4_1x_bt": C4 | COCO_SETS | BT_COCO,
    "coco_R_50_C4_1x_moco": C4 | COCO_SETS | MOCO_COCO,
    "coco_R_50_C4_1x_random": C4 | COCO_SETS | MOCO_COCO,
    "coco_R_50_C4_1x_supervised": C4 | COCO_SETS | MOCO_COCO,
    "coco_R_50_C4_2x_bt": C4 | COCO_SETS | BT_COCO | TWICE,
    "coco_R_50_C4_2x_moco": C4 | COCO_SETS | MOCO_COCO | TWICE,
    "coco_R_50_C4_2x_random": C4 | COCO_SETS | MOCO_COCO | TWICE,
    "coco_R_50_C4_2x_supervised": C4 | COCO_SETS | MOCO_COCO | TWICE,
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_yaml_is_the_protocol(name):
    values = flat(build(f"{name}.yaml"))
    assert {key: values.get(key) for key in GOLDEN[name]} == GOLDEN[name]


def test_every_yaml_has_its_golden_values():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {*GOLDEN, "Base-RCNN-C4-BN", "Base-RCNN-FPN-BN"}


def test_a_preset_is_the_yaml_below_the_other_pairs_and_named():
    moco = VOC.override(["SOLVER.GAMMA", "0.5", "preset", "pascal_voc_R_50_C4_24k_moco.yaml",
                         "SOLVER.WARMUP_ITERS", "50"])
    changed = {key: value for key, value in moco.resolved().items() if value != PAPER[key]}
    assert changed == {"preset": "pascal_voc_R_50_C4_24k_moco.yaml", "SOLVER.BASE_LR": 0.02,
                       "SOLVER.WARMUP_ITERS": 50, "SOLVER.WARMUP_FACTOR": 0.001, "SOLVER.GAMMA": 0.5}


def test_rescale_is_the_linear_rule_from_eight_gpus():
    one = VOC.override(["TEST.EVAL_PERIOD", "8000"]).rescaled(2)
    changed = {key: value for key, value in one.resolved().items() if value != PAPER[key]}
    assert changed == {"SOLVER.IMS_PER_BATCH": 4, "SOLVER.BASE_LR": 0.025, "SOLVER.MAX_ITER": 96000,
                       "SOLVER.STEPS": [72000, 88000], "SOLVER.WARMUP_ITERS": 4000, "batch_norm_images": 4}
    assert build(one.yaml, one.options).TEST.EVAL_PERIOD == 32000
    assert VOC.rescaled(8) == VOC
    assert VOC.rescaled(3).resolved()["SOLVER.IMS_PER_BATCH"] == 6
    with pytest.raises(ValueError, match="for 8 GPUs, found SOLVER.IMS_PER_BATCH 4; use a multiple"):
        VOC.override(["SOLVER.IMS_PER_BATCH", "4"]).rescaled(2)


@pytest.mark.parametrize("gpus, pairs, message", [
    (3, [], "SOLVER.IMS_PER_BATCH 16 is the total over all GPUs, found 3 of them and SOLVER.ACCUMULATE 1"),
    (4, ["SOLVER.ACCUMULATE", "8"], "found 4 of them and SOLVER.ACCUMULATE 8; use numbers whose product"),
    (1, ["INPUT.FORMAT", "BGR"], "INPUT.FORMAT: expected RGB"),
])
def test_what_does_not_fit_machine_or_weights_is_refused_with_the_data(tmp_path, gpus, pairs, message):
    with pytest.raises(ValueError, match=message):
        data(VOC.override(pairs), toys.context(tmp_path, tmp_path, gpus=gpus))


def weights_of(arch):
    return Backbone("bt", "torchvision", {}, "0" * 64, "bt.pth", ARCHITECTURES[arch])


@pytest.mark.parametrize("arch, keys", {
    "resnet50": {}, "resnet101": {"DEPTH": [50, 101]}, "wide_resnet50_2": {"WIDTH_PER_GROUP": [64, 128]},
    "resnext101_32x8d": {"DEPTH": [50, 101], "NUM_GROUPS": [1, 32], "WIDTH_PER_GROUP": [64, 8]}}.items())
def test_the_weights_decide_the_network(arch, keys):
    fitted = VOC.fitted(weights_of(arch))
    changed = {f"MODEL.RESNETS.{key}": pair for key, pair in keys.items()}
    assert differences(PAPER, fitted.resolved()) == changed
    assert fitted.fitted(weights_of(arch)).resolved() == fitted.resolved()
    assert (fitted == VOC) == (arch == "resnet50")


@pytest.mark.parametrize("arch, preset, pairs, message", [
    ("resnet101", VOC.yaml, ["MODEL.RESNETS.DEPTH", "50"], "expected 101 .*resnet101.*found 50"),
    ("resnet50", VOC.yaml, ["MODEL.RESNETS.DEPTH", "101"], "expected 50 .*resnet50.*found 101"),
    ("resnet18", VOC.yaml, [], "resnet18 has no C4 detector"),
    ("resnet50-cifar", "pascal_voc_R_50_FPN_24k_bt.yaml", [], "resnet50-cifar has no form in Detectron2"),
    ("resnet50", VOC.yaml, ["INPUT.FORMAT", "BGR"], "INPUT.FORMAT: expected RGB"),
])
def test_networks_that_a_detector_cannot_have(arch, preset, pairs, message):
    with pytest.raises(ValueError, match=message) as caught:
        Config(preset).override(pairs).fitted(weights_of(arch))
    assert "\n" not in str(caught.value)


def test_an_fpn_takes_a_resnet18():
    values = Config("pascal_voc_R_50_FPN_24k_bt.yaml").fitted(weights_of("resnet18")).resolved()
    assert (values["MODEL.RESNETS.DEPTH"], values["MODEL.RESNETS.RES2_OUT_CHANNELS"]) == (18, 64)


def test_resolved_holds_what_may_change_the_number_as_json():
    values = VOC.resolved()
    assert json.loads(json.dumps(values)) == values
    owned = {"MODEL.WEIGHTS", "OUTPUT_DIR", "SEED", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS"}
    assert not {*owned, "TEST.EVAL_PERIOD", "SOLVER.CHECKPOINT_PERIOD"} & values.keys()
    assert {"DATALOADER.ASPECT_RATIO_GROUPING", "preset"} < values.keys()


def test_the_record_says_how_many_images_batch_norm_sees():
    assert PAPER["batch_norm_images"] == 16
    parts = VOC.override(["SOLVER.ACCUMULATE", "4"]).resolved()
    assert differences(PAPER, parts) == {"SOLVER.ACCUMULATE": [1, 4], "batch_norm_images": [16, 4]}
    for norm in ("FrozenBN", "BN", "GN"):  # no statistics, or those of one GPU's images
        alone = VOC.override(["MODEL.RESNETS.NORM", norm]).resolved()
        assert differences(PAPER, alone)["batch_norm_images"] == [16, None]


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
    changed = {name: new for name, new in config.resolved().items() if new != PAPER[name]}
    assert changed == {key: value}
    assert type(config.resolved()[key]) is type(value)


def test_the_last_override_of_a_key_counts():
    config = VOC.override(["SOLVER.MAX_ITER", "5"]).override(["SOLVER.MAX_ITER", "7", "SOLVER.GAMMA", "0.5"])
    assert config.resolved()["SOLVER.MAX_ITER"] == 7
    assert config.options == ("SOLVER.MAX_ITER", "7", "SOLVER.GAMMA", "0.5")


@pytest.mark.parametrize("pairs, message", [
    (["SOLVER.BASE_LT", "1"], "unknown key 'SOLVER.BASE_LT'; did you mean SOLVER.BASE_LR"),
    (["SOLVER.IMS_PER_BATC", "2"], "unknown key 'SOLVER.IMS_PER_BATC'; did you mean SOLVER.IMS_PER_BATCH?"),
    (["base_lr", "1"], "did you mean SOLVER.BASE_LR"),  # a later Detectron2 has SOLVER.BASE_LR_END, too
    (["presett", "x"], "did you mean preset?"),
    (["SOLVER", "1"], "unknown key 'SOLVER'; --show-config lists them"),
    (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER: expected int such as 24000, found 'many'"),
    (["SOLVER.MAX_ITER", "1.5"], "expected int"),
    (["MODEL.MASK_ON", "1"], "expected bool"),
    (["SOLVER.STEPS", "late"], "SOLVER.STEPS: expected tuple such as (18000, 22000), found 'late'"),
    (["DATASETS.TRAIN", "5"], "DATASETS.TRAIN: expected tuple"),
    (["MODEL.LOAD_PROPOSALS", "True"], "LOAD_PROPOSALS: expected False, found True; this suite does"),
    (["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"],
     "SAMPLER_TRAIN: expected TrainingSampler, found RepeatFactorTrainingSampler; this suite does not read"),
    (["TEST.AUG.ENABLED", "True"], "TEST.AUG.ENABLED: expected False"),
    (["TEST.PRECISE_BN.NUM_ITER", "0"], "TEST.PRECISE_BN.NUM_ITER: expected from 1"),
    (["SOLVER.MAX_ITER", "0"], "SOLVER.MAX_ITER: expected from 1"),
    (["SOLVER.ACCUMULATE", "0"], "SOLVER.ACCUMULATE: expected from 1"),
    (["SOLVER.REFERENCE_WORLD_SIZE", "8"], "--rescale"),
    (["preset", "pascal_voc_R_50_C4_24k_mocco.yaml"], "did you mean pascal_voc_R_50_C4_24k_moco.yaml"),
    (["preset", "Base-RCNN-C4-BN.yaml"], "unknown preset 'Base-RCNN-C4-BN.yaml'"),
    (["preset", ""], "unknown preset ''"),
    (["preset", "coco_R_50_C4_1x_moco.yaml"], "coco_R_50_C4_1x_moco.yaml is tested on coco_2017_val"),
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


def test_a_record_is_the_same_with_a_later_detectron2(monkeypatch):
    """Its keys stand in the record only where they change what 0.6 does."""
    def later():
        config = get_cfg()
        for key, value in configuration.LATER.items():
            *path, leaf = key.split(".")
            setattr(functools.reduce(getattr, path, config), leaf, value)
        return config

    monkeypatch.setattr(configuration, "get_cfg", later)
    assert VOC.resolved() == PAPER
    changed = VOC.override(["SOLVER.BASE_LR_END", "0.001"]).resolved()
    assert differences(PAPER, changed) == {"SOLVER.BASE_LR_END": [None, 0.001]}


def test_an_unknown_preset_lists_those_that_fit_the_task():
    with pytest.raises(ValueError) as error:
        VOC.override(["preset", "zzz"])
    c4 = ("bt", "moco", "random", "supervised", "swav", "vicreg")
    known = ["pascal_voc07_R_50_C4_12k5.yaml", "pascal_voc_R_50_C4_25k_pirl.yaml",
             "pascal_voc_R_50_FPN_24k_bt.yaml",
             *(f"pascal_voc_R_50_C4_24k_{name}.yaml" for name in c4)]
    assert str(error.value) == f"unknown preset 'zzz'; known are {', '.join(sorted(known))}"
    for name in known:  # and they do
        VOC.override(["preset", name])


def test_the_protocol_is_imported_without_detectron2():
    code = "import sys, transfer.detection.protocol; assert not {'detectron2', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
