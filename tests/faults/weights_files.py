"""Weights files as people have them, and as somebody could make them: strange, foreign, damaged, hostile.

CASES has (name, builder, promise). The builder writes a file into a folder and returns what `read` is given.
The promise is "read", or a part of the one-line error. Those named in HOSTILE may take all time or memory of
a program that does not look out for them: give it limits.
"""
import bz2
import collections
import gzip
import io
import json
import lzma
import os
import pickle
import socket
import struct
import tarfile
import zipfile
import zlib

import numpy
import safetensors.torch
import torch
from weights_toys import legacy, prefixed, small_state, zipped

RAN = "ran"  # the folder that code from a file would make


def resnet(prefix="", first=0.5):
    """A ResNet-18 whose file has kilobytes."""
    return prefixed(prefix, small_state(first, "resnet18"))


def whole():
    """The same with every number stored, as formats need that know no strides."""
    return {name: tensor.contiguous() for name, tensor in resnet().items()}


def with_tensor(tensor, name="bn1.bias"):
    return resnet() | {name: tensor}


class Call:
    """Pickled as the call function(*arguments), with a state perhaps."""
    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def code(folder):
    return Call(os.mkdir, str(folder / RAN))


# Builders

def saved(content, kind=zipped, name="weights.pth"):
    """content: a state or what makes it, perhaps of the folder; kind: from that to bytes."""
    def build(folder):
        made = content
        if callable(made):
            made = made(folder) if made.__code__.co_varnames[:1] == ("folder",) else made()
        (folder / name).write_bytes(kind(made))
        return folder / name
    return build


def written(content, name="weights.pth"):
    """content: bytes, or what makes them."""
    return saved(content, bytes, name)


def several(give, **files):
    """give: what is given, in the folder; files: name__ending -> bytes."""
    def build(folder):
        for file, content in files.items():
            (folder / file.replace("__", ".")).write_bytes(content)
        return folder / give if give else folder
    return build


def pickled(protocol=2):
    return lambda content: pickle.dumps(content, protocol)


def arrays(content):
    return pickle.dumps({"model": {name: tensor.numpy() for name, tensor in content.items()}}, 4)


def npz(content, save=numpy.savez):
    buffer = io.BytesIO()
    save(buffer, **{name: getattr(value, "numpy", lambda value=value: value)() for name,
        value in content.items()})
    return buffer.getvalue()


def archive(*entries, compression=zipfile.ZIP_STORED):
    """A zip archive of (name, bytes)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in entries:
            file.writestr(name, content)
    return buffer.getvalue()


def entries(content):
    """Those of torch.save's archive: (name, bytes)."""
    with zipfile.ZipFile(io.BytesIO(zipped(content))) as file:
        return [(name, file.read(name)) for name in file.namelist()]


def rezipped(content):
    """torch.save's archive unpacked and zipped again by another program."""
    return archive(*entries(content), compression=zipfile.ZIP_DEFLATED)


def around(data, *more, root="r"):
    """torch.save's archive around a pickle of ours."""
    return archive((f"{root}/data.pkl", data), (f"{root}/byteorder", b"little"),
        (f"{root}/data/0", bytes(64)),
                   *more)


def raw_zip(entries):
    """A zip archive of (name, method, checksum, packed bytes, size), whatever is true of them; where packed
    is a number, the entry shares the bytes of that one."""
    body, central, starts = b"", b"", []
    for name, method, checksum, packed, size in entries:
        fields = struct.pack("<HHHHHIII", 20, 0, method, 0, 0, checksum,
                             len(packed if isinstance(packed, bytes) else entries[packed][3]), size)
        starts.append(len(body) if isinstance(packed, bytes) else starts[packed])
        if isinstance(packed, bytes):
            body += b"PK\3\4" + fields + struct.pack("<HH", len(name), 0) + name + packed
        central += (b"PK\1\2" + struct.pack("<H", 20) + fields + struct.pack(
            "<HHHHHII", len(name), 0, 0, 0, 0, 0, starts[-1]) + name)
    return body + central + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries),
                                                    len(central), len(body), 0)


def bomb():
    """1 GiB of zeros in a megabyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(64):
        checksum = zlib.crc32(ZEROS, checksum)
    return block * 64 + packer.flush(), checksum, 2**30


ZEROS = bytes(2**24)


def bomb_of_torch():
    packed, checksum, size = bomb()
    data = pickle.dumps({}, 2)
    return raw_zip([(b"r/data.pkl", 0, zlib.crc32(data), data, len(data)),
                    (b"r/data/0", 8, checksum, packed, size)])


def overlapping():
    data, block = pickle.dumps({}, 2), bytes(2**20)
    return raw_zip([(b"r/data.pkl", 0, zlib.crc32(data), data, len(data)),
                    (b"r/data/0", 0, zlib.crc32(block), block, len(block)),
                    *((b"r/data/%d" % number, 0, zlib.crc32(block), 1, len(block)) for number in range(1,
                     3000))])


def lying():
    """Says 10 bytes, and holds a GiB."""
    packed, checksum, _ = bomb()
    data = pickle.dumps({}, 2)
    return raw_zip([(b"r/data.pkl", 0, zlib.crc32(data), data, len(data)),
        (b"r/data/0", 8, checksum, packed, 10)])


# Pickles by hand. h\x01 is the object kept under 1.

def laughs(step, first=b"]"):
    """60 objects, each of which holds the one before twice. step: from that one's opcodes to its own."""
    return b"\x80\x02}X\x05\0\0\0model" + first + b"q\1" + (b"0" + step(b"h\1") + b"q\1") * 60 + b"s."


LAUGHS = {"lists": lambda get: b"](" + get * 2 + b"e", "tuples": lambda get: get * 2 + b"\x86",
          "dictionaries": lambda get: b"}(X\1\0\0\0a" + get + b"X\1\0\0\0b" + get + b"u"}


def keys_of_tuples():
    """The tuple that no one can hash in a lifetime is a key."""
    content = b"\x80\x02}K\1\x85q\1" + b"".join(b"0h\1h\1\x86q\1" for _ in range(60))
    return content + b"K\2s."


def in_legacy(data):
    whole = legacy({})
    return whole.replace(pickle.dumps({}, 2), data, 1)


def again(call, data=bytes(2**20)):
    """A megabyte that is used 20,000 times. call: the opcodes of one use, h\\1 being the bytes."""
    return b"\x80\x04]B" + struct.pack("<I", len(data)) + data + b"q\x010(" + call * 20_000 + b"e."


BYTES = b"cbuiltins\nbytes\nh\1\x85R"
ARRAY = b"cnumpy\nndarray\nJ\0\0\x10\0\x85X\2\0\0\0u1h\1\x87R"
STORAGE = b"ctorch.storage\n_load_from_bytes\nh\1\x85R"


def nested(opcode, depth=200_000):
    """So many containers in one another."""
    return {"list": b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".",
            "tuple": b"\x80\x02)" + b"\x85" * depth + b".",
            "dict": b"\x80\x02" + b"}X\1\0\0\0a" * depth + b"N" + b"s" * depth + b"."}[opcode]


def itself():
    content = []
    content.extend((content, content))
    return {"model": content}


ARRAY_OF_ONE = b"cnumpy\nndarray\nK\1\x85X\2\0\0\0u1C\1\0\x87Rq\x020"  # kept under 2


def long_names():
    """80 dictionaries in one another under a name of 100 kB each, and 10,000 tensors in the last."""
    name = b"X" + struct.pack("<I", 100_000) + b"x" * 100_000
    tensors = b"".join(b"X\5\0\0\0%05dh\2" % number for number in range(10_000))
    deep = b"\x80\x04}" + name + b"q\1}" + b"h\1}" * 80
    return deep + ARRAY_OF_ONE + b"(" + tensors + b"u" + b"s" * 81 + b"."


def colliding():
    """Numbers of many digits with the same hash."""
    numbers = (1 + number * (2**61 - 1) for number in range(2**62, 2**62 + 60_000))
    return b"\x80\x02}(" + b"".join(b"\x8a\x10" + number.to_bytes(16,
        "little") + b"N" for number in numbers) + b"u."


class Stored:
    """Pickled as a persistent id."""


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return ("storage", torch.FloatStorage, "0", "cpu", 16) if isinstance(value, Stored) else None


def view(size, stride, offset=0):
    """A torch file whose tensor has this size and these strides on a storage of 16 numbers."""
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"conv1.weight": Call(
        torch._utils._rebuild_tensor_v2, Stored(), offset, size, stride, False, {})})
    return around(buffer.getvalue())


def header(text, data=b"", length=None):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def npy(text, version=1):
    return b"\x93NUMPY" + bytes((version, 0)) + struct.pack("<H", len(text)) + text


def sparse(head=b"", tail=b""):
    """6 GB, of which the disk holds next to nothing."""
    def build(folder):
        with open(folder / "weights.pth", "wb") as file:
            file.write(head)
            file.truncate(6 * 10**9)
            file.seek(0, 2)
            file.write(tail)
        return folder / "weights.pth"
    return build


def fifo(folder):
    os.mkfifo(folder / "weights.pth")
    return folder / "weights.pth"


def unix_socket(folder):
    here = os.getcwd()
    os.chdir(folder)  # a socket's path may have 108 characters
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("weights.pth")
    finally:
        os.chdir(here)
    return folder / "weights.pth"


def link(target):
    def build(folder):
        (folder / "weights.pth").symlink_to(target)
        return folder / "weights.pth"
    return build


def index(names=("a.safetensors",), give="model.safetensors.index.json", where=None, **files):
    """A checkpoint in several files; its index names the files in turn."""
    def build(folder):
        state = whole()
        places = where if where is not None else {
            name: names[number % len(names)] for number, name in enumerate(state)}
        for name in names:
            safetensors.torch.save_file({key: state[key] for key in state if places.get(key) == name},
                                        folder / name)
        text = json.dumps({"metadata": {}, "weight_map": places}).encode()
        return several(give, model__safetensors__index__json=text, **files)(folder)
    return build


def folder_of_files(*names, sub="given"):
    def build(folder):
        (folder / sub).mkdir()
        for name in names:
            (folder / sub / name).write_bytes(zipped(resnet()))
        return folder / sub
    return build


DAMAGED = "found a damaged, truncated or foreign file"
AGAIN = "the same containers again and again"
USED = "found a pickle that uses the same contents again and again"

HOSTILE_CASES = (
    ("zip bomb", written(bomb_of_torch), "at most 10 times its size is read"),
    ("zip bomb of NumPy", written(lambda: npz({"a": numpy.zeros(10**7)}, numpy.savez_compressed)),
     "at most 10 times its size is read"),
    ("zip, entries share their bytes", written(overlapping), "at most 10 times its size is read"),
    ("zip, lies about a size", written(lying), DAMAGED),
    ("zip of 20,000 entries", written(lambda: archive(
        *entries(resnet()), *((f"r/more/{number}", b"") for number in range(20_000)))), "read"),
    *((f"{kind} doubled 60 times in a {place}", written(lambda step=step, wrap=wrap: wrap(laughs(step))),
     AGAIN)
      for kind, step in LAUGHS.items()
      for place, wrap in (("pickle", bytes), ("zip", around), ("legacy file", in_legacy))),
    ("sets doubled", written(laughs(lambda get: b"(" + get * 2 + b"\x91", b")")), "no tensor of a ResNet"),
    ("a tuple that takes for ever to hash", written(keys_of_tuples()), "the first keys are none"),
    ("the same in a set", written(keys_of_tuples()[:-4] + b"\x8f(h\1\x90s."), "the first keys are none"),
    ("the same as a storage's key", written(lambda: around(keys_of_tuples()[:-4] + (
        b"0(X\7\0\0\0storagectorch\nFloatStorage\nh\1X\3\0\0\0cpuK\1tQ."))), DAMAGED),
    ("the same as the name of a layout", written(
        keys_of_tuples()[:-4] + b"0ctorch.serialization\n_get_layout\nh\1\x85R."), DAMAGED),
    ("the same in the pairs of an OrderedDict", written(keys_of_tuples()[:-4] + (
        b"0ccollections\nOrderedDict\n]h\1N\x86a\x85R.")), "the first keys are none"),
    ("numbers with one hash", written(colliding()), "the first keys are none"),
    ("a number of a million digits again and again", written(lambda: b"\x80\2\x8b" + struct.pack("<i", 2**20)
     + b"\1" * 2**20 + b"q\1" + b"0](" + b"h\1" * 200_000 + b"e."), "found a list"),
    ("the same as keys", written(lambda: b"\x80\2\x8b" + struct.pack("<i", 2**20) + b"\1" * 2**20 + b"q\0010}"
     + b"h\1Ns" * 200_000 + b"."), "the first keys are none"),
    ("a name of a megabyte again and again",
     written(lambda: b"\x80\2X" + struct.pack("<I", 2**20) + b"x" * 2**20
     + b"q\0010}X\1\0\0\0a](" + b"}h\1Ns" * 100_000 + b"es."), AGAIN),
    ("bytes copied again and again", written(lambda: again(BYTES)), USED),
    ("arrays copied again and again", written(lambda: again(ARRAY)), USED),
    ("storages read again and again", written(lambda: again(STORAGE, legacy({}) + bytes(2**20))), USED),
    ("bytes of a subclass copied again and again", written(lambda: again(
        b"ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\nbytes\nNh\1\x85NtR")), USED),
    ("states copied again and again", written(lambda: again(
        b"cnumpy\nndarray\n)R(K\1J\0\0\x10\0\x85X\2\0\0\0u1\x89h\1tb")), USED),
    ("a call with a million arguments", written(
        b"\x80\x04(" + b"N" * 10**6 + b"tq\1(" + b"cargparse\nNamespace\nh\1R" * 10**4 + b"l."), USED),
    ("text of a NumPy type doubled", written(
        laughs(LAUGHS["lists"])[:-2] + b"cnumpy\ndtype\nh\1\x85Rs."), DAMAGED),
    *((f"a pickle of 2**60 {what}", written(b"\x80\x04" + opcode + struct.pack("<Q", 2**60) + b"abc."),
     DAMAGED)
      for what, opcode in (("bytes", b"\x8e"), ("letters", b"\x8d"), ("bytes that can change", b"\x96"),
                           ("bytes in a frame", b"\x95"))),
    ("a pickle of a number with 2**31 digits", written(b"\x80\x02\x8b\xff\xff\xff\x7fabc."), DAMAGED),
    ("a pickle that keeps at place 2**32", written(b"\x80\x02}r\xff\xff\xff\xff."), "it is empty"),
    ("a call for 10**12 bytes", written(
        b"\x80\x02cbuiltins\nbytearray\n\x8a\6" + (10**12).to_bytes(6, "little") + b"\x85R."), DAMAGED),
    ("an array of 10**12 numbers",
     saved({"a": Call(numpy.ndarray, (10**12,), "<f4", bytearray(8))}, pickled()),
     DAMAGED),
    ("an array of 70 dimensions",
     saved({"a": Call(numpy.ndarray, (1,) * 70, "<f4", bytearray(4))}, pickled()),
     DAMAGED),
    *((f"200,000 {kind}s in one another", written(nested(kind)), "nested deeper than 100")
      for kind in ("list", "tuple", "dict")),
    ("a list twice in itself", saved(itself, pickled()), "nested deeper than 100"),
    ("names of 100 kB in one another", written(long_names), AGAIN),
    ("30,000 containers of a tensor", written(lambda: b"\x80\4}(" + ARRAY_OF_ONE + b"".join(
        b"X\5\0\0\0%05d}X\1\0\0\0ah\2s" % number for number in range(30_000)) + b"u."),
     "the first keys are 00000, 00001"),
    ("a tensor of 400 GB on one number", saved(lambda: with_tensor(torch.ones(1).expand(10**5, 10**6))),
     "tensors that show the same numbers again and again"),
    ("a tensor of overlapping rows", saved(lambda: with_tensor(torch.ones(2 * 10**6).as_strided(
        (10**6, 10**6), (1, 1)))), "tensors that show the same numbers again and again"),
    ("a tensor beyond its storage", written(lambda: view((10**10,), (1,))), DAMAGED),
    ("a tensor before its storage", written(lambda: view((4,), (-1,), 3)), DAMAGED),
    ("a tensor of 10**6 dimensions", written(lambda: view((1,) * 10**6, (1,) * 10**6)), DAMAGED),
    ("a meta tensor of 2**60 numbers", saved(lambda: with_tensor(torch.empty(2**28, 2**28, device="meta"))),
     "1 of another shape"),
    ("a legacy storage of 2**50 numbers", written(lambda: legacy({"a": torch.ones(7)}).replace(
        b"K\7N", b"\x8a\7" + (2**50).to_bytes(7, "little") + b"N")), DAMAGED),
    ("safetensors of a header of 2**60 bytes", written(header(b"{}", length=2**60)), DAMAGED),
    ("safetensors of a deep header", written(header(b'{"a":' * 10**5)), DAMAGED),
    ("safetensors of 10**15 bytes", written(header({"a": {"dtype": "F32", "shape": [2 * 10**14],
                                                          "data_offsets": [0, 10**15]}})), DAMAGED),
    ("npz of 10**12 numbers", written(archive(("a.npy", npy(
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }  \n")))), DAMAGED),
    ("npz of a deep header", written(archive(("a.npy", npy(b"(" * 9000)))), DAMAGED),
    ("6 GB of zeros", sparse(), "only zeros at its beginning"),
    ("6 GB with the head of a pickle", sparse(b"\x80\x02"), DAMAGED),
    ("6 GB with the head of a zip", sparse(b"PK\3\4"), DAMAGED),
    ("6 GB with the head of safetensors", sparse(struct.pack("<Q", 9 * 10**7) + b"{"), DAMAGED),
    ("6 GB with the head of a legacy file", sparse(legacy({})[:20]), DAMAGED),
    ("a pipe", fifo, "found a pipe, socket or device"),
    ("a socket", unix_socket, "found a pipe, socket or device"),
    ("a link to /dev/zero", link("/dev/zero"), "found a pipe, socket or device"),
    ("a link to itself", link("weights.pth"), "a link to weights.pth, which is not there"),
    ("an index that names a pipe", lambda folder: fifo(folder) and index(
        where={"conv1.weight": "weights.pth"})(folder), "found a pipe, socket or device"),
)


def of_type(dtype):
    """A bias of that type, which only some can be made from numbers."""
    return lambda: with_tensor(torch.zeros(64, dtype=torch.uint8).repeat(dtype.itemsize).view(dtype))


def quantised():
    return with_tensor(torch.quantize_per_tensor(torch.ones(64), 0.1, 0, torch.qint8))


def parameters():
    return {name: torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor
            for name, tensor in whole().items()}


def sharing():
    numbers = torch.ones(512 * 512 * 9)
    return {name: numbers[:tensor.numel()].view(tensor.shape) for name, tensor in resnet().items()
            if tensor.is_floating_point()}


def with_attribute():
    tensor = whole()["bn1.bias"]
    tensor.note = "x"  # torch.save writes such a tensor by another function
    return with_tensor(tensor)


def numbered(prefix, state):
    first = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    return {f"{prefix}{first[name.split('.')[0]]}.{name.split('.', 1)[1]}": tensor
            for name, tensor in state.items()}


def tar_of(name, content, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def flipped():
    content = bytearray(zipped(resnet()))
    content[content.index(b"conv1.weight")] ^= 1
    return bytes(content)


def with_code(folder):
    return with_tensor(code(folder), "fc.weight")


def objects(folder):
    """Arrays of objects, which NumPy keeps as pickles."""
    return npz({"a": numpy.array([code(folder)], dtype=object)})


HEAD = {"fc.weight": torch.ones(10, 512), "fc.bias": torch.ones(10)}
BESIDE = {"best_acc1": torch.tensor(76.1), "rng_state": torch.get_rng_state(), "epoch": 90}
EVIL = "refused, as it holds posix.mkdir"

CASES = HOSTILE_CASES + (
    # What may run code
    ("code in a zip", saved(with_code), EVIL),
    ("code in a legacy file", saved(with_code, legacy), EVIL),
    *((f"code in a pickle of protocol {protocol}", saved(with_code, pickled(protocol)), EVIL)
      for protocol in (0, 2, 4, 5)),
    ("code in the bytes of a storage", saved(lambda folder: with_tensor(Call(
        torch.storage._load_from_bytes, pickled()(code(folder)))), pickled()), EVIL),
    ("code in arrays of NumPy", written(objects), "no tensor of a ResNet found"),
    ("code in a part of a checkpoint", lambda folder: index(
        ("a.bin",), a__bin=zipped(with_code(folder)))(folder), EVIL),
    ("code called by a tensor's subclass", saved(lambda folder: with_tensor(Call(
        torch._tensor._rebuild_from_type_v2, os.mkdir, torch.Tensor, (str(folder / RAN),), {}))), EVIL),
    ("a whole network", saved(lambda: torch.nn.Linear(2, 2)),
     "refused, as it holds torch.nn.modules.linear.Linear"),
    ("a name of a megabyte", written(b"\x80\x02c" + b"a" * 2**20 + b"\nb\n."), "refused, as it holds aaaa"),
    ("control characters in a name", saved(lambda: {"conv1.weight\x1b[2J\nx": torch.ones(1)}),
     r"first keys are conv1.weight\x1b[2J\nx"),
    # Another kind of file
    ("gzip", written(lambda: gzip.compress(zipped(resnet()))), "found a gzip file; unpack it with gunzip"),
    ("bzip2", written(lambda: bz2.compress(b"x" * 99)), "found a bzip2 file; unpack it with bunzip2"),
    ("xz", written(lambda: lzma.compress(b"x" * 99)), "found an xz file; unpack it with unxz"),
    ("zstd", written(b"\x28\xb5\x2f\xfd" + bytes(99)), "found a zstd file"),
    ("7z", written(b"7z\xbc\xaf\x27\x1c" + bytes(99)), "found a 7z file"),
    ("rar", written(b"Rar!\x1a\x07\x01\0" + bytes(99)), "found a rar file"),
    ("tar", written(lambda: tar_of("resnet18.pth", zipped(resnet()))), "found a tar archive"),
    ("tar, packed", written(lambda: tar_of("r.pth", b"x", "w:gz"), "r.pth.tar"), "found a gzip file"),
    ("zip around a file", written(lambda: archive(("resnet18.pth", zipped(resnet())))),
     "a zip archive around 1 file (resnet18.pth); unpack it with unzip"),
    ("zip around a zip around files",
     written(lambda: archive(("w/a.zip", archive(("r.pth", b"x"))), ("w/b", b""))),
     "a zip archive around 2 files"),
    ("zip of nothing", written(lambda: archive()), "found an empty zip archive"),
    ("encrypted zip", written(lambda: raw_zip([(b"r/data.pkl", 0, 0, b"x" * 20, 20)]).replace(
        b"PK\1\2\x14\0\x14\0\0\0", b"PK\1\2\x14\0\x14\0\1\0")), "found an encrypted zip archive"),
    ("zip with lzma", written(lambda: archive(*entries(resnet()), compression=zipfile.ZIP_LZMA)),
     "unusual compression"),
    ("TorchScript", written(lambda: archive(("net/data.pkl", b""), ("net/code/__torch__.py", b""),
                                            ("net/constants.pkl", b""))), "torch.jit.load(FILE"),
    ("TorchScript of a network", lambda folder: torch.jit.save(torch.jit.trace(
        torch.nn.Linear(2, 2), torch.ones(2)), folder / "a.pt") or folder / "a.pt",
            "found a TorchScript program"),
    ("torch.export", written(lambda: archive(("net/archive_format", b"pt2"),
     ("net/models/model.json", b"{}"))),
     "found a program of torch.export; save its tensors: torch.save(torch.export.load(FILE).state_dict"),
    ("torch.export, before 2.7", written(lambda: archive(("serialized_exported_program.json", b"{}"))),
     "found a program of torch.export"),
    ("torch.package", written(lambda: archive(("p/.data/extern_modules", b""), ("p/net.py", b""))),
     "found a torch.package"),
    ("Keras", written(lambda: archive(("config.json", b"{}"), ("model.weights.h5", b"")), "a.keras"),
     "found a Keras model"),
    ("HDF5", written(b"\x89HDF\r\n\x1a\n" + bytes(99), "resnet50.h5"), "found an HDF5 file"),
    ("TensorFlow, data", written(os.urandom(999), "model.ckpt-100.data-00000-of-00001"),
     "TensorFlow checkpoint"),
    ("TensorFlow, index", written(b"\0\0\1\2" * 20 + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "model.ckpt.index"),
     "TensorFlow checkpoint"),
    ("TensorFlow, the list of checkpoints",
     written(b'model_checkpoint_path: "model.ckpt-100"\n', "checkpoint"),
     "TensorFlow checkpoint"),
    ("TensorFlow Lite", written(b"\x1c\0\0\0TFL3" + bytes(99)), "found a TensorFlow Lite model"),
    ("ONNX", written(b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + bytes(99)), "found an ONNX model"),
    ("GGUF", written(b"GGUF\3\0\0\0" + bytes(99)), "found a GGUF file"),
    ("one array of NumPy", written(lambda: npy(b"{}")), "found a single array of NumPy"),
    ("MATLAB", written(b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(99)), "found a MATLAB file"),
    ("a picture", written(b"\xff\xd8\xff\xe0" + bytes(99)), "found a picture"),
    ("a library", written(b"\x7fELF" + bytes(99)), "found a program or library"),
    ("git-lfs", written(b"version https://git-lfs.github.com/spec/v1\noid sha256:aaaa\nsize 97\n"),
     "found a git-lfs pointer"),
    ("git-annex", written(b"/annex/objects/SHA256E-s97781949--0676ba61.pth\n"), "found a git-annex pointer"),
    ("a web page", written(b"\xef\xbb\xbf  <!DOCTYPE html>\n<html><title>Sign in</title></html>"),
     "found a web page"),
    ("a web page in HTML 4", written(b"<!-- x -->\n<HTML><HEAD><TITLE>302 Found</TITLE></HEAD></HTML>"),
     "found a web page"),
    ("an error in XML", written(b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'),
     "found an XML text"),
    ("an error in JSON", written(b'{"error": "Access to model is restricted"}'), 'a JSON text ({"error"'),
    ("a text", written(b"# ResNet-50\n\nWeights are at https://example.org/\n"),
     "found a text (# ResNet-50 Weights"),
    ("bytes of nothing", written(bytes(range(256)) * 8), DAMAGED),
    ("a part of a distributed checkpoint", written(os.urandom(99), "__0_0.distcp"),
     "a distributed checkpoint"),
    ("a URL", lambda folder: "https://example.org/resnet50.pth", "found a URL; download it"),
    ("a broken link", link("/absent/resnet50.pth"), "a link to /absent/resnet50.pth, which is not there"),
    ("no file", lambda folder: folder / "absent.pth", "no such weights file"),
    # Folders and checkpoints in several files
    ("an empty folder", folder_of_files(), "expected one weights file in the folder, found none"),
    ("a folder of one file", folder_of_files("resnet18.pth", ".resnet18.pth", "notes.txt"), "read"),
    ("a folder of two files", folder_of_files("a.pth", "b.safetensors"),
     "expected one weights file in the folder, found 2 (a.pth, b.safetensors); name one of them"),
    ("a folder of torch.save's archive", several("", data__pkl=b"", version=b"3"),
     "one of torch.save unpacked"),
    ("a folder of TensorFlow", several("", saved_model__pb=b""), "found a TensorFlow model"),
    ("a distributed checkpoint", several("", __metadata=b"", a__distcp=b""), "dcp_to_torch FOLDER"),
    ("a checkpoint in several files", index(("a.safetensors", "b.safetensors", "c-3.safetensors")), "read"),
    ("a folder of a checkpoint in several files", index(("a.safetensors", "b.safetensors"), give=""), "read"),
    ("a part is missing", index(where={"conv1.weight": "gone.safetensors"}),
     "gone.safetensors: no such weights"),
    ("a tensor is in no part", index(where={"conv9.weight": "a.safetensors"}),
     "expected conv9.weight in a.safetensors, found none"),
    ("a part outside the folder", index(where={"conv1.weight": "../a.safetensors"}),
     "names of files beside it"),
    ("a part that is the folder above", index(where={"conv1.weight": ".."}), "names of files beside it"),
    ("a part that is the index", index(where={"conv1.weight": "model.safetensors.index.json"}),
     "names of files beside it"),
    ("an index of nothing", index(where={}), "names of files beside it"),
    ("an index that is another text", several("a.index.json", a__index__json=b'{"weight_map": 5}'),
     "weight_map"),
    ("an index that is a list", several("a.index.json", a__index__json=b"[" * 10**5), "weight_map"),
    # What torch.save, pickle, NumPy and safetensors write
    *((f"a state dict, written by {kind}", saved(whole, how), "read") for kind, how in (
        ("torch.save", zipped), ("torch.save before 1.6", legacy), *(
            (f"pickle.dump, protocol {protocol}", pickled(protocol)) for protocol in (0, 2, 4, 5)))),
    *((f"parameters, written by {kind}", saved(parameters, how), "read") for kind, how in (
        ("torch.save", zipped), ("torch.save before 1.6", legacy), ("pickle.dump", pickled()))),
    ("an OrderedDict", saved(lambda: collections.OrderedDict(resnet())), "read"),
    ("arrays in a pickle", saved(whole, arrays), "read"),
    ("arrays of NumPy", saved(whole, npz), "read"),
    ("safetensors", saved(whole, safetensors.torch.save), "read"),
    ("torch.save's archive, packed by another program", saved(lambda: {"state_dict": resnet()}, rezipped),
     "read"),
    ("tensors with attributes", saved(with_attribute), "read"),
    ("tensors that share a storage", saved(sharing), "read"),
    ("numbers of a big-endian machine", written(lambda: archive(*(
        (name, b"big" if name.endswith("byteorder") else data) for name, data in entries(resnet())))),
         "big-endian"),
    # Types of numbers
    *((str(dtype), saved(of_type(dtype)), "read") for dtype in (
        torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)),
    *((f"{kind} by {how.__name__}", saved(of_type(getattr(torch, kind)), how),
       f"bn1.bias: expected floating-point numbers, found {kind};")
      for kind, how in (("int8", zipped), ("int8", legacy), ("bool", zipped), ("uint16", zipped))),
    ("complex", saved(of_type(torch.complex64)), "bn1.bias: expected a dense real tensor, found complex64"),
    ("quantised", saved(quantised), "bn1.bias: expected a dense real tensor, found qint8"),
    ("quantised, before 1.6", saved(quantised, legacy),
     "bn1.bias: expected a dense real tensor, found qint8"),
    ("sparse", saved(lambda: with_tensor(torch.ones(64).to_sparse())), "found float32 sparse_coo;"),
    ("compressed sparse", saved(lambda: with_tensor(torch.ones(8, 8).to_sparse_csr())), "1 of another shape"),
    ("meta", saved(lambda: with_tensor(torch.ones(64, device="meta"))), "found float32 without values"),
    ("two numbers in a byte", saved(of_type(torch.float4_e2m1fn_x2)), "found float4_e2m1fn_x2"),
    ("counters as float", saved(lambda: {name: tensor.float() for name, tensor in resnet().items()}), "read"),
    ("a counter of NaN", saved(lambda: with_tensor(torch.tensor(float("nan")), "bn1.num_batches_tracked")),
     "bn1.num_batches_tracked: expected finite values"),
    # One complete ResNet, and nothing to choose
    ("tensors beside it", saved(lambda: resnet() | HEAD | BESIDE), "read"),
    ("tensors beside its container", saved(lambda: {"state_dict": resnet("module.") | HEAD, **BESIDE}),
     "read"),
    *((f"under {prefix}", saved(resnet(prefix) | {"head.0.weight": torch.ones(8, 8)}), "read") for prefix in (
        "module.", "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.", "model.", "backbone.", "net.",
        "encoder.module.", "model.encoder.", "module._orig_mod.backbone.trunk.body.", "0.", "a.b.c.d.e.f.")),
    *((f"numbered under {prefix}", saved(numbered(prefix, resnet())), "read") for prefix in ("", "0.",
     "net.1.")),
    *((f"in the container {name}", saved({name: resnet() | HEAD, "acc": 71.0}), "read") for name in (
        "net", "module", "network", "teacher", "weights")),
    ("in containers in one another", saved({"a": {"b": [1, {"net": resnet("trunk.")}]}}), "read"),
    ("two networks", saved(resnet("student.") | resnet("teacher.", 3.5)),
     "holds 2 complete ResNets, student, teacher, and does not say which to take; pass --encoder with one"),
    ("the bare names and an average", saved(resnet() | resnet("average.", 3.5)),
     "2 complete ResNets, backbone, avera"),
    ("one network twice", saved(resnet("a.") | resnet("b.")), "read"),
    ("a tensor too few", saved({name: tensor for name,
     tensor in resnet("net.").items() if "bn1.bias" not in name}),
     "under net.*, 9 of 120 backbone tensors missing"),
    ("truncated", written(lambda: zipped(resnet())[:-3000]), DAMAGED),
    ("truncated in half", written(lambda: zipped(resnet())[:9000]), DAMAGED),
    ("a flipped bit", written(flipped), "the checksum of"),
    ("empty", written(b""), "the file is empty"),
)
HOSTILE = {name for name, _, _ in HOSTILE_CASES}
