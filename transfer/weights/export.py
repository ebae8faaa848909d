"""The Detectron2 file: a pickle {model, __author__, matching_heuristics, metadata} of NumPy arrays.

Detectron2 takes for each name of its network the longest name of the file that is its dotted ending
(detectron2/checkpoint/c2_model_loading.py:208-250), so `res5.*` reaches `roi_heads.res5.*` of a C4 head, and
`__author__` keeps it from renaming as if the file were Caffe2's (detection_checkpoint.py:71-84).
"""
import copyreg
import os
import pickle
from contextlib import contextmanager
from pathlib import Path

import numpy
import torch
from torch import Tensor

from transfer.weights.backbone import Backbone
from transfer.weights.naming import to_detectron2

AUTHOR = "barlow-transfer"  # anything but Caffe2
VERSION = 1                 # of the file's contents; a change that a reader could notice makes it 2

# What torchvision weights need in Detectron2 (PROTOCOLS 7.1, item 10), under the names of its configuration.
# Detectron2's own defaults are BGR, std 1 and stride in the 1 x 1: wrong for these weights, without an error.
CONVENTIONS = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],  # 255 x ImageNet's mean and standard deviation
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,           # torchvision strides in the 3 x 3 convolution
}


def metadata(backbone: Backbone) -> dict:
    """Where the weights come from and what they need; plain values only."""
    return {"name": backbone.name, "source_sha256": backbone.sha256, "reader": backbone.format,
            "converter_version": VERSION, **CONVENTIONS}


def write_detectron2(backbone: Backbone, path) -> None:
    """Writes the `.pkl`, whole or not at all; equal backbones give equal bytes. An older file is replaced."""
    path = Path(path)
    require_pkl(path)
    arrays = {name: tensor.numpy() for name, tensor in to_detectron2(backbone.state).items()}
    content = {"model": arrays, "__author__": AUTHOR, "matching_heuristics": True,
               "metadata": metadata(backbone)}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        _Pickler(file, protocol=5).dump(content)


def require_pkl(path: Path) -> None:
    if path.suffix != ".pkl":
        raise ValueError(f"{path}: expected a name ending in .pkl, by which Detectron2 knows how to read it")


@contextmanager
def replacing(path: Path):
    """A name beside path for the block to write to; its file takes path's place if the block ends well."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist; create it first")
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class _Pickler(pickle.Pickler):
    """Arrays as calls of numpy.ndarray(shape, dtype, buffer). NumPy's own way names a module that NumPy 1
    and 2 call differently (numpy.core, numpy._core): a file written under 2 would not open under an old 1."""
    dispatch_table = copyreg.dispatch_table.copy()
    dispatch_table[numpy.ndarray] = lambda array: (
        numpy.ndarray, (array.shape, array.dtype.str, bytearray(array.tobytes())))


def read_detectron2(path) -> tuple[dict[str, Tensor], dict]:
    """model (name -> tensor) and metadata of a file that `write_detectron2` wrote, without running code from
    it: numpy.ndarray is the only thing a file may call. ValueError for any other file."""
    try:
        with open(path, "rb") as file:
            content = _Unpickler(file).load()
        model, notes = content["model"], content["metadata"]
        if content["matching_heuristics"] is not True or content["__author__"] != AUTHOR:
            raise ValueError("__author__ or matching_heuristics differ")
        return {name: torch.from_numpy(array) for name, array in model.items()}, notes
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such weights file") from None
    except Exception as error:  # foreign bytes raise almost anything
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise ValueError(f"{path}: expected a file of transfer/convert.py, found one that is damaged or of"
                         f" another origin ({cause}); convert the weights again") from None


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) == ("numpy", "ndarray"):
            return _array
        raise pickle.UnpicklingError(f"refused, as it holds {module}.{name}, which may run code")


def _array(shape, dtype, buffer) -> numpy.ndarray:
    """numpy.ndarray for the arrays of our files only: little-endian numbers in a buffer of their size."""
    if dtype not in ("<f4", "<i8"):
        raise pickle.UnpicklingError(f"an array of type {dtype}")
    return numpy.frombuffer(buffer, dtype).reshape(shape)
