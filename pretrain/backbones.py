"""What every method is built from: a ResNet without its classifier, and projectors."""
import copy
import functools
from collections.abc import Callable

from torch import nn

from parallel.resnets import build_resnet, models


def build_backbone(arch: str, stem: str) -> tuple[nn.Module, int]:
    """Return a torchvision ResNet that ends with its average pooling, and the number of its features."""
    if arch not in models():
        raise ValueError(f"--arch expected one of {', '.join(models())}, found {arch!r}")
    return build_resnet(arch, stem, zero_init_residual=True)


def without_fc(network: nn.Module) -> nn.Module:
    """Return a ResNet that shares all layers and the mode of this one, but for its fc."""
    bare = copy.copy(network)
    bare._modules = network._modules | {"fc": nn.Identity()}
    return bare


def build_projector(width: int, sizes: str, hidden_bias: bool = False, bias: bool = False) -> nn.Sequential:
    """Return linear layers with batch norm and ReLU after all but the last: (N, width) -> (N, last of sizes).

    sizes: "8192-8192-8192". hidden_bias, bias: whether the linear layers before the last, and the last one,
    have biases. Barlow Twins' have none (main.py:195-202 of facebookresearch/barlowtwins).
    """
    layers: list[nn.Module] = []
    *hidden, last = map(int, sizes.split("-"))
    for size in hidden:
        layers += [nn.Linear(width, size, bias=hidden_bias), nn.BatchNorm1d(size), nn.ReLU(inplace=True)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, last, bias=bias))


def build_plain_projector(width: int, sizes: str) -> nn.Sequential:
    """Return linear layers with biases, and ReLU after all but the last, without batch norm: (N, width) ->
    (N, last of sizes)."""
    layers = build_projector(width, sizes, hidden_bias=True, bias=True)
    return nn.Sequential(*(layer for layer in layers if not isinstance(layer, nn.BatchNorm1d)))


build_biased_projector = functools.partial(build_projector, hidden_bias=True)


def build_predictor(projector: str, hidden: str) -> nn.Module:
    """Return what turns the embeddings of a projector into others as wide. projector: its widths; hidden:
    those of the predictor's hidden layers, or "none": it changes nothing."""
    width = projector.split("-")[-1]
    return nn.Identity() if hidden == "none" else build_projector(int(width), f"{hidden}-{width}")


def build_second(arch: str, stem: str, projector: str,
                 build: Callable[[int, str], nn.Sequential]) -> nn.Module | None:
    """Return a ResNet and its projector for the second view alone; None for "shared"."""
    if arch == "shared":
        return None
    backbone, width = build_backbone(arch, stem)
    return nn.Sequential(backbone, build(width, projector))
