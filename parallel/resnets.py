"""The ResNets of torchvision without their classifier, each with one of three stems. torch is imported where
it is needed: a command that only names the stems must start at once."""
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

STEMS = {"imagenet": 32, "cifar": 8, "small": 16}  # -> by how much a network with it shrinks an image


def models() -> tuple[str, ...]:
    """Return the names of torchvision's builders, such as resnet50."""
    import torchvision

    return tuple(name for name in torchvision.models.resnet.__all__ if name.islower())


def build_resnet(model: str, stem: str, **options: Any) -> "tuple[nn.Module, int]":
    """Return a network up to its average pooling and the number of its features: images (N, 3, H, W) float32,
    normalised -> (N, width). Freshly initialised from torch's global generator; fc is an Identity.

    stem: "imagenet" is torchvision's own, a 7 x 7 convolution of stride 2 and max pooling. "cifar" is a 3 x 3
        convolution of stride 1 without max pooling, "small" is that convolution with it (solo-learn's
        solo/methods/base.py for 32 pixels, wgcban/mix-bt model.py for 64).
    options: of torchvision's builder.
    """
    import torchvision
    from torch import nn

    network = torchvision.models.get_model(model, weights=None, **options)
    width, network.fc = network.fc.in_features, nn.Identity()
    if stem != "imagenet":
        network.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision
    if stem == "cifar":
        network.maxpool = nn.Identity()
    return network, width
