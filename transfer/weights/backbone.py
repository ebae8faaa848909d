"""The one thing every task starts from: a ResNet-50 without its classifier, in torchvision's names.

53 convolutions and 53 batch norms of five tensors each make 318 tensors (docs/protocols.md#conversion).
"""
from dataclasses import dataclass
from functools import cache

import torch
import torchvision
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)  # eq would compare tensors; backbones are the same when their sha256 is
class Backbone:
    """Weights of a ResNet-50 and where they come from.

    name    short name for tables and result paths, by default the stem of the file name
    format  the reader that recognised the file, see READERS
    state   318 tensors, torchvision names without fc; on the CPU, contiguous, finite float32
            (num_batches_tracked: int64)
    sha256  of the file, 64 hex digits (of the tensors for "random", which has no file)
    path    of the file as it was given
    """
    name: str
    format: str
    state: dict[str, Tensor]
    sha256: str
    path: str


def resnet50() -> nn.Module:
    """torchvision's ResNet-50 up to its features: images (N, 3, H, W) float32, normalised -> (N, 2048).

    Freshly initialised from torch's global generator; fc is an Identity, so there is no classifier tensor.
    """
    network = torchvision.models.resnet50()
    network.fc = nn.Identity()
    return network


def build(backbone: Backbone) -> nn.Module:
    """A new network in eval mode with copies of the weights; RuntimeError for a missing or further name."""
    with torch.device("meta"):  # no initialisation only to be overwritten: faster, draws no random number
        network = resnet50()
    network = network.to_empty(device="cpu")
    network.load_state_dict(backbone.state, strict=True)  # strict: so no tensor stays uninitialised
    return network.eval()


@cache
def expected() -> dict[str, tuple[int, ...]]:
    """The 318 names -> shapes of the backbone, in the network's order. Shared: do not modify."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in resnet50().state_dict().items()}
