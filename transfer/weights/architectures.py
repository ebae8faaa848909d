"""Every ResNet of torchvision, each with four stems: one record an architecture.

    ARCHITECTURES["resnet50"], ARCHITECTURES["resnet18-cifar"], ARCHITECTURES["wide_resnet50_2-small"]

The stem "imagenet" is torchvision's own and adds nothing to the name. "cifar", "small" and
"solo" have the same tensors (parallel/resnets.py), so which of them a network has must be said.
"""
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from parallel.resnets import STEMS, build_resnet, models


@dataclass(frozen=True)
class Architecture:
    """A ResNet without its classifier.

    model  torchvision's builder, such as "resnext50_32x4d"
    stem   a key of STEMS
    """
    model: str
    stem: str = "imagenet"

    @property
    def name(self) -> str:
        """As records and ARCHITECTURES have it."""
        return self.model if self.stem == "imagenet" else f"{self.model}-{self.stem}"

    def network(self) -> nn.Module:
        """The network up to its features, freshly initialised; see `build_resnet`."""
        return build_resnet(self.model, self.stem)[0]

    @cached_property
    def expected(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of each tensor, in the network's order. Shared: do not modify."""
        shapes = {name: tuple(tensor.shape) for name, tensor in _outline(self.model).state_dict().items()
                  if not name.startswith("fc.")}
        return shapes if self.stem == "imagenet" else {**shapes, "conv1.weight": (64, 3, 3, 3)}

    @property
    def width(self) -> int:
        """Number of features: channels of layer4."""
        return _outline(self.model).fc.in_features

    @property
    def stride(self) -> int:
        """Pixels of an image for one of layer4, in each direction."""
        return STEMS[self.stem]

    def side(self, pixels: int) -> int:
        """Of layer4's maps of an image with sides of so many pixels."""
        return -(-(pixels + 2 * (self.stem == "solo")) // self.stride)

    @property
    def stems(self) -> list[str]:
        """The stems with which this model has the same tensors as with its own."""
        return ["imagenet"] if self.stem == "imagenet" else ["cifar", "small", "solo"]

    @property
    def basic(self) -> bool:
        """Whether its blocks have two convolutions (ResNet-18 and 34); the others have three."""
        return isinstance(_outline(self.model).layer1[0], BasicBlock)

    @property
    def detectron2(self) -> dict[str, int]:
        """The keys of Detectron2's configuration that make this network; see `require_detector`."""
        network = _outline(self.model)
        blocks = sum(len(getattr(network, f"layer{stage}")) for stage in (1, 2, 3, 4))
        return {"MODEL.RESNETS.DEPTH": (2 if self.basic else 3) * blocks + 2,
                "MODEL.RESNETS.NUM_GROUPS": network.groups,
                "MODEL.RESNETS.WIDTH_PER_GROUP": network.base_width, "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
                "MODEL.RESNETS.RES2_OUT_CHANNELS": self.width // 8, "MODEL.RESNETS.RES5_DILATION": 1}

    def require_detector(self, kind: str | None = None) -> None:
        """ValueError unless Detectron2 has this network as the backbone of a detector of that kind: C4, FPN,
        or None for any."""
        if self.stem != "imagenet":
            raise ValueError(f"{self.name} has no form in Detectron2: expected a stem of 7 x 7, found 3 x 3;"
                             " give weights with the ImageNet stem")
        if self.basic and kind == "C4":
            raise ValueError(f"{self.name} has no C4 detector: expected blocks of three convolutions, as"
                             " Detectron2's head has them, found two; take an FPN, as in --task voc_det_fpn")


@cache
def _outline(model: str) -> Any:
    """The network without values, on the meta device."""
    with torch.device("meta"):
        return torchvision.models.get_model(model, weights=None)


ARCHITECTURES = {one.name: one for one in (Architecture(model, stem) for stem in STEMS for model in models())}
RESNET50 = ARCHITECTURES["resnet50"]  # of the papers
ALL_NAMES = ARCHITECTURES["resnet152"].expected.keys()  # every name that any of them has


def nearest(state: Mapping[str, Tensor]) -> Architecture:
    """The architecture that has most of these tensors in their shapes and, of several, the fewest others. Of
    two stems with the same tensors it is cifar."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for arch in ARCHITECTURES.values():
        if arch.expected == shapes:  # soon found; the likeness to all takes a second
            return arch

    def likeness(arch: Architecture) -> tuple[int, int]:
        fitting = sum(arch.expected.get(name) == shape for name, shape in shapes.items())
        return fitting, -len(arch.expected) - sum(name not in arch.expected for name in shapes)

    return max(ARCHITECTURES.values(), key=likeness)
