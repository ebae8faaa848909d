"""Backbone and projector. Names and shapes of the state dict are those of the official checkpoints."""
import torchvision
from torch import nn

ARCHITECTURES = tuple(name for name in torchvision.models.resnet.__all__ if name.islower())


class BarlowTwins(nn.Module):
    """Images of two views -> their embeddings, for `losses.barlow_twins_loss`.

    `bn` has no parameters and is not called: the loss normalises by itself and keeps bn's running
    statistics, so that the state dict is the official one: backbone.*, projector.*, bn.*.
    """

    def __init__(self, arch="resnet50", projector="8192-8192-8192", stem="imagenet"):
        super().__init__()
        self.backbone, width = build_backbone(arch, stem)
        self.projector = build_projector(width, [int(size) for size in projector.split("-")])
        self.bn = nn.BatchNorm1d(self.projector[-1].out_features, affine=False)

    def forward(self, y1, y2):
        """y1, y2 (N, 3, H, W) float, normalised -> z1, z2 (N, D). One view after the other, so that each has
        its own batch statistics (main.py:208 of the official code)."""
        return self.projector(self.backbone(y1)), self.projector(self.backbone(y2))


def build_backbone(arch: str, stem: str) -> tuple[nn.Module, int]:
    """A torchvision ResNet that ends with its average pooling, and its number of features."""
    if arch not in ARCHITECTURES:
        raise ValueError(f"--arch expected one of {', '.join(ARCHITECTURES)}, found {arch!r}")
    backbone = torchvision.models.get_model(arch, weights=None, zero_init_residual=True)
    width, backbone.fc = backbone.fc.in_features, nn.Identity()
    if stem != "imagenet":  # as solo-learn's methods/base.py at 32 pixels, mix-bt's model.py at 64
        backbone.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision
    if stem == "cifar":
        backbone.maxpool = nn.Identity()
    return backbone, width


def build_projector(width: int, sizes: list[int]) -> nn.Sequential:
    """Linear layers without bias; batch norm and ReLU after all but the last (main.py:195-202)."""
    layers = []
    for size in sizes[:-1]:
        layers += [nn.Linear(width, size, bias=False), nn.BatchNorm1d(size), nn.ReLU(inplace=True)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, sizes[-1], bias=False))
