"""What every method is built from: a ResNet without its classifier, and projectors."""
import torchvision
from torch import nn

ARCHITECTURES = tuple(name for name in torchvision.models.resnet.__all__ if name.islower())


def build_backbone(arch: str, stem: str) -> tuple[nn.Module, int]:
    """Return a torchvision ResNet that ends with its average pooling, and the number of its features."""
    if arch not in ARCHITECTURES:
        raise ValueError(f"--arch expected one of {', '.join(ARCHITECTURES)}, found {arch!r}")
    backbone = torchvision.models.get_model(arch, weights=None, zero_init_residual=True)
    width, backbone.fc = backbone.fc.in_features, nn.Identity()
    if stem != "imagenet":  # like solo-learn's methods/base.py at 32 pixels, mix-bt's model.py at 64
        backbone.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision
    if stem == "cifar":
        backbone.maxpool = nn.Identity()
    return backbone, width


def build_projector(width: int, sizes: str, hidden_bias: bool = False, bias: bool = False) -> nn.Sequential:
    """Return linear layers with batch norm and ReLU after all but the last: (N, width) -> (N, last of sizes).

    sizes: "8192-8192-8192". hidden_bias, bias: whether the linear layers before the last, and the last one,
    have biases. Barlow Twins' have none (main.py:195-202 of facebookresearch/barlowtwins).
    """
    layers = []
    *hidden, last = map(int, sizes.split("-"))
    for size in hidden:
        layers += [nn.Linear(width, size, bias=hidden_bias), nn.BatchNorm1d(size), nn.ReLU(inplace=True)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, last, bias=bias))
