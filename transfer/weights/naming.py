"""torchvision's names of a ResNet <-> Detectron2's, one to one (docs/protocols.md#conversion).

    conv1, bn1                       stem.conv1, stem.conv1.norm
    layer1 .. layer4                 res2 .. res5
    conv1, conv2, conv3 of a block   the same
    bn1, bn2, bn3 of a block         conv1.norm, conv2.norm, conv3.norm
    downsample.0, downsample.1       shortcut, shortcut.norm
"""
from functools import cache

from transfer.weights.architectures import ALL_NAMES

PARTS = {"layer1": "res2", "layer2": "res3", "layer3": "res4", "layer4": "res5",
         "bn1": "conv1.norm", "bn2": "conv2.norm", "bn3": "conv3.norm",
         "downsample.0": "shortcut", "downsample.1": "shortcut.norm"}


@cache
def detectron2_names() -> dict[str, str]:
    """The whole map, torchvision name -> Detectron2 name, for every architecture. Shared: do not modify."""
    return {name: _detectron2_name(name) for name in ALL_NAMES}


def _detectron2_name(name: str) -> str:
    if not name.startswith("layer"):
        name = f"stem.{name}"
    for torchvision_part, detectron2_part in PARTS.items():
        name = name.replace(f"{torchvision_part}.", f"{detectron2_part}.")
    return name


def to_detectron2(state: dict) -> dict:
    """The state under Detectron2's names; ValueError for a name that no ResNet of torchvision has."""
    return _renamed(state, detectron2_names(), "torchvision")


def to_torchvision(model: dict) -> dict:
    """The exact inverse; ValueError for a name that is not Detectron2's."""
    return _renamed(model, {new: old for old, new in detectron2_names().items()}, "Detectron2")


def _renamed(state: dict, names: dict[str, str], convention: str) -> dict:
    if foreign := [name for name in state if name not in names]:
        raise ValueError(f"expected {convention}'s names of a ResNet, found {len(foreign)} others, first"
                         f" {foreign[0]}")
    return {names[name]: value for name, value in state.items()}
