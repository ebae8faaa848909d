"""Pickles without their code, in time and memory that follow from their size.

What a pickle names is looked up in NAMES, and what is called in its place is ours: nothing of another package
runs. A pickle can name the same bytes again and again, so what calls are given is counted: together little
more than the pickle holds (`Unpickler.count`). Keys of a dictionary are plain values: others may take for
ever to hash.
"""
import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy
import torch
from torch import Tensor

from transfer.weights.kinds import Foreign

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save's first pickle before its zip files (1.6)
NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}  # arrays of these become tensors
MOST = 64  # arguments of a call and dimensions of a tensor


class Inert:
    """Stands in for a harmless object that no reader needs, and forgets its contents."""
    def __new__(cls, *arguments: object, **named: object) -> "Inert":
        return object.__new__(cls)

    def __init__(self, *arguments: object, **named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


@dataclass(frozen=True)
class Storage:
    """torch's storage: bytes (n,) uint8, and the type of the numbers in them."""
    data: Tensor
    dtype: torch.dtype


class _Type:
    """numpy.dtype of a pickle: a code such as f4 and a byte order, which comes later."""
    def __init__(self, code, *_copying):
        if not isinstance(code, str) or len(code) > 20:
            raise pickle.UnpicklingError("expected the code of a NumPy type")
        self.code, self.order = code.lstrip("<>=|"), code[:1]

    def __setstate__(self, state):
        self.order = state[1]


class Array:
    """numpy.ndarray of a pickle, called with nothing or with (shape, dtype, buffer)."""
    tensor: Any = None

    def __init__(self, *content):
        if content:
            shape, dtype, buffer = content
            self.__setstate__((1, shape, dtype, False, buffer))

    def __setstate__(self, state):
        _version, shape, dtype, fortran, data = state
        self.tensor = numbers(shape, dtype, data, "F" if fortran else "C")


def numbers(shape: Any, dtype: Any, data: Any, order: str) -> Any:
    """The numbers as a tensor, Inert for other contents; ValueError where data and shape do not agree."""
    dtype = dtype if isinstance(dtype, _Type) else _Type(dtype)
    if dtype.code not in NUMBERS:
        return Inert()
    data = data.encode("latin1") if isinstance(data, str) else data  # a pickle of Python 2
    big = ">" if dtype.order == ">" else "<"
    array: Any = numpy.frombuffer(bytearray(memoryview(data)), big + dtype.code)
    return torch.from_numpy(numpy.array(array.reshape(shape, order=order), dtype=dtype.code, order="C"))


def _reconstruct(*_):
    return Array()


def _from_buffer(buffer, dtype, shape, order):
    array = Array()
    array.__setstate__((1, shape, dtype, order == "F", buffer))
    return array


def _scalar(dtype, data=b""):
    value = numbers((), dtype, data, "C")
    return value.item() if isinstance(value, Tensor) else value


def _bytes(content="", encoding="latin1"):
    """Bytes of Python 3 in a pickle of protocol 2, which are text there."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("expected text in latin1")
    return content.encode("latin1") if isinstance(content, str) else bytes(memoryview(content))


def _dictionary(content=(), *_):
    """Python 2 calls OrderedDict with pairs; Counter is called with a dictionary, defaultdict with a type."""
    if isinstance(content, dict):
        return dict(content)
    return plain_keys(pair for pair in content if len(pair) == 2) if isinstance(content, list) else {}


def plain_keys(pairs: Any) -> dict:
    """The dictionary of those pairs whose key is a plain value. Nested tuples and numbers of many digits are
    left out: to hash some of them takes for ever."""
    return {key: value for key, value in pairs if isinstance(key, (str, bytes, float, type(None)))
            or isinstance(key, int) and key.bit_length() < 64}


def _tuple(content=()):
    if len(content) > MOST:
        raise ValueError(f"expected at most {MOST} dimensions, found {len(content)}")
    return tuple(content)


def _first(content=None, *_):
    return content


def _view(storage, offset, size, stride, *_):
    """torch._utils._rebuild_tensor_v2; ValueError for what does not lie within the storage."""
    return _strided(storage, storage.dtype, offset, size, stride)


def _typed_view(storage, offset, size, stride, _gradient, _hooks, dtype, *_):
    return _strided(storage, dtype, offset, size, stride)


def _strided(storage: Storage, dtype: torch.dtype, offset: int, size: tuple, stride: tuple) -> Tensor:
    # as_strided never reaches beyond the numbers, where set_, which torch uses, makes the storage larger.
    return storage.data.view(dtype).as_strided(_tuple(size), stride, offset)


def _without_values(dtype: torch.dtype, size: tuple, layout: torch.layout = torch.strided) -> Tensor:
    """Of a type without a plain meaning: its type, layout and shape, so that a message can name them."""
    return torch.empty(_tuple(size), dtype=dtype, layout=layout, device="meta")


def _meta(dtype, size, *_):
    return _without_values(dtype, size)


def _quantised(storage, _offset, size, *_):
    return _without_values(storage.dtype, size)


def _sparse(layout, data):
    values, size = (data[1], data[2]) if layout is torch.sparse_coo else (data[2], data[3])
    return _without_values(values.dtype, size, layout)


def _layout(name):
    return next(one for one in (torch.strided, torch.sparse_coo, torch.sparse_csr, torch.sparse_csc,
                                torch.sparse_bsr, torch.sparse_bsc) if str(one) == name)


HARMLESS: dict[str, Callable[..., Any]] = {
    "argparse.Namespace": Inert,                     # DINO, timm, torchvision's references keep their flags
    "pathlib.PosixPath": Inert, "pathlib._local.PosixPath": Inert, "pathlib.WindowsPath": Inert,
    **{f"collections.{name}": _dictionary for name in ("defaultdict", "OrderedDict", "Counter")},
    "builtins.dict": _dictionary,
    **{f"builtins.{name}": Inert
       for name in ("list", "int", "long", "float", "str", "set", "frozenset", "complex")},
    "typing.Any": Inert,
    "_codecs.encode": _bytes, "builtins.bytes": _bytes, "builtins.bytearray": _bytes,
    "numpy.dtype": _Type, "numpy.ndarray": Array,
    "lightning_fabric.utilities.data.AttributeDict": _dictionary,  # hyper_parameters of a Lightning module
    "lightning.fabric.utilities.data.AttributeDict": _dictionary,
    "pytorch_lightning.utilities.parsing.AttributeDict": _dictionary,
    "omegaconf.dictconfig.DictConfig": Inert, "omegaconf.listconfig.ListConfig": Inert,  # solo-learn
    "omegaconf.base.ContainerMetadata": Inert, "omegaconf.base.Metadata": Inert,
    **{f"omegaconf.nodes.{kind}Node": Inert
       for kind in ("Any", "String", "Integer", "Float", "Boolean", "Enum", "Path", "Bytes")},
    **{f"numpy.{core}.multiarray.{name}": function for core in ("core", "_core")
       for name, function in (("_reconstruct", _reconstruct), ("scalar", _scalar))},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}
# torch's tensors (torch/_utils.py, torch/_tensor.py). What has no values to read is not there or Inert.
TENSORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _view, "torch._utils._rebuild_tensor_v2": _view,
    "torch._utils._rebuild_tensor_v3": _typed_view,
    "torch._utils._rebuild_parameter": _first, "torch._utils._rebuild_parameter_with_state": _first,
    "torch.nn.parameter.Parameter": _first, "torch.nn.parameter.Buffer": _first,
    "torch._utils._rebuild_device_tensor_from_numpy": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_qtensor": _quantised, "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_nested_tensor": Inert, "torch._utils._rebuild_wrapper_subclass": Inert,
    "torch.serialization._get_layout": _layout, "torch.Size": _tuple,
    "torch.device": Inert, "torch.Tensor": Inert,
    **{f"torch.per_{scheme}": Inert for scheme in (
        "tensor_affine", "tensor_symmetric", "channel_affine", "channel_symmetric",
        "channel_affine_float_qparams")},
}
_OLD = {torch.float64: "Double", torch.float32: "Float", torch.float16: "Half", torch.bfloat16: "BFloat16",
        torch.int64: "Long", torch.int32: "Int", torch.int16: "Short", torch.int8: "Char",
        torch.uint8: "Byte", torch.bool: "Bool", torch.complex128: "ComplexDouble",
        torch.complex64: "ComplexFloat", torch.quint8: "QUInt8", torch.qint8: "QInt8",
        torch.qint32: "QInt32", torch.quint4x2: "QUInt4x2", torch.quint2x4: "QUInt2x4"}
TYPES: dict[str, torch.dtype] = {
    **{str(one): one for one in vars(torch).values() if isinstance(one, torch.dtype)},
    **{f"torch.{place}{name}Storage": one for one, name in _OLD.items() for place in ("", "cuda.")},
    **{f"torch.{place}UntypedStorage": torch.uint8 for place in ("", "cuda.", "storage.")},
}
STORED = "torch.storage._load_from_bytes"  # pickle.dump of a tensor: bytes that torch.save wrote
SUBCLASS = "torch._tensor._rebuild_from_type_v2"  # a function and its arguments
NAMES: dict[str, Any] = {**HARMLESS, **TENSORS, **TYPES}


class _Bounded:
    """A file that is never asked for more bytes than it has: room for them would be made first."""
    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size, self.readline = file, size, file.readline

    def read(self, count: int) -> bytes:
        return self.file.read(count if count < 2**16 else max(0, min(count, self.size - self.file.tell())))


_Base: Any = pickle._Unpickler  # the one in Python: its memo has no gaps, and what it does can be replaced


class Unpickler(_Base):
    """Reads one pickle of a file of `size` bytes.

    storage  what answers a persistent id with a Storage; by default there are none
    outer    the unpickler of the pickle in whose bytes this one is
    """
    def __init__(self, file: BinaryIO, size: int, storage: Callable[[Any], Storage] | None = None,
                 outer: "Unpickler | None" = None):
        super().__init__(_Bounded(file, size), encoding="latin1")
        self.room, self.storage, self.outer = 2 * size + 2**20, storage, outer

    def find_class(self, module: str, name: str) -> Any:
        wanted = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if wanted == STORED and self.outer is None:
            return self._stored
        if wanted == SUBCLASS:
            return self._of_subclass
        if wanted not in NAMES:
            raise pickle.UnpicklingError(f"GLOBAL {wanted}")
        return NAMES[wanted]

    def persistent_load(self, pid: Any) -> Storage:
        if self.storage is None or not isinstance(pid, tuple) or pid[0] != "storage" \
                or not isinstance(pid[2], str):
            raise pickle.UnpicklingError("an object that is kept elsewhere")
        return self.storage(pid)

    def count(self, arguments: Any) -> None:
        """Foreign where calls are given more than the file can hold."""
        self.room -= sum(len(one) for one in arguments
                         if isinstance(one, (str, bytes, bytearray, list, dict)))
        if self.room < 0 or len(arguments) > MOST:
            raise Foreign("a pickle that uses the same contents again and again; save the state dict alone")

    def _stored(self, content: bytes) -> Storage:
        return legacy(io.BytesIO(content), len(content), self)

    def _of_subclass(self, function: Any, _type: Any, arguments: tuple, _state: Any) -> Any:
        return self._call(function, arguments)

    def _call(self, function, arguments):
        self.count(arguments)
        if not callable(function):
            raise pickle.UnpicklingError(f"a call of a {type(function).__name__}")
        return function(*arguments)

    def _reduce(self):
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def _newobj_ex(self):
        self.stack.pop()
        self._reduce()

    def _instantiate(self, klass, arguments):
        self.append(self._call(klass, arguments))

    def _build(self):
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, (_Type, Array)):
            self.count(state)
            made.__setstate__(state)
        elif not isinstance(made, (Inert, dict, Tensor)):  # _metadata of a state dict, attributes of a tensor
            raise pickle.UnpicklingError(f"the state of a {type(made).__name__}")

    def _add(self, items):
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Inert):
            raise pickle.UnpicklingError(f"items of a {type(self.stack[-1]).__name__}")

    def _append(self):
        item = self.stack.pop()
        self._add([item])

    def _appends(self):
        self._add(self.pop_mark())

    def _set(self, items):
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(plain_keys(zip(items[::2], items[1::2], strict=True)))
        elif not isinstance(self.stack[-1], Inert):
            raise pickle.UnpicklingError(f"entries of a {type(self.stack[-1]).__name__}")

    def _setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _setitems(self):
        self._set(self.pop_mark())

    def _dict(self):
        items = self.pop_mark()
        self.append({})
        self._set(items)

    def _empty_set(self):
        self.append(Inert())

    def _additems(self):
        self.pop_mark()

    def _frozenset(self):
        self.pop_mark()
        self.append(Inert())

    def _bytearray8(self):
        self.append(self.read(struct.unpack("<Q", self.read(8))[0]))

    dispatch = {**_Base.dispatch, **{code[0]: function for code, function in (
        (pickle.REDUCE, _reduce), (pickle.NEWOBJ, _reduce), (pickle.NEWOBJ_EX, _newobj_ex),
        (pickle.BUILD, _build), (pickle.APPEND, _append), (pickle.APPENDS, _appends),
        (pickle.SETITEM, _setitem), (pickle.SETITEMS, _setitems), (pickle.DICT, _dict),
        (pickle.EMPTY_SET, _empty_set), (pickle.ADDITEMS, _additems),
        (pickle.FROZENSET, _frozenset), (pickle.BYTEARRAY8, _bytearray8))}}


def legacy(file: Any, size: int, outer: Unpickler | None = None) -> Any:
    """What torch.save wrote before version 1.6: pickles, then the storages that they name, each with the
    number of its elements (torch/serialization.py, _legacy_load)."""
    storages: dict[str, Storage] = {}
    room = size

    def storage(pid):
        nonlocal room
        _, dtype, key, _location, count, view = pid
        if key not in storages:
            room -= count * dtype.itemsize
            if room < 0:
                raise ValueError(f"expected tensors of at most {size} bytes, found more")
            storages[key] = Storage(torch.zeros(count * dtype.itemsize, dtype=torch.uint8), dtype)
        _, offset, count = view or (None, 0, count)
        return Storage(storages[key].data[offset * dtype.itemsize:(offset + count) * dtype.itemsize], dtype)

    _magic, version, machine = (Unpickler(file, size, outer=outer).load() for _ in range(3))
    if version != 1001 or not machine["little_endian"]:
        raise ValueError("expected version 1001 of a little-endian machine")
    content = Unpickler(file, size, storage, outer).load()
    keys = Unpickler(file, size, outer=outer).load()
    if not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise ValueError(f"expected the {len(storages)} tensors that are named, found {len(keys)}")
    for key in keys:
        data, wanted = storages[key].data, storages[key].data.numel()
        (count,) = struct.unpack("<q", file.read(8))
        if count * storages[key].dtype.itemsize != wanted or file.readinto(data.numpy()) != wanted:
            raise ValueError(f"expected {wanted} bytes of a tensor, found fewer or more")
    return content
