"""What a weights file holds, as plain values and tensors, without running code from it.

torch's zip and legacy files and plain pickles, such as Detectron2's, go through the unpickler of pickles.py;
`.safetensors` and NumPy's `.npz` have no code. Whatever the bytes are, time and memory follow from their
number: what would need more than the constants below allow is refused.
"""
import hashlib
import io
import json
import os
import re
import stat
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy
import safetensors.torch
import torch
from torch import Tensor

from parallel.reading import read_small
from transfer.weights import kinds, pickles
from transfer.weights.kinds import Foreign
from transfer.weights.pickles import Array, Storage, Unpickler

EXPANSION = 10    # an archive unpacks to that many times its size, and SMALL; torch.save does not compress
SMALL = 2**20     # bytes
VIEWS = 4         # all tensors have that many times the bytes of the file, as views of one another, and MANY
MANY = 2**30      # bytes: a network of one repeated number is a small file
DEPTH = 100       # containers in one another
HEADER = 10**8    # bytes of the header of a .safetensors (huggingface/safetensors safetensors/src/tensor.rs)
LINE = 500        # characters of a message, in which names from the file stand


def load(path: str | Path) -> tuple[object, str]:
    """What the file at `located(path)` holds (arrays as tensors) and its sha256, from one open file, so they
    agree even if it is replaced meanwhile. Of a checkpoint in several files it is the sha256 of those of the
    index and of the files, in the order of their names, joined by ":". FileNotFoundError, or ValueError with
    one line, for a file that cannot be read."""
    path = located(path)
    if path.name.endswith(kinds.INDEX):
        return _sharded(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise ValueError(f"{path}: the file is empty (0 bytes); copy or download it again")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of types that torch is about to abandon
                content = _Walk(size).plain(_content(file, size, path.name))
        except Exception as error:  # foreign bytes raise almost anything: KeyError, EOFError, struct.error
            if isinstance(error, MemoryError) or "alloc_cpu" in str(error):
                raise ValueError(f"{path}: too little memory for a file of {size / 2**20:.0f} MiB") from None
            raise ValueError(f"{path}: {_why_unreadable(error)}") from None
        file.seek(0)
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return content, digest.hexdigest()


def located(path: str | Path) -> Path:
    """The file itself: of a folder, the one weights file in it. FileNotFoundError or ValueError where it is
    no regular file; nothing is opened."""
    if re.match(r"[a-z][\w+.-]+:/|hf:", str(path)) and not Path(path).exists():
        raise FileNotFoundError(f"{path}: expected a file, found a URL; download it and give the file")
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if path.is_symlink():
            raise FileNotFoundError(f"{path}: a link to {os.readlink(path)}, which is not there") from None
        raise FileNotFoundError(f"{path}: no such weights file ({error.strerror}); check the path") from None
    if stat.S_ISDIR(mode):
        return located(kinds.in_folder(path))
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: expected a weights file, found a pipe, socket or device; name a file")
    return path


def one_line(text: object) -> str:
    """The text for a message: without control characters, and not longer than LINE."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(text).split()))
    return line if len(line) <= LINE else f"{line[:LINE - 3]}..."


def _content(file: BinaryIO, size: int, name: str) -> Any:
    """Read by the first bytes; a name's ending is not trusted."""
    head = file.read(512)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    file.seek(0)
    if head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < size:
        return _safetensors(file, size)
    if what := kinds.of_bytes(head, tail, name):
        raise Foreign(what)
    if head[:2] == b"PK":
        return _archive(file, size)
    if head.startswith(pickles.LEGACY):
        return pickles.legacy(file, size)
    if head.startswith((b"\x80", *kinds.TEXT_PICKLES)):
        return Unpickler(file, size).load()
    raise ValueError("its first bytes are those of no file that is known")


def _safetensors(file: BinaryIO, size: int) -> dict[str, Tensor]:
    length = struct.unpack("<Q", file.read(8))[0]
    if length > HEADER:
        raise ValueError(f"expected a header of at most {HEADER} bytes, found {length}")
    header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if 8 + length + max(ends, default=0) != size:
        raise ValueError(f"expected {8 + length + max(ends, default=0)} bytes, found {size}")
    file.seek(0)
    return safetensors.torch.load(file.read())


def _archive(file: BinaryIO, size: int) -> Any:
    """Of torch.save or of numpy.savez. Its checksums are compared, which torch.load does not do."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if what := kinds.of_archive([entry.filename for entry in entries]):
            raise Foreign(what)
        if any(entry.flag_bits & 1 for entry in entries):
            raise Foreign("an encrypted zip archive; decrypt it")
        unpacked, packed = (sum(sizes) for sizes in zip(*((e.file_size, e.compress_size) for e in entries)))
        if unpacked > EXPANSION * size + SMALL or packed > size:
            raise Foreign(f"a zip archive of {size} bytes, of which {packed} unpack to {unpacked}: at most"
                           f" {EXPANSION} times its size is read; save the weights with torch.save")
        if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
            raise Foreign("a zip archive with an unusual compression; unpack it and zip it with zip -0 -r")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of {damaged} does not match")
        names = [entry.filename for entry in entries]
        if all(name.endswith(".npy") for name in names):
            return {name.removesuffix(".npy"): _array(archive.read(name)) for name in names}
        return _torch(archive, names, size)


def _torch(archive: zipfile.ZipFile, names: list[str], size: int) -> Any:
    root = next(name for name in names if name.partition("/")[2] == "data.pkl").removesuffix("data.pkl")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise Foreign("numbers of a big-endian machine; save them again on a little-endian one")
    read: dict[str, Tensor] = {}

    def storage(pid: Any) -> Storage:
        _, dtype, key, _location, _count = pid
        if key not in read:
            content = bytearray(archive.read(f"{root}data/{key}"))
            read[key] = (torch.frombuffer(content, dtype=torch.uint8) if content else
                         torch.empty(0, dtype=torch.uint8))
        return Storage(read[key], dtype)

    return Unpickler(io.BytesIO(archive.read(f"{root}data.pkl")), size, storage).load()


def _array(content: bytes) -> Any:
    """A .npy file's; arrays of objects, which are pickles, become Inert."""
    file = io.BytesIO(content)
    version = numpy.lib.format.read_magic(file)
    header = (numpy.lib.format.read_array_header_1_0 if version == (1, 0) else
              numpy.lib.format.read_array_header_2_0)
    shape, fortran, dtype = header(file)
    return pickles.numbers(shape, dtype.str, content[file.tell():], "F" if fortran else "C")


def _sharded(path: Path) -> tuple[object, str]:
    """The tensors of all files that the index names, each from the file that it names for it."""
    try:
        text = read_small(path, HEADER)
        where = json.loads(text)["weight_map"]
        names = sorted(set(where.values()))
        if not names or any(Path(name).name != name or not name.isprintable() or name in ("", "..")
                            or name.endswith(kinds.INDEX) for name in names):
            raise ValueError("expected names of files beside it")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: expected the index of a checkpoint in several files, with a weight_map"
                         f" ({one_line(error)}); copy or download it again") from None
    parts = {name: load(path.with_name(name)) for name in names}
    tensors: dict[str, object] = {}
    for tensor, name in where.items():
        held = parts[name][0]
        if not isinstance(held, dict) or tensor not in held:
            raise ValueError(f"{path}: expected {one_line(tensor)} in {name}, found none; fetch both again")
        tensors[tensor] = held[tensor]
    digests = [hashlib.sha256(text).hexdigest(), *(parts[name][1] for name in names)]
    return tensors, hashlib.sha256(":".join(digests).encode()).hexdigest()


class _Walk:
    """Goes through what a pickle holds, as often as it is mentioned, since every reader does: few bytes can
    mention the same list a million times. ValueError when that is more than the file can hold.

    size  of the file, in bytes
    """
    def __init__(self, size: int):
        self.places, self.views = size + 4096, VIEWS * size + MANY

    def plain(self, value: Any, depth: int = 0, path: int = 0) -> Any:
        """The value with its arrays as tensors. path: characters of the names that lead to it."""
        self.places -= 1
        if isinstance(value, Array):
            value = value.tensor
        if isinstance(value, Tensor):
            self.views -= 0 if value.is_meta else value.nbytes
            self.places -= path // 64
        elif isinstance(value, (dict, list, tuple)):
            self.places -= path // 64
            if depth == DEPTH:
                raise Foreign(f"values nested deeper than {DEPTH}; save the state dict alone")
        if self.places < 0:
            raise Foreign("the same containers again and again in one another; save the state dict alone")
        if self.views < 0:
            raise Foreign("tensors that show the same numbers again and again; save clones of them")
        if isinstance(value, dict):
            return {self.name(key): self.plain(item, depth + 1, path + _length(key))
                    for key, item in value.items()}
        if type(value) in (list, tuple):
            return [self.plain(item, depth + 1, path) for item in value]
        if isinstance(value, int):
            return value if value.bit_length() < 64 else pickles.Inert()  # such are not even printed
        return value if isinstance(value, (Tensor, str, bytes, float, type(None))) else pickles.Inert()

    def name(self, key: Any) -> Any:
        """The key; escaped where it has control characters, which no name has."""
        self.places -= _length(key) // 64
        return ascii(key)[1:-1] if isinstance(key, str) and self.places > 0 and not key.isprintable() else key


def _length(key: Any) -> int:
    return len(key) if isinstance(key, (str, bytes)) else 0


def _why_unreadable(error: Exception) -> str:
    """One line for the user, from whatever was raised."""
    if isinstance(error, Foreign):
        return f"expected a PyTorch checkpoint, found {one_line(error)}"
    text = " ".join(str(error).split())
    if code := re.search(r"GLOBAL:? ([\w.]{1,100})", text):
        return (f"refused, as it holds {code[1]}, which is neither tensor nor plain value and may run code;"
                " save only the state dict of its network and read that")
    short = one_line(text if len(text) <= 100 else text[:97] + "...")
    return ("expected a PyTorch checkpoint, found a damaged, truncated or foreign file"
            f" ({type(error).__name__}: {short}); copy or download it again")
