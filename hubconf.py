"""For torch.hub: the ResNet-50 backbone, with weights from a file of yours.

    import torch
    model = torch.hub.load("PATH OF THIS REPOSITORY", "resnet50", source="local", weights="resnet50.pth")
    features = model(images)  # (N, 3, H, W) float32, ImageNet's mean and deviation -> (N, 2048)

Nothing is downloaded: `weights` is a file, any that `transfer/run.py --weights` takes, such as resnet50.pth
or checkpoint.pth of this suite and of facebookresearch/barlowtwins.
"""
from transfer.weights import backbone as _backbone
from transfer.weights import readers as _readers

dependencies = ["torch", "torchvision"]


def resnet50(weights=None, format=None):
    """torchvision's ResNet-50 without classifier, in eval mode; images (N, 3, H, W) -> features (N, 2048).

    weights: path of a checkpoint; None: torchvision's fresh initialisation, in train mode.
    format: its format, where more than one reader would fit.
    FileNotFoundError or ValueError, one line, when the file is not there or does not hold all 318 tensors.
    """
    if weights is None:
        return _backbone.resnet50()
    return _backbone.build(_readers.read(weights, format))
