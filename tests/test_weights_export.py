"""The Detectron2 file: what is in it, Detectron2's way of reading it and ours; no code of it runs."""
import os
import pickle
import pickletools

import numpy
import pytest
import torch
from weights_toys import distinct_backbone, with_state

from transfer.weights.export import read_detectron2, replacing, write_detectron2
from transfer.weights.naming import detectron2_names, to_torchvision


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "distinct.pkl"
    write_detectron2(distinct_backbone(), path)
    yield path
    path.unlink()


def test_round_trip_is_bit_equal(written):
    assert len({tensor.numpy().tobytes() for tensor in distinct_backbone().state.values()}) == 318
    model, _ = read_detectron2(written)
    state = to_torchvision(model)
    assert list(state) == list(distinct_backbone().state)
    for name, tensor in distinct_backbone().state.items():
        assert state[name].dtype == tensor.dtype and state[name].shape == tensor.shape, name
        assert state[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def test_the_file_as_detectron2_reads_it(written):
    """detectron2/checkpoint/detection_checkpoint.py:71-76 of v0.6: plain pickle with latin1."""
    with written.open("rb") as file:
        content = pickle.load(file, encoding="latin1")
    assert set(content) == {"model", "__author__", "matching_heuristics", "metadata"}
    assert content["__author__"] != "Caffe2" and content["matching_heuristics"] is True
    assert list(content["model"]) == list(detectron2_names().values())
    for name, array in content["model"].items():
        assert type(array) is numpy.ndarray and array.flags.writeable, name
    counter = content["model"]["stem.conv1.norm.num_batches_tracked"]
    assert counter.shape == () and counter.dtype == numpy.int64
    assert (content["model"]["res5.2.conv3.norm.running_var"]
            == distinct_backbone().state["layer4.2.bn3.running_var"].numpy()).all()
    assert content["metadata"] == {
        "name": "distinct", "source_sha256": "0" * 64, "reader": "torchvision", "converter_version": 1,
        "INPUT.FORMAT": "RGB", "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375], "MODEL.RESNETS.STRIDE_IN_1X1": False}


def test_the_file_names_nothing_that_differs_between_versions_of_numpy(written):
    with written.open("rb") as file:
        called = [argument for opcode, argument, _ in pickletools.genops(file.read())
                  if opcode.name in ("GLOBAL", "SHORT_BINUNICODE") and "numpy" in str(argument)]
    assert called == ["numpy"], "only numpy.ndarray; numpy.core of NumPy 1 is numpy._core in NumPy 2"


def test_equal_backbones_give_equal_files(written, tmp_path):
    write_detectron2(distinct_backbone(), tmp_path / "again.pkl")
    assert (tmp_path / "again.pkl").read_bytes() == written.read_bytes()
    (tmp_path / "again.pkl").unlink()


def test_nothing_half_written_and_no_leftovers(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"older")
    with pytest.raises(ValueError, match="1 missing, first bn1.bias"):
        write_detectron2(with_state(distinct_backbone(), lambda state: state.pop("bn1.bias")), path)
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.pkl"] and path.read_bytes() == b"older"
    with replacing(path) as temporary:
        temporary.write_bytes(b"newer")
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.pkl"] and path.read_bytes() == b"newer"


def test_bad_places_to_write(tmp_path):
    with pytest.raises(ValueError, match="bt.pth: expected a name ending in .pkl"):
        write_detectron2(distinct_backbone(), tmp_path / "bt.pth")
    with pytest.raises(FileNotFoundError, match="the folder .*absent does not exist"):
        write_detectron2(distinct_backbone(), tmp_path / "absent" / "bt.pkl")


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("ran",)


class Getter:
    """getattr is the usual way out of a list of allowed names."""
    def __reduce__(self):
        return getattr, (numpy.ndarray, "tofile")


FOREIGN = {
    "malicious": (Malicious(), "refused, as it holds posix.mkdir, which may run code"),
    "getattr": (Getter(), "refused, as it holds builtins.getattr"),
    "array in NumPy's own way": (numpy.ones(3), "refused, as it holds numpy"),
    "list": ([1, 2], "TypeError"),
    "no metadata": ({"model": {}}, "KeyError: 'metadata'"),
    "of another author": ({"model": {}, "metadata": {}, "__author__": "Caffe2", "matching_heuristics": True},
                          "__author__"),
    "not arrays": ({"model": {"a": 1}, "metadata": {}, "__author__": "barlow-transfer",
                    "matching_heuristics": True}, "TypeError"),
}


@pytest.mark.parametrize("content, message", FOREIGN.values(), ids=FOREIGN)
def test_foreign_pickles_are_refused(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "foreign.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        read_detectron2(path)
    assert str(caught.value).startswith(f"{path}: expected a file of transfer/convert.py")
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("shape, dtype, buffer", [((2,), "|O", bytearray(16)), ((3,), "<f4", bytearray(8)),
                                                  ((10**12,), "<f4", bytearray(8))],
                         ids=["objects", "short buffer", "huge"])
def test_arrays_that_lie_are_refused(shape, dtype, buffer, tmp_path):
    class Lie:
        def __reduce__(self):
            return numpy.ndarray, (shape, dtype, buffer)
    path = tmp_path / "lie.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": Lie()}}, protocol=5))
    with pytest.raises(ValueError, match="(an array of type|reshape)"):
        read_detectron2(path)


def test_absent_empty_and_truncated(written, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.pkl: no such weights file"):
        read_detectron2(tmp_path / "absent.pkl")
    for content in (b"", written.read_bytes()[:1_000_000]):
        (tmp_path / "cut.pkl").write_bytes(content)
        with pytest.raises(ValueError, match="damaged or of another origin"):
            read_detectron2(tmp_path / "cut.pkl")


def test_arrays_become_tensors_without_a_warning(written, recwarn):
    model, _ = read_detectron2(written)
    model["stem.conv1.weight"].mul_(2)  # would warn, or crash, on read-only memory
    assert torch.equal(model["stem.conv1.weight"], 2 * distinct_backbone().state["conv1.weight"])
    assert not recwarn.list
