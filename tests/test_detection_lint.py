"""Each mistake of a configuration is refused with the line that repairs it; the presets pass."""
import re
from contextlib import nullcontext

import pytest
import yaml
from detectron2.config import get_cfg
from weights_toys import distinct_backbone

from transfer.detection import configuration
from transfer.detection.lint import lint
from transfer.weights.architectures import RESNET50
from transfer.weights.backbone import Backbone
from transfer.weights.export import CONVENTIONS, metadata

NOTES = metadata(distinct_backbone())
RANDOM = metadata(Backbone("random", "random", {}, "0" * 64, "random"))
VOC = "pascal_voc_R_50_C4_24k_bt.yaml"
PRESETS = sorted(path.name for path in configuration.CONFIGS.glob("*_R_50_*.yaml"))


def configured(preset, *pairs):
    config = configuration.build(preset)
    config.merge_from_list(list(pairs))
    return config


@pytest.mark.parametrize("notes", [NOTES, RANDOM, CONVENTIONS], ids=["weights", "random", "no weights yet"])
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_for_torchvision_weights_pass(preset, notes):
    config = configured(preset)
    frozen = config.MODEL.RESNETS.NORM == "FrozenBN" and notes is RANDOM
    with pytest.raises(ValueError, match="come without statistics") if frozen else nullcontext():
        lint(config, notes)


MISTAKES = {
    "channels": (["INPUT.FORMAT", "BGR"], 'expected RGB .*found .BGR.; write `FORMAT: "RGB"` under INPUT'),
    "mean": (["MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675]],
             r"found \[103.53, 116.28, .*; write `PIXEL_MEAN: \[123.675, 116.28, 103.53\]` under MODEL"),
    "deviation": (["MODEL.PIXEL_STD", [1.0, 1.0, 1.0]],
                  r"write `PIXEL_STD: \[58.395, 57.12, 57.375\]` under MODEL"),
    "stride": (["MODEL.RESNETS.STRIDE_IN_1X1", True], "`STRIDE_IN_1X1: false` under MODEL.RESNETS in"),
    "Detectron2's default freezing": (["MODEL.BACKBONE.FREEZE_AT", 2],
                                      "FREEZE_AT: expected 0 .*NORM is SyncBN, which is trained.* found 2;"
                                      " write `FREEZE_AT: 0` under MODEL.BACKBONE"),
    "no such stage": (["MODEL.RESNETS.NORM", "FrozenBN", "MODEL.BACKBONE.FREEZE_AT", 6],
                      "expected 0 or 1 or 2 or 3 or 4 or 5"),
    "no norm": (["MODEL.RESNETS.NORM", ""], "NORM: expected SyncBN or .*lose .*batch statistics.*, found ''"),
    "another norm": (["MODEL.RESNETS.NORM", "GN"], 'found .GN.; write `NORM: "SyncBN"` under MODEL.RESNETS'),
    "depth": (["MODEL.RESNETS.DEPTH", 101], "write `DEPTH: 50`"),
    "width": (["MODEL.RESNETS.WIDTH_PER_GROUP", 128], "write `WIDTH_PER_GROUP: 64`"),
    "groups": (["MODEL.RESNETS.NUM_GROUPS", 32], "write `NUM_GROUPS: 1`"),
    "stem": (["MODEL.RESNETS.STEM_OUT_CHANNELS", 32], "write `STEM_OUT_CHANNELS: 64`"),
    "res2": (["MODEL.RESNETS.RES2_OUT_CHANNELS", 512], "write `RES2_OUT_CHANNELS: 256`"),
    "dilation": (["MODEL.RESNETS.RES5_DILATION", 2], "write `RES5_DILATION: 1`"),
}


@pytest.mark.parametrize("pairs, message", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_refused_and_the_line_given_repairs_it(pairs, message):
    config = configured(VOC, *pairs)
    with pytest.raises(ValueError, match=message) as caught:
        lint(config, NOTES, RESNET50)
    text = str(caught.value)
    assert "\n" not in text
    line, place = re.search("write `(.*)` under ([A-Z._0-9]*)", text).groups()
    node = config
    for part in place.split("."):
        node = node[part]
    node.update(yaml.safe_load(line))
    lint(config, NOTES, RESNET50)


@pytest.mark.parametrize("norm, freeze_at", [("BN", 0), ("naiveSyncBN", 0), ("FrozenBN", 0), ("FrozenBN", 2)])
def test_legitimate_recipes_pass(norm, freeze_at):
    lint(configured(VOC, "MODEL.RESNETS.NORM", norm, "MODEL.BACKBONE.FREEZE_AT", freeze_at), NOTES)


def test_random_weights_have_no_statistics_to_freeze():
    config = configured(VOC, "MODEL.RESNETS.NORM", "FrozenBN")
    with pytest.raises(ValueError, match="NORM: expected SyncBN .*random weights come without statistics"):
        lint(config, RANDOM)


def test_detectron2_s_own_defaults_are_refused():
    with pytest.raises(ValueError, match="INPUT.FORMAT: expected RGB"):
        lint(get_cfg(), NOTES)


def test_what_the_metadata_says_counts():
    with pytest.raises(ValueError, match="INPUT.FORMAT: expected BGR"):
        lint(configured(VOC), NOTES | {"INPUT.FORMAT": "BGR"})
