"""The files that weights are written to: a layout (names of the tensors) and an ending. How each is loaded:

detectron2   .pkl, .pth: MODEL.WEIGHTS as they are. Both hold matching_heuristics, by which Detectron2 takes
             for each name of its network the longest name of the file that is its dotted ending (v0.6,
             detectron2/checkpoint/detection_checkpoint.py:93-103, c2_model_loading.py:208-250). So one file
             serves C4 (`res5.*` reaches `roi_heads.res5.*`) and FPN (`backbone.bottom_up.res5.*`).
             `__author__` keeps Detectron2 from renaming a `.pkl` as if it were Caffe2's (lines 71-84).
             .safetensors: Detectron2 cannot load it, taking it for a PyTorch file. This suite reads it
             (readers.py, so convert.py turns it into a `.pkl`); or give safetensors.torch.load_file(path) to
             Detectron2's align_and_update_state_dicts, as proof.py does.
torchvision  .pth, .safetensors: network.load_state_dict(...) of what torch.load or safetensors.torch's
             load_file gives; the network is torchvision's, its fc an Identity (architectures.py).
timm         .pth, .safetensors: timm.create_model("resnet50", num_classes=0, checkpoint_path=path). timm's
             names are torchvision's and without classes its fc is an Identity (huggingface/
             pytorch-image-models timm/models/resnet.py); timm/models/_helpers.py reads both endings. It has
             each architecture under torchvision's name, and none of the 3 x 3 stems.
projector    .pth, .safetensors: load_state_dict of the official projector, an nn.Sequential, and of ours.

The metadata is in Detectron2's files and, as one JSON text, in the `__metadata__` of safetensors. A plain
state dict in `.pth` has no room for it; there, as for all files, the report beside it (report.py) has it.
"""
import copyreg
import json
import pickle
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from parallel.files import replacing
from parallel.pixels import MEAN, STD
from transfer.weights.architectures import RESNET50
from transfer.weights.backbone import Backbone
from transfer.weights.files import load
from transfer.weights.naming import to_detectron2

AUTHOR = "barlow-transfer"  # anything but Caffe2
VERSION = 2                 # of the converter; a change that a reader of its files could notice makes it 3

# What torchvision weights need in Detectron2 (docs/protocols.md#conversion), under its configuration's names.
# Detectron2's own defaults are BGR, std 1 and stride in the 1 x 1: wrong for these weights, without an error.
CONVENTIONS = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [round(255 * value, 3) for value in MEAN],
    "MODEL.PIXEL_STD": [round(255 * value, 3) for value in STD],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,           # torchvision strides in the 3 x 3 convolution
}
ENDINGS = {
    "detectron2": (".pkl", ".pth", ".safetensors"),
    "torchvision": (".pth", ".safetensors"),
    "timm": (".pth", ".safetensors"),
    "projector": (".pth", ".safetensors"),
}


def metadata(backbone: Backbone) -> dict:
    """Where the weights come from and what they need; plain values only. Where one of several encoders was
    chosen, it is named, and source_sha256 is that of "<sha256 of the file>:<encoder>" (Backbone.sha256). What
    is no ResNet-50, Detectron2's default, is named with the keys of Detectron2 that make it."""
    reader, _, encoder = backbone.format.partition(":")
    network = {} if backbone.arch == RESNET50 else {"arch": backbone.arch.name, **backbone.arch.detectron2}
    return {"name": backbone.name, "source_sha256": backbone.sha256, "reader": reader,
            **({"encoder": encoder} if encoder else {}), "converter_version": VERSION, **CONVENTIONS,
            **network}


def tensors_of(backbone: Backbone, layout: str) -> dict[str, Tensor]:
    """The tensors under a layout's names; ValueError for a network that the layout is not made for."""
    if layout == "detectron2":
        backbone.arch.require_detector()
    if layout == "timm" and backbone.arch.stem != "imagenet":
        raise ValueError(f"{backbone.arch.name} has no form in timm, whose stem is of 7 x 7, found 3 x 3;"
                         " convert it --to torchvision")
    return to_detectron2(backbone.state) if layout == "detectron2" else backbone.state


def require_ending(path: Path, layout: str) -> None:
    """ValueError unless the layout has files of that ending."""
    if path.suffix not in ENDINGS[layout]:
        raise ValueError(f"{path}: expected a name ending in {', '.join(ENDINGS[layout])} for {layout},"
                         f" found {path.suffix or 'no ending'}; name the output so")


def write(tensors: dict[str, Tensor], notes: dict, path: str | Path, layout: str) -> None:
    """Write the file, whole or not at all. The same content gives the same bytes. An older file is replaced.

    tensors  name -> contiguous CPU tensor;  notes: the metadata
    """
    require_ending(Path(path), layout)
    with replacing(path) as draft:
        fill(draft, tensors, notes, layout)


def fill(path: Path, tensors: dict[str, Tensor], notes: dict, layout: str) -> None:
    """Write the content of the file, of which a part is there if it is interrupted."""
    content = {"__author__": AUTHOR, "matching_heuristics": True, "metadata": notes}
    # Into an open file: torch.save would put a path's name into its archive, and safetensors' save_file would
    # make the file unreadable for other users.
    with open(path, "wb") as file:
        if path.suffix == ".safetensors":  # one text, as the library shuffles the order of several
            file.write(save(tensors, {"metadata": json.dumps(notes)}))
        elif path.suffix == ".pkl":
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            _Pickler(file, protocol=5).dump({"model": arrays, **content})
        elif layout == "detectron2":
            torch.save({"model": dict(tensors), **content}, file)
        else:
            torch.save(dict(tensors), file)


def write_detectron2(backbone: Backbone, path: str | Path) -> None:
    """`write` of a backbone for Detectron2."""
    write(tensors_of(backbone, "detectron2"), metadata(backbone), path, "detectron2")


class _Pickler(pickle.Pickler):
    """Arrays as calls of numpy.ndarray(shape, dtype, buffer). NumPy's own way names a module that NumPy 1
    and 2 call differently (numpy.core, numpy._core): a file written under 2 would not open under an old 1."""
    dispatch_table = copyreg.dispatch_table.copy()
    dispatch_table[numpy.ndarray] = lambda array: (
        numpy.ndarray, (array.shape, array.dtype.str, bytearray(array.tobytes())))


def read_written(path: str | Path) -> tuple[dict[str, Tensor], dict | None, str]:
    """Tensors, metadata (None for a plain state dict) and sha256 of a file that `write` wrote. No code of the
    file is run. ValueError for any other file."""
    raw: Any
    raw, sha256 = load(path)
    if Path(path).suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return raw, json.loads((file.metadata() or {}).get("metadata", "null")), sha256
    if isinstance(raw, dict) and all(isinstance(value, Tensor) for value in raw.values()):
        return raw, None, sha256
    if not isinstance(raw, dict) or raw.keys() != {"model", "__author__", "matching_heuristics", "metadata"} \
            or raw["matching_heuristics"] is not True or raw["__author__"] != AUTHOR:
        raise ValueError(f"{path}: expected a file of transfer/convert.py, found one of another origin;"
                         " convert the weights again")
    return raw["model"], raw["metadata"], sha256
