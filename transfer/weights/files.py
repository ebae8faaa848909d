"""What a weights file holds, as plain values and tensors, without running code from it.

torch's zip and legacy files are read with `weights_only=True`, `.safetensors` have no code, and plain
pickles, such as Detectron2's, go through an unpickler of our own. Beyond torch's own tensors a file may name
only what HARMLESS lists, and what is called in its place is ours: nothing of another package runs.
"""
import hashlib
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy
import safetensors.torch
import torch

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save's first pickle before its zip files (1.6)
NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}  # arrays of these become tensors


class Inert:
    """Stands in for a harmless object that no reader needs, and forgets its contents."""
    def __new__(cls, *arguments: object, **named: object) -> "Inert":
        return object.__new__(cls)

    def __init__(self, *arguments: object, **named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _Type:
    """numpy.dtype of a pickle: a code such as f4 and a byte order, which comes later."""
    def __init__(self, code, *copying):
        self.code, self.order = str(code).lstrip("<>=|"), str(code)[:1]

    def __setstate__(self, state):
        self.order = state[1]


class _Array:
    """numpy.ndarray of a pickle, called with nothing or with (shape, dtype, buffer)."""
    def __init__(self, *content):
        if content:
            shape, dtype, buffer = content
            self.__setstate__((1, shape, dtype, False, buffer))

    def __setstate__(self, state):
        _version, shape, dtype, fortran, data = state
        self.tensor = _tensor(shape, dtype, data, "F" if fortran else "C")


def _tensor(shape, dtype, data, order):
    """The numbers as a tensor, Inert for other contents; ValueError where data and shape do not agree."""
    dtype = dtype if isinstance(dtype, _Type) else _Type(dtype)
    if dtype.code not in NUMBERS:
        return Inert()
    data = data.encode("latin1") if isinstance(data, str) else data  # a pickle of Python 2
    big = ">" if dtype.order == ">" else "<"
    array = numpy.frombuffer(bytearray(memoryview(data)), big + dtype.code).reshape(shape, order=order)
    return torch.from_numpy(numpy.array(array, dtype=dtype.code, order="C"))


def _reconstruct(*_):
    return _Array()


def _from_buffer(buffer, dtype, shape, order):
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", buffer))
    return array


def _scalar(dtype, data=b""):
    value = _tensor((), dtype, data, "C")
    return value.item() if isinstance(value, torch.Tensor) else value


def _dictionary(*_):
    return {}


HARMLESS: dict[str, Callable[..., Any]] = {
    "argparse.Namespace": Inert,                     # DINO, timm, torchvision's references keep their flags
    "pathlib.PosixPath": Inert, "pathlib._local.PosixPath": Inert, "pathlib.WindowsPath": Inert,
    "collections.defaultdict": _dictionary, "builtins.dict": _dictionary, "builtins.list": Inert,
    "builtins.int": Inert, "builtins.long": Inert, "builtins.float": Inert, "builtins.str": Inert,
    "typing.Any": Inert,
    "numpy.dtype": _Type, "numpy.ndarray": _Array,
    "lightning_fabric.utilities.data.AttributeDict": dict,  # hyper_parameters of a Lightning module
    "lightning.fabric.utilities.data.AttributeDict": dict,
    "pytorch_lightning.utilities.parsing.AttributeDict": dict,
    "omegaconf.dictconfig.DictConfig": Inert, "omegaconf.listconfig.ListConfig": Inert,  # solo-learn
    "omegaconf.base.ContainerMetadata": Inert, "omegaconf.base.Metadata": Inert,
    **{f"omegaconf.nodes.{kind}Node": Inert
       for kind in ("Any", "String", "Integer", "Float", "Boolean", "Enum", "Path", "Bytes")},
    **{f"numpy.{core}.multiarray.{name}": function for core in ("core", "_core")
       for name, function in (("_reconstruct", _reconstruct), ("scalar", _scalar))},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}


def _bytes(content="", encoding="latin1"):
    """Bytes of Python 3 in a pickle of protocol 2, which are text there."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text in {encoding}")
    return content.encode("latin1") if isinstance(content, str) else bytes(memoryview(content))


PICKLED = HARMLESS | {"collections.OrderedDict": dict, "_codecs.encode": _bytes,  # torch has its own of these
                      "builtins.bytes": _bytes, "builtins.bytearray": _bytes}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        wanted = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if wanted not in PICKLED:
            raise pickle.UnpicklingError(f"GLOBAL {wanted}")
        return PICKLED[wanted]


def load(path: str | Path) -> tuple[object, str]:
    """What the file holds (arrays as tensors) and its sha256, from one open file, so they agree even if it is
    replaced meanwhile. FileNotFoundError, or ValueError with one line, for a file that cannot be read."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such weights file; check the path")
    if not path.is_file():
        raise ValueError(f"{path}: expected a weights file, found a folder or device; name the file in it")
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        size = file.tell()
        if size == 0:
            raise ValueError(f"{path}: the file is empty (0 bytes); copy or download it again")
        try:
            _refuse_damaged_archive(file)
            file.seek(0)
            return _plain(_content(file, size)), digest.hexdigest()
        except Exception as error:  # foreign bytes raise almost anything: KeyError, EOFError, struct.error
            raise ValueError(f"{path}: {_why_unreadable(error)}") from None


def _refuse_damaged_archive(file: BinaryIO) -> None:
    """torch.load ignores the checksums of its zip archives: a flipped bit in a weight would pass (tested)."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"the checksum of {damaged} does not match")


def _content(file: BinaryIO, size: int) -> object:
    """Read by the first bytes; a name's ending is not trusted."""
    head = file.read(512)
    file.seek(0)
    if head[:2] == b"\x1f\x8b":
        raise _Packed("a gzip file; unpack it with gunzip")
    if head[257:262] == b"ustar":
        raise _Packed("a tar archive; unpack it (a file of PyTorch before 0.1.10: save it again)")
    if head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < size:
        return safetensors.torch.load(file.read())
    if head[:1] == b"\x80" and not head.startswith(LEGACY):
        return _Unpickler(file, encoding="latin1").load()
    with torch.serialization.safe_globals([(ours, name) for name, ours in HARMLESS.items()]):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(file, map_location="cpu", weights_only=True)


class _Packed(ValueError):
    """The file is a package around the checkpoint."""


def _plain(value: Any) -> Any:
    """The value with its arrays as tensors."""
    if isinstance(value, _Array):
        return getattr(value, "tensor", None)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if type(value) in (list, tuple) else value


def _why_unreadable(error: Exception) -> str:
    """One line for the user, from whatever was raised."""
    if isinstance(error, _Packed):
        return f"expected a PyTorch checkpoint, found {error}"
    text = " ".join(str(error).split())
    if code := re.search(r"GLOBAL:? ([\w.]+)", text):
        return (f"refused, as it holds {code[1]}, which is neither tensor nor plain value and may run code;"
                " save only the state dict of its network and read that")
    short = text if len(text) <= 100 else text[:97] + "..."
    return ("expected a PyTorch checkpoint, found a damaged, truncated or foreign file"
            f" ({type(error).__name__}: {short}); copy or download it again")
