"""Files of every kind are read, what may run code is refused before it runs, and messages name the cause."""
import argparse
import collections
import gzip
import io
import os
import pathlib
import pickle
import tarfile

import numpy
import omegaconf
import pytest
import safetensors.torch
import torch
from weights_toys import legacy, zipped

from transfer.weights.files import load
from transfer.weights.pickles import NAMES, TYPES, Inert, Unpickler


def pickled(content, protocol=2):
    return pickle.dumps(content, protocol)


KINDS = {"zip": zipped, "legacy": legacy, "pickle": pickled}


@pytest.fixture
def file(tmp_path, monkeypatch):
    """file(bytes) -> path; the current folder is its own, so that a payload's folder would be seen."""
    monkeypatch.chdir(tmp_path)

    def write(content):
        (tmp_path / "file.pth").write_bytes(content)
        return tmp_path / "file.pth"
    return write


class Reduced:
    """Pickled as the call function(*arguments)."""
    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments, state) if state else (function, arguments)

    def __reduce__(self):
        return self.reduced


EVIL = {
    "mkdir": (Reduced(os.mkdir, "ran"), "posix.mkdir"),
    "eval": (Reduced(eval, "__import__('os').mkdir('ran')"), "eval"),
    "getattr, the way out of many lists": (Reduced(getattr, numpy.ndarray, "tofile"), "getattr"),
    "loading inside": (Reduced(torch.storage._load_from_bytes, pickled(Reduced(os.mkdir, "ran"))),
                       "posix.mkdir"),
    "numpy's own loader": (Reduced(numpy.load, "x", None, True), "numpy"),
    "inside a harmless object": (argparse.Namespace(a=Reduced(os.mkdir, "ran")), "posix.mkdir"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("evil, named", EVIL.values(), ids=EVIL)
def test_no_code_from_a_file_runs(kind, evil, named, file, tmp_path):
    path = file(KINDS[kind]({"state_dict": {"conv1.weight": evil}}))
    with pytest.raises(ValueError, match=f"refused, as it holds (builtins.)?{named}.* may run") as caught:
        load(path)
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


def settings():
    return {"args": argparse.Namespace(lr=0.1, output=pathlib.Path("runs")), "epoch": 3,
            "best": numpy.float64(71.5), "config": omegaconf.OmegaConf.create(
                {"name": "x", "list": [1, 2.5, True, None, "s"], "home": "${oc.env:HOME}"}),
            "counts": collections.defaultdict(list, {"a": [1]}),
            "more": collections.OrderedDict(b=(1, [2]))}


@pytest.mark.parametrize("kind", KINDS)
def test_harmless_objects_of_real_checkpoints_are_read_as_ours(kind, file):
    content, _ = load(file(KINDS[kind](settings())))
    assert (content["epoch"], content["best"], content["counts"]) == (3, 71.5, {"a": [1]})
    assert content["more"] == {"b": [1, [2]]}
    assert type(content["args"]) is type(content["config"]) is Inert, "not the class that the file names"


def test_harmless_names_stand_for_ours():
    called = [ours for name, ours in NAMES.items() if name not in TYPES]
    assert all(ours.__module__ == "transfer.weights.pickles" for ours in called)
    assert {type(ours) for ours in TYPES.values()} == {torch.dtype}


ARRAYS = {
    "half": numpy.arange(6, dtype="f2").reshape(2, 3), "double": numpy.arange(3, dtype="f8"),
    "big endian": numpy.arange(4, dtype=">f4"), "counter": numpy.array(7, dtype="i8"),
    "Fortran order": numpy.asfortranarray(numpy.arange(6, dtype="f4").reshape(2, 3)),
    "empty": numpy.zeros((0, 2), "f4"), "bool": numpy.array([True, False]),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_arrays_of_a_pickle_become_tensors(array, protocol, file, recwarn):
    tensor = load(file(pickled({"model": {"a": array}}, protocol)))[0]["model"]["a"]
    assert tensor.shape == array.shape and tensor.is_contiguous()
    assert (tensor.numpy() == array).all() and tensor.dtype.itemsize == array.dtype.itemsize
    tensor.logical_not_()  # would warn, or crash, on read-only memory
    assert not recwarn.list


def test_arrays_beside_tensors_in_a_torch_file(file):
    content, _ = load(file(zipped({"a": ARRAYS["double"], "b": torch.ones(2)})))
    assert torch.equal(content["a"], torch.arange(3, dtype=torch.float64)) and content["b"].sum() == 2


def test_a_pickle_of_python_2(file):
    """As cPickle wrote a float32 array: names and data are byte strings, read as latin1."""
    data = numpy.array([1.5, -2.0], "<f4").tobytes()
    content = (b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
               b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ"
               b"\xff\xff\xff\xffK\x00tb\x89U\x08" + data + b"tbs.")
    assert torch.equal(load(file(content))[0]["w"], torch.tensor([1.5, -2.0]))


LIES = {"no buffer": ((2,), "<f4", 8), "too short": ((3,), "<f4", bytearray(8)),
        "huge": ((10**12,), "<f4", bytearray(8)),
        "not numbers": ("x", "<f4", bytearray(8))}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_arrays_that_lie_are_refused(lie, file):
    with pytest.raises(ValueError, match="damaged, truncated or foreign"):
        load(file(pickled({"a": Reduced(numpy.ndarray, *lie)})))


def test_arrays_of_objects_are_no_weights(file):
    objects = Reduced(numpy.ndarray, (2,), "|O", bytearray(16))
    assert type(load(file(pickled({"a": objects})))[0]["a"]) is not torch.Tensor


def packed():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


def nested():
    content = []
    content.append(content)
    return content


tensors = safetensors.torch.save({"a": torch.ones(100)})
FOREIGN = {
    "gzip": (gzip.compress(zipped({})), "found a gzip file; unpack it with gunzip"),
    "tar": (packed(), "found a tar archive; unpack it"),
    "truncated safetensors": (tensors[:-20], "damaged, truncated or foreign"),
    "wrong safetensors header": (tensors[:40] + b"}" * 60 + tensors[100:], "damaged, truncated or foreign"),
    "truncated pickle": (pickled({"a": [1] * 1000})[:-30], "damaged, truncated or foreign"),
    "truncated legacy": (legacy({"a": torch.ones(1000)})[:-500], "damaged, truncated or foreign"),
    "a list in itself": (pickled(nested()), "found values nested deeper than 100"),
}


@pytest.mark.parametrize("content, message", FOREIGN.values(), ids=FOREIGN)
def test_packed_and_damaged_files_say_so(content, message, file):
    path = file(content)
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: expected a PyTorch checkpoint")
    assert "\n" not in str(caught.value)


def test_too_little_memory_is_no_damage(file, monkeypatch):
    def load_nothing(_):
        raise MemoryError

    monkeypatch.setattr(Unpickler, "load", load_nothing)
    with pytest.raises(ValueError, match="file.pth: too little memory for a file of 0 MiB$"):
        load(file(pickled({})))
