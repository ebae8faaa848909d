"""The files for others: what is in each, how others load it, that the way back is bit-equal."""
import os
import pickle
import pickletools

import numpy
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_weights_naming import described
from weights_toys import distinct_backbone, with_state

from transfer.weights.architectures import RESNET50
from transfer.weights.backbone import Backbone
from transfer.weights.export import metadata, read_written, tensors_of, write, write_detectron2
from transfer.weights.readers import read

NOTES = {"name": "distinct", "source_sha256": "0" * 64, "reader": "torchvision", "converter_version": 2,
         "INPUT.FORMAT": "RGB", "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
         "MODEL.PIXEL_STD": [58.395, 57.12, 57.375], "MODEL.RESNETS.STRIDE_IN_1X1": False}
FILES = [("detectron2", ".pkl"), ("detectron2", ".pth"), ("detectron2", ".safetensors"),
         ("torchvision", ".pth"), ("torchvision", ".safetensors")]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """{(layout, ending): path}; timm's files are torchvision's."""
    folder = tmp_path_factory.mktemp("export")
    paths = {(layout, ending): folder / f"{layout}{ending}" for layout, ending in FILES}
    for (layout, _), path in paths.items():
        write(tensors_of(distinct_backbone(), layout), metadata(distinct_backbone()), path, layout)
    yield paths
    for path in paths.values():
        path.unlink()


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes(), name


@pytest.mark.parametrize("layout, ending", FILES)
def test_the_way_back_is_bit_equal(layout, ending, written):
    """torchvision -> each file -> torchvision, through the readers."""
    assert len({tensor.numpy().tobytes() for tensor in distinct_backbone().state.values()}) == 318
    backbone = read(written[layout, ending])
    assert backbone.format == layout
    same(backbone.state, distinct_backbone().state)


def test_the_pickle_is_what_the_reference_procedure_describes(written):
    """docs/protocols.md#conversion, items 2 to 7, written anew; read as Detectron2 does, plain and latin1
    (detectron2/checkpoint/detection_checkpoint.py:71-76 of v0.6)."""
    with written["detectron2", ".pkl"].open("rb") as file:
        content = pickle.load(file, encoding="latin1")
    assert set(content) == {"model", "__author__", "matching_heuristics", "metadata"}
    assert content["__author__"] != "Caffe2" and content["matching_heuristics"] is True
    assert content["metadata"] == NOTES
    assert set(content["model"]) == set(described().values())
    for old, new in described().items():
        array, tensor = content["model"][new], distinct_backbone().state[old]
        assert type(array) is numpy.ndarray and array.flags.writeable, new
        assert array.shape == tuple(tensor.shape), new
        assert array.tobytes() == tensor.numpy().tobytes(), new
    counter = content["model"]["stem.conv1.norm.num_batches_tracked"]
    assert counter.shape == () and counter.dtype == numpy.int64


def test_pth_and_safetensors_for_detectron2_hold_the_same(written):
    content = torch.load(written["detectron2", ".pth"], weights_only=True)
    assert {key: value for key, value in content.items() if key != "model"} == {
        "__author__": "barlow-transfer", "matching_heuristics": True, "metadata": NOTES}
    wanted = {new: distinct_backbone().state[old] for old, new in described().items()}
    same(content["model"], wanted)
    same(load_file(written["detectron2", ".safetensors"]), wanted)


def test_files_for_torchvision_and_timm_load_as_plain_state_dicts(written):
    network = RESNET50.network()
    network.load_state_dict(torch.load(written["torchvision", ".pth"], weights_only=True), strict=True)
    same(network.state_dict(), distinct_backbone().state)
    same(load_file(written["torchvision", ".safetensors"]), distinct_backbone().state)


@pytest.mark.parametrize("layout", ["detectron2", "torchvision"])
def test_safetensors_carry_their_metadata(layout, written):
    with safe_open(written[layout, ".safetensors"], "pt") as file:
        assert set(file.metadata()) == {"metadata"} and '"INPUT.FORMAT": "RGB"' in file.metadata()["metadata"]
    assert read_written(written[layout, ".safetensors"])[1] == NOTES


def test_others_may_read_the_files_as_far_as_the_umask_lets_them(written, tmp_path):
    (tmp_path / "plain").touch()
    assert {path.stat().st_mode for path in written.values()} == {(tmp_path / "plain").stat().st_mode}


def test_the_encoder_is_named_where_one_was_chosen():
    backbone = Backbone("m", "moco:key", {}, "1" * 64, "m.pth")
    notes = metadata(backbone)
    assert (notes["reader"], notes["encoder"]) == ("moco", "key") and "encoder" not in NOTES


def test_the_pickle_names_nothing_that_differs_between_versions_of_numpy(written):
    with written["detectron2", ".pkl"].open("rb") as file:
        called = [argument for opcode, argument, _ in pickletools.genops(file.read())
                  if opcode.name in ("GLOBAL", "SHORT_BINUNICODE") and "numpy" in str(argument)]
    assert called == ["numpy"], "only numpy.ndarray; numpy.core of NumPy 1 is numpy._core in NumPy 2"


@pytest.mark.parametrize("layout, ending", FILES)
def test_equal_backbones_give_equal_files(layout, ending, written, tmp_path):
    path = tmp_path / f"again{ending}"
    write(tensors_of(distinct_backbone(), layout), metadata(distinct_backbone()), path, layout)
    assert path.read_bytes() == written[layout, ending].read_bytes()
    path.unlink()


def test_nothing_half_written_and_no_leftovers(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"older")
    with pytest.raises(ValueError, match="1 others, first extra"):
        write_detectron2(with_state(distinct_backbone(), lambda state: state.update(extra=0)), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.pkl"] and path.read_bytes() == b"older"


def test_bad_places_to_write(tmp_path):
    state = distinct_backbone().state
    with pytest.raises(ValueError, match="bt.pt: expected a name ending in .pkl, .pth, .safetensors for de"):
        write_detectron2(distinct_backbone(), tmp_path / "bt.pt")
    with pytest.raises(ValueError, match="bt.pkl: expected a name ending in .pth, .safetensors for timm"):
        write(state, NOTES, tmp_path / "bt.pkl", "timm")
    with pytest.raises(FileNotFoundError, match="the folder .*absent does not exist"):
        write_detectron2(distinct_backbone(), tmp_path / "absent" / "bt.pkl")


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("ran",)


OURS = {"metadata": {}, "__author__": "barlow-transfer", "matching_heuristics": True}
FOREIGN = {
    "malicious": ({"model": {"a": Malicious()}, **OURS}, "refused, as it holds posix.mkdir"),
    "list": ([1, 2], "found one of another origin"),
    "no metadata": ({"model": {}}, "found one of another origin"),
    "of another author": ({"model": {}, **OURS, "__author__": "Caffe2"}, "found one of another origin"),
    "without heuristics": ({"model": {}, **OURS, "matching_heuristics": False}, "of another origin"),
}


@pytest.mark.parametrize("content, message", FOREIGN.values(), ids=FOREIGN)
def test_foreign_pickles_are_refused(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "foreign.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        read_written(path)
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()
