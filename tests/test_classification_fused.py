"""Fused convolutions of the frozen network against the separate calls and against float64."""
import classification_toys as toys
import pytest
import torch
from torch import nn

from transfer.classification import features, fused

CPU = torch.device("cpu")


def images(number, size):
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (number, 3, size, size), dtype=torch.uint8, generator=draw)


def separate(monkeypatch, precision):
    """The frozen network as it is where the operators are missing."""
    with monkeypatch.context() as patch:
        patch.setattr(features, "can_fuse", lambda *_: False)
        return features.freeze(toys.backbone(), CPU, precision)


@pytest.mark.parametrize("precision, tolerance", [("float32", 1e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("pooling, size", [("average", 64), ("res5", 192)])
def test_fused_features_are_those_of_float64(monkeypatch, precision, tolerance, pooling, size):
    network = features.pooled(features.freeze(toys.backbone(), CPU, precision), pooling)
    exact = features.pooled(features.freeze(toys.backbone(), CPU, "float64"), pooling)
    found = features.features_of(network, images(2, size), CPU, precision)
    wanted = features.features_of(exact, images(2, size), CPU, "float64")
    assert found.dtype == torch.float32 and found.shape == wanted.shape
    error = (found - wanted).norm() / wanted.norm()
    apart = features.pooled(separate(monkeypatch, precision), pooling)
    without = features.features_of(apart, images(2, size), CPU, precision)
    assert error < tolerance and error < 1.5 * (without - wanted).norm() / wanted.norm()
    assert torch.equal(found, features.features_of(network, images(2, size), CPU, precision))


def test_everything_is_fused_and_no_tensor_changes(monkeypatch):
    """A network on a GPU is compared with one that is frozen on the CPU, so the names have to agree."""
    network, apart = features.freeze(toys.backbone(), CPU), separate(monkeypatch, "float32")
    kinds = [type(module) for module in network.modules()]
    assert kinds.count(fused.Convolution) == 53 and nn.Conv2d not in kinds and nn.ReLU not in kinds
    features.assert_frozen(apart, toys.backbone(), "float32")
    assert list(network.state_dict()) == list(apart.state_dict())


def test_only_a_cpu_and_only_its_types_are_fused():
    assert fused.can_fuse(CPU, torch.float32)
    assert not fused.can_fuse(CPU, torch.float64) and not fused.can_fuse(torch.device("cuda"), torch.float32)
