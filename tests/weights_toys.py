"""ResNet states, and files of them, for the tests of the weights wing."""
import dataclasses
import io
from functools import cache

import torch

from transfer.weights.architectures import ARCHITECTURES
from transfer.weights.backbone import Backbone


def small_state(first=0.5, arch="resnet50") -> dict:
    """The names and shapes of a network, each tensor one repeated value: a file of it has kilobytes."""
    expected = ARCHITECTURES[arch].expected
    values = {name: index if name.endswith("num_batches_tracked") else first + index / 1000
              for index, name in enumerate(expected)}
    return {name: torch.tensor(values[name]).expand(shape) for name, shape in expected.items()}


def prefixed(prefix, state) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


@cache
def distinct_backbone(arch="resnet50") -> Backbone:
    """Random weights where every tensor matters, BN statistics included, no two alike. Do not modify."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for index, (name, shape) in enumerate(ARCHITECTURES[arch].expected.items()):
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1000 + index)
        elif len(shape) == 4:  # He initialisation
            scale = (2 / (shape[0] * shape[2] * shape[3])) ** 0.5
            state[name] = torch.randn(shape, generator=generator) * scale
        elif name.endswith("running_var") or name.endswith("weight"):
            state[name] = 0.5 + torch.rand(shape, generator=generator)
        else:
            state[name] = torch.randn(shape, generator=generator) * 0.1
    return Backbone("distinct", "torchvision", state, "0" * 64, "distinct.pth", ARCHITECTURES[arch])


def with_state(backbone: Backbone, change) -> Backbone:
    """The backbone after change(state) on a copy of its dictionary."""
    state = dict(backbone.state)
    change(state)
    return dataclasses.replace(backbone, state=state)


def zipped(content):
    """The bytes of a torch file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def legacy(content):
    """The bytes of a torch file as torch wrote them before 1.6."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()
