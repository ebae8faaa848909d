"""torchvision's names <-> Detectron2's (docs/protocols.md#conversion)."""
import pytest

from transfer.weights.architectures import ARCHITECTURES
from transfer.weights.naming import detectron2_names, to_detectron2, to_torchvision

GOLDEN = {
    "conv1.weight": "stem.conv1.weight",
    "bn1.weight": "stem.conv1.norm.weight",
    "bn1.num_batches_tracked": "stem.conv1.norm.num_batches_tracked",
    "layer1.0.conv1.weight": "res2.0.conv1.weight",
    "layer1.0.bn1.running_mean": "res2.0.conv1.norm.running_mean",
    "layer1.0.downsample.0.weight": "res2.0.shortcut.weight",
    "layer1.0.downsample.1.bias": "res2.0.shortcut.norm.bias",
    "layer2.3.conv2.weight": "res3.3.conv2.weight",
    "layer3.5.bn2.running_var": "res4.5.conv2.norm.running_var",
    "layer4.2.bn3.weight": "res5.2.conv3.norm.weight",
}


@pytest.mark.parametrize("torchvision_name, detectron2_name", GOLDEN.items(), ids=GOLDEN)
def test_golden_names(torchvision_name, detectron2_name):
    assert detectron2_names()[torchvision_name] == detectron2_name


def described():
    """The same rules a second time, from the network's structure instead of by replacement."""
    rules = {}
    tensors = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    rules["conv1.weight"] = "stem.conv1.weight"
    rules |= {f"bn1.{tensor}": f"stem.conv1.norm.{tensor}" for tensor in tensors}
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            old, new = f"layer{stage}.{block}", f"res{stage + 1}.{block}"
            for k in (1, 2, 3):
                rules[f"{old}.conv{k}.weight"] = f"{new}.conv{k}.weight"
                rules |= {f"{old}.bn{k}.{tensor}": f"{new}.conv{k}.norm.{tensor}" for tensor in tensors}
            if block == 0:
                rules[f"{old}.downsample.0.weight"] = f"{new}.shortcut.weight"
                rules |= {f"{old}.downsample.1.{tensor}": f"{new}.shortcut.norm.{tensor}"
                          for tensor in tensors}
    return rules


def test_the_map_of_a_resnet50_is_what_the_rules_say():
    names = ARCHITECTURES["resnet50"].expected
    assert {name: detectron2_names()[name] for name in names} == described()
    assert len(set(described().values())) == 318


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_there_and_back_is_the_identity_and_keeps_the_objects(arch):
    state = {name: object() for name in ARCHITECTURES[arch].expected}
    assert to_torchvision(to_detectron2(state)) == state


def test_other_names_are_refused():
    state = dict.fromkeys(ARCHITECTURES["resnet50"].expected, 0) | {"fc.weight": 0, "fc.bias": 0}
    with pytest.raises(ValueError, match="torchvision's names .* 2 others, first fc.weight"):
        to_detectron2(state)
