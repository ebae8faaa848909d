"""The one thing every task starts from: a ResNet without its classifier, in torchvision's names."""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from transfer.weights.architectures import RESNET50, Architecture


@dataclass(frozen=True, eq=False)  # eq would compare tensors; backbones are the same when their sha256 is
class Backbone:
    """Weights of a ResNet and where they come from.

    name    short name for tables and result paths, by default the stem of the file name
    format  the reader that recognised the file, see READERS
    state   the tensors of arch.expected, torchvision names without fc; on the CPU, contiguous, finite float32
            (num_batches_tracked: int64)
    sha256  of the file, 64 hex digits (of the tensors for "random", which has no file)
    path    of the file as it was given
    arch    the network that they belong to
    classifier  weights (C, width) and biases (C,) of a linear layer that was trained beside it, where the
            file has one
    """
    name: str
    format: str
    state: dict[str, Tensor]
    sha256: str
    path: str
    arch: Architecture = RESNET50
    classifier: tuple[Tensor, Tensor] | None = None


def build(backbone: Backbone) -> nn.Module:
    """A new network in eval mode with copies of the weights; RuntimeError for a missing or further name."""
    with torch.device("meta"):  # no initialisation only to be overwritten: faster, draws no random number
        network = backbone.arch.network()
    network = network.to_empty(device="cpu")
    network.load_state_dict(backbone.state, strict=True)  # strict: so no tensor stays uninitialised
    return network.eval()
