"""The frozen backbone, fast and exact, and the features it gives to a set of images.

Folding batch normalisation into the convolutions, channels_last and inference mode move the features by 4e-7
relative; benchmarks/frozen.py says how much faster they are.
"""
from dataclasses import dataclass

import torch
from torch import nn

from parallel.process import bar
from transfer.classification.images import (
    Images,
    OrderedBatches,
    batches_of,
    loader,
    normalised,
    require_known,
)
from transfer.settings import Context
from transfer.weights.architectures import Architecture
from transfer.weights.backbone import Backbone, build

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
POOLINGS = ("average", "res5")
BATCH_SIZE = 128   # images in one forward pass of an extraction; no part of any protocol
CHECK = "frozen backbone changed during the run"


def dtype_of(precision: str) -> torch.dtype:
    """ValueError that names the choices. bfloat16 moves features by 4e-3, so it is never a paper row."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, found {precision!r}")
    return PRECISIONS[precision]


@dataclass(frozen=True)
class Pipeline:
    """Everything between an image file and its frozen features; see the fields of the same names in the
    protocols' configs. pooling "average": over all of res5; "res5": 6 x 6 windows, stride 1, in channel
    order, 8192 values of a ResNet-50 at 224 px (VISSL eval_resnet_8gpu_transfer_voc07_svm.yaml, mmselfsup
    MultiPooling).
    """
    image_size: int = 224
    resize: str = "crop"
    pooling: str = "average"
    precision: str = "float32"
    normalisation: str = "imagenet"

    def check(self) -> None:
        """ValueError that names the field, what it may be and what was found."""
        dtype_of(self.precision)
        require_known(resize=self.resize, normalisation=self.normalisation)
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}, found {self.pooling!r}")
        if self.pooling == "res5" and self.image_size < 161:
            raise ValueError(f"image_size: expected 161 or more for pooling res5, whose windows are 6 wide, "
                             f"found {self.image_size}")

    def dimensions(self, arch: Architecture) -> int:
        """Values of an image's features."""
        windows = 1 if self.pooling == "average" else (arch.side(self.image_size) - 5) ** 2
        return arch.width * windows


def freeze(backbone: Backbone, device: torch.device, precision: str = "float32") -> nn.Module:
    """Eval-mode network, folded, channels_last: images (n, 3, S, S) -> features (n, width), in that dtype."""
    network = build(backbone).requires_grad_(False).double()
    fold_batch_norm(network)
    return network.to(dtype_of(precision)).to(device).to(memory_format=torch.channels_last).eval()


def fold_batch_norm(network: nn.Module) -> None:
    """Replace each convolution + batch norm (eval mode) by one convolution, in place, in the network's dtype.

    A batch norm belongs to the convolution registered just before it, which holds for torchvision's ResNets.
    """
    for parent in list(network.modules()):
        children = list(parent.named_children())
        for (name, convolution), (norm_name, norm) in zip(children, children[1:]):
            if isinstance(norm, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d):
                setattr(parent, name, nn.utils.fuse_conv_bn_eval(convolution, norm))
                setattr(parent, norm_name, nn.Identity())


def assert_frozen(network: nn.Module, backbone: Backbone, precision: str) -> None:
    """RuntimeError unless the network equals, bit by bit, what the backbone's weights and statistics give."""
    fresh = freeze(backbone, torch.device("cpu"), precision).state_dict()
    for name, tensor in network.state_dict().items():
        if not torch.equal(tensor.cpu(), fresh[name]):
            raise RuntimeError(f"{CHECK}: {name} is not what was loaded; report this as a bug of the suite")


def features_of(network: nn.Module, images: torch.Tensor, device: torch.device, precision: str,
                normalisation: str = "imagenet") -> torch.Tensor:
    """images (n, 3, S, S) uint8 -> (n, width), float64 for that precision, else float32."""
    with torch.inference_mode():
        features = network(normalised(images, device, dtype_of(precision), normalisation))
        return features.to(torch.float64 if precision == "float64" else torch.float32)


def pooled(network: nn.Module, pooling: str) -> nn.Module:
    """The network with the pooling of a Pipeline, changed in place; "average" is what it comes with."""
    if pooling == "res5":
        network.avgpool = nn.AvgPool2d(6, 1)
    return network


def extract(network: nn.Module, images: Images, context: Context, device: torch.device, pipeline: Pipeline,
            text: str, dimensions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """This rank's contiguous part of a set: features (n, dimensions) and labels (n, ...) on the CPU.

    Written by sample index, so nothing is counted twice when the set does not divide by ranks or batches;
    the parts of all ranks, in order, are the set.
    """
    batches = OrderedBatches(len(images), BATCH_SIZE)
    own = batches.own
    dtype = torch.float64 if pipeline.precision == "float64" else torch.float32
    features = torch.full((len(own), dimensions), float("nan"), dtype=dtype)
    for pictures, _, indices in bar(batches_of(loader(images, batches, context)), text, len(batches)):
        features[indices - own.start] = features_of(network, pictures, device, pipeline.precision,
                                                    pipeline.normalisation).cpu()
    # In slices: isfinite makes a copy, and the training features of ImageNet are 10.5 GB.
    if not all(torch.isfinite(rows).all() for rows in features.split(4096)):
        raise ValueError(f"{images.samples.source}: features are not finite; the weights are damaged")
    return features, torch.from_numpy(images.samples.labels[own.start:own.stop])
