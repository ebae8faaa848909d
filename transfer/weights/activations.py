"""Whether a detector computes with a backbone what torchvision does: res2 to res5 on a photograph in RGB.

How far two stages are apart is the largest absolute difference over the root mean square of torchvision's
activation. With red and blue swapped they must be far apart: so the comparison can tell the channels' order.
"""
import copy
from typing import Any

import torch
from torch import Tensor, nn

from parallel.pixels import MEAN, STD
from transfer.weights.backbone import Backbone, build

LIMIT = 1e-4                      # equal activations differ by less: float32 rounding makes about 1e-6
SWAPPED_LIMIT = 1e-2              # with swapped channels every stage differs by more
SIZES = ((224, 224), (192, 256))  # height, width of the photograph's crops
STAGES = {"res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}


def compare(backbone: Backbone, model: nn.Module) -> tuple[dict[str, float], dict[str, float]]:
    """Stage -> largest relative difference over all sizes, and stage -> difference with swapped channels.

    model  Detectron2's GeneralizedRCNN, C4 or FPN, in any mode and on any device; it is left as it was
    ValueError for the first stage that is further apart than LIMIT, or swapped nearer than SWAPPED_LIMIT.
    """
    network = build(backbone)
    trunk: Any = getattr(model.backbone, "bottom_up", model.backbone)  # of an FPN, of a C4
    head: Any = trunk.res5 if hasattr(trunk, "res5") else model.roi_heads.res5  # type: ignore[union-attr]
    # Copies on the CPU: a GPU may round its convolutions to TF32, and the model's mode must not change.
    trunk, head = copy.deepcopy(trunk).cpu().eval(), copy.deepcopy(head).cpu().eval()
    largest = dict.fromkeys(STAGES, 0.0)
    for size in SIZES:
        photograph = _photograph(*size)
        wanted = _torchvision_stages(network, photograph)
        found = _detectron2_stages(model, trunk, head, photograph)
        for stage, difference in _differences(found, wanted).items():
            if not difference <= LIMIT:  # so written, NaN fails too
                hint = "INPUT.FORMAT, PIXEL_MEAN and PIXEL_STD" if stage == "res2" else "STRIDE_IN_1X1"
                raise ValueError(f"{stage} differs from torchvision's {STAGES[stage]} by {difference:.1e} at"
                                 f" {size[0]} x {size[1]}, expected at most {LIMIT:.0e}; check {hint}")
            largest[stage] = max(largest[stage], difference)
    swapped = _differences(_detectron2_stages(model, trunk, head, photograph.flip(0)), wanted)
    for stage, difference in swapped.items():
        if not difference >= SWAPPED_LIMIT:
            raise ValueError(f"{stage} changes by only {difference:.1e} with red and blue swapped, expected"
                             f" at least {SWAPPED_LIMIT:.0e}; weights that hardly see colour cannot prove the"
                             " order of the channels")
    return largest, swapped


def _photograph(height: int, width: int) -> Tensor:
    """The middle of scikit-learn's flower.jpg: (3, height, width) float32, 0-255, RGB, at most 427 x 640."""
    from sklearn.datasets import load_sample_image
    picture = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1).float()
    top, left = (picture.shape[1] - height) // 2, (picture.shape[2] - width) // 2
    return picture[:, top:top + height, left:left + width].contiguous()


@torch.no_grad()
def _torchvision_stages(network: Any, photograph: Tensor) -> dict[str, Tensor]:
    """Outputs of layer1 to layer4 under the stages' names; torchvision's own normalisation of 0-1 pixels."""
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    x = ((photograph / 255 - mean) / deviation).unsqueeze(0)
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    outputs = {}
    for stage, layer in STAGES.items():
        outputs[stage] = x = getattr(network, layer)(x)
    return outputs


@torch.no_grad()
def _detectron2_stages(model: Any, trunk: Any, head: nn.Module, photograph: Tensor) -> dict[str, Tensor]:
    """The same stages of the detector, given the photograph as its data loader would, in its INPUT.FORMAT."""
    if model.input_format not in ("RGB", "BGR"):
        raise ValueError(f"expected INPUT.FORMAT RGB, found {model.input_format}; set it to RGB")
    image = photograph if model.input_format == "RGB" else photograph.flip(0)
    x = trunk.stem(model.preprocess_image([{"image": image}]).tensor.cpu())
    outputs = {}
    for stage in ("res2", "res3", "res4"):
        outputs[stage] = x = getattr(trunk, stage)(x)
    for name, block in head.named_children():
        if name.isdigit():  # an extra norm after the blocks is no part of the backbone
            x = block(x)
    return {**outputs, "res5": x}


def _differences(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    """Stage -> largest absolute difference / root mean square of wanted; infinite when the shapes differ."""
    result = {}
    for stage, target in wanted.items():
        if found[stage].shape != target.shape:
            result[stage] = float("inf")
        else:
            scale = float(target.square().mean().sqrt())
            result[stage] = float((found[stage] - target).abs().max()) / (scale or 1.0)
    return result
