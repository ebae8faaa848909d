"""For torch.hub: a ResNet backbone, with weights from a file of yours.

    import torch
    model = torch.hub.load("PATH OF THIS REPOSITORY", "resnet50", source="local", weights="resnet50.pth")
    features = model(images)  # (N, 3, H, W) float32, ImageNet's mean and deviation -> (N, 2048)

`backbone` takes the weights of any ResNet of torchvision (docs/weights.md), `resnet50` those of that one.
Nothing is downloaded: `weights` is a file, any that `transfer/run.py --weights` takes, such as resnet50.pth
or checkpoint.pth of this suite and of facebookresearch/barlowtwins.
"""
from transfer.weights import architectures as _architectures
from transfer.weights import backbone as _backbone
from transfer.weights import readers as _readers

dependencies = ["torch", "torchvision"]


def backbone(weights, format=None, stem=None, encoder=None):
    """The network of the weights without classifier, in eval mode; images (N, 3, H, W) -> features.

    weights: path of a checkpoint. format, stem, encoder: as the flags of transfer/run.py.
    FileNotFoundError or ValueError, one line, when the file is not there or does not hold all tensors.
    """
    return _backbone.build(_readers.read(weights, format, encoder=encoder, stem=stem))


def resnet50(weights=None, format=None, encoder=None):
    """torchvision's ResNet-50 without classifier, in eval mode; images (N, 3, H, W) -> features (N, 2048).

    weights: path of a checkpoint; None: torchvision's fresh initialisation, in train mode.
    format: its format, where more than one reader would fit. encoder: which, where it holds several.
    FileNotFoundError or ValueError, one line, when the file is not there or does not hold all 318 tensors.
    """
    if weights is None:
        return _architectures.RESNET50.network()
    found = _readers.read(weights, format, encoder=encoder)
    if found.arch != _architectures.RESNET50:
        raise ValueError(f"{weights}: expected a ResNet-50, found a {found.arch.name}; load `backbone`")
    return _backbone.build(found)
