"""The ResNets of torchvision without their classifier, each with one of four stems. torch is imported where
it is needed: a command that only names the stems must start at once."""
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

STEMS = {"imagenet": 32, "cifar": 8, "small": 16, "solo": 8}  # -> by how much it shrinks an image
SIDES = {"imagenet": 224, "cifar": 32, "small": 64, "solo": 32}  # -> of the pictures it is made for, pixels


def models() -> tuple[str, ...]:
    """Return the names of torchvision's builders, such as resnet50."""
    import torchvision

    return tuple(name for name in torchvision.models.resnet.__all__ if name.islower())


def build_resnet(model: str, stem: str, **options: Any) -> "tuple[nn.Module, int]":
    """Return a network up to its average pooling and the number of its features: images (N, 3, H, W) float32,
    normalised -> (N, width). Freshly initialised from torch's global generator; fc is an Identity.

    stem: "imagenet" is torchvision's own, a 7 x 7 convolution of stride 2 and max pooling. "cifar" is a 3 x 3
        convolution of stride 1 without max pooling, "small" is that convolution with it (wgcban/mix-bt
        model.py, for 32 and 64 pixels). "solo" is "cifar" with a padding of 2, solo-learn's for CIFAR
        (solo/methods/base.py): its maps are 2 pixels larger.
    options: of torchvision's builder.
    """
    import torchvision
    from torch import nn

    network = torchvision.models.get_model(model, weights=None, **options)
    width, network.fc = network.fc.in_features, nn.Identity()
    if stem != "imagenet":
        network.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=2 if stem == "solo" else 1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision
    if stem in ("cifar", "solo"):
        network.maxpool = nn.Identity()
    return network, width
