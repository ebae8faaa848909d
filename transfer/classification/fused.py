"""The frozen ResNet-50 on a CPU: each convolution with its ReLU and residual sum in one call of oneDNN.

The operators are those that torch.compile uses on a CPU (torch/_inductor/fx_passes/mkldnn_fusion.py), called
without compiling anything. Saved is the reading and writing of each activation for its ReLU and its sum: 12
percent of the time of 64 images of 224 px in float32 (process time, one thread, AVX-512). The bias
is then added in another order: in float32 the features move by about 1e-7 relative and are as far from those
of float64 as before, and the same input gives the same bits.
"""
import torch
from torch import nn

ONEDNN = torch.ops.mkldnn  # oneDNN's former name


def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether these operators are there: on a CPU for float32 and, where it computes in it, for bfloat16."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and ONEDNN._is_mkldnn_bf16_supported())


class Convolution(nn.Module):
    """convolution(x), then ReLU if so told. Given a residual, ReLU(residual + convolution(x)), written into
    the residual, whose former values are lost."""

    def __init__(self, convolution: nn.Conv2d, relu: bool):
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.settings = (convolution.padding, convolution.stride, convolution.dilation, convolution.groups)
        self.after = "relu" if relu else "none"

    def forward(self, x, residual=None):
        given = (x, self.weight, self.bias, *self.settings)
        if residual is None:
            return ONEDNN._convolution_pointwise(*given, self.after, [], "")
        return ONEDNN._convolution_pointwise_(residual, *given, "add", 1.0, self.after, [], "")


class Block(nn.Module):
    """A torchvision Bottleneck without batch norms. May overwrite its input."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (Convolution(convolution, relu=True)
                                              for convolution in (block.conv1, block.conv2, block.conv3))
        self.downsample = block.downsample
        if self.downsample is not None:
            self.downsample[0] = Convolution(self.downsample[0], relu=False)

    def forward(self, x):
        residual = x if self.downsample is None else self.downsample(x)
        return self.conv3(self.conv2(self.conv1(x)), residual)


def fuse(network: nn.Module) -> None:
    """Change a ResNet-50 with folded batch norms in place; its tensors keep their names and values."""
    network.conv1, network.relu = Convolution(network.conv1, relu=True), nn.Identity()
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        for name, block in layer.named_children():
            setattr(layer, name, Block(block))
