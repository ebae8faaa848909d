"""Frozen features on disk: the same as computed, found again, and never taken for others."""
import dataclasses
import os

import classification_toys as toys
import numpy as np
import pytest
import torch

from parallel.launch import launch
from parallel.packed import Pixels
from transfer.classification import cache, layouts
from transfer.classification.features import Pipeline
from transfer.classification.images import Images, normalised
from transfer.weights.architectures import ARCHITECTURES

CPU = torch.device("cpu")
SMALL = Pipeline(32)


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    root = toys.image_tree(tmp_path_factory.mktemp("data") / "set")
    return layouts.image_folder(root / "train")


@pytest.fixture
def context(tmp_path):
    return toys.context(tmp_path, tmp_path / "out", cache=tmp_path / "cache")


def no_network(*_):
    raise AssertionError("a cached set needs no network")


def features(train, context):
    return cache.collect(toys.backbone(), [train], SMALL, context, CPU)[0][0]


def test_the_second_time_no_network_runs(train, context, monkeypatch):
    first = features(train, context)
    monkeypatch.setattr(cache, "freeze", no_network)
    (second, labels), = cache.collect(toys.backbone(), [train], SMALL, context, CPU)
    assert torch.equal(first, second) and labels.tolist() == train.labels.tolist()
    assert [path.suffix for path in context.cache.rglob("*") if path.is_file()] == [".npy"]


def test_a_backbone_that_changes_meanwhile_is_an_error_and_nothing_is_kept(train, context, monkeypatch):
    extract = cache.extract

    def tamper(network, *others):
        found = extract(network, *others)
        next(network.parameters()).data[0] += 1e-3
        return found

    monkeypatch.setattr(cache, "extract", tamper)
    with pytest.raises(RuntimeError, match="frozen backbone changed during the run"):
        features(train, context)
    assert not context.cache.exists()


def test_labels_are_not_part_of_it(train, context, monkeypatch):
    first = features(train, context)
    monkeypatch.setattr(cache, "freeze", no_network)
    other = dataclasses.replace(train, labels=train.labels[::-1].copy())
    (second, labels), = cache.collect(toys.backbone(), [other], SMALL, context, CPU)
    assert torch.equal(first, second) and labels.tolist() == other.labels.tolist()


@pytest.mark.parametrize("changed", [
    "weights", "order", "pixels", "a file", "image_size", "resize", "pooling", "precision", "normalisation"])
def test_whatever_decides_the_features_is_in_the_name(train, tmp_path, changed):
    backbone, samples, pipeline = toys.backbone(), train, SMALL
    before = cache.place(tmp_path, backbone, samples, pipeline)
    if changed == "weights":
        backbone = dataclasses.replace(backbone, sha256="1" * 64)
    elif changed == "order":
        samples = train.subset(np.arange(len(train))[::-1], "")
    elif changed == "pixels":
        packed = [Pixels(np.full((len(train), 8, 8, 3), value, dtype=np.uint8), "toy") for value in (0, 1)]
        samples = dataclasses.replace(train, packed=packed[0])
        before = cache.place(tmp_path, backbone, samples, pipeline)
        samples = dataclasses.replace(train, packed=packed[1])
    elif changed == "a file":
        os.utime(train.path(0), (1, 1))
    else:
        value = {"image_size": 64, "resize": "squash", "pooling": "res5", "precision": "bfloat16",
                 "normalisation": "cifar"}[changed]
        pipeline = dataclasses.replace(SMALL, **{changed: value})
    assert cache.place(tmp_path, backbone, samples, pipeline) != before


@pytest.mark.parametrize("damage", [
    lambda content: content[:-7], lambda content: b"", lambda content: b"x" + content[1:],
    lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
], ids=["cut", "empty", "no npy", "one bit"])
def test_a_damaged_file_is_computed_anew(train, context, capsys, damage):
    first = features(train, context)
    path, = context.cache.rglob("*.npy")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert torch.equal(features(train, context), first)
    assert f"{path}: damaged features" in capsys.readouterr().out
    assert path.read_bytes() == whole


def test_features_that_are_not_finite_are_refused(train, context, monkeypatch):
    def damaged(network, pictures, *_):
        rows = torch.zeros(len(pictures), 2048)
        rows[-1, -1] = torch.inf
        return rows
    monkeypatch.setattr("transfer.classification.features.features_of", damaged)
    with pytest.raises(ValueError, match="train: features are not finite; the weights are damaged"):
        features(train, context)


def test_a_folder_that_cannot_be_written_costs_only_the_cache(train, context, capsys):
    context.cache.write_text("a file")
    assert features(train, context).shape == (len(train), 2048)
    assert "features are not kept" in capsys.readouterr().out


def two_ranks(train, context):
    """This rank's features, all of them, where they are kept, and how many files each rank asked for that."""
    found = cache.collect(toys.backbone(), [train], SMALL, context, CPU)[0][0]
    whole = cache.collect_all(toys.backbone(), [train], SMALL, context, CPU)[0]
    asked, path = [], layouts.Samples.path

    def watched(samples, index):
        asked.append(index)
        return path(samples, index)
    layouts.Samples.path = watched  # in a process of its own
    place = cache.place(context.cache, toys.backbone(), train, SMALL)
    return found, whole, place, cache.row_counts(len(asked))


def test_ranks_write_one_file_and_read_their_part_of_it(train, context, tmp_path, monkeypatch):
    own, (whole, labels), place, asked = launch(two_ranks, 2, train, context)
    assert asked == [7, 7] and place == cache.place(context.cache, toys.backbone(), train, SMALL)
    assert len(whole) == len(train) == 14 and torch.equal(whole[:7], own)
    assert labels.tolist() == train.labels.tolist()
    alone = features(train, dataclasses.replace(context, cache=None))
    assert torch.allclose(whole, alone, rtol=0, atol=1e-5 * alone.abs().max())
    monkeypatch.setattr(cache, "freeze", no_network)
    assert torch.equal(features(train, context), whole)


def test_slices_of_unequal_ranks(context, tmp_path, monkeypatch):
    """Three ranks of 5, 4 and 2 rows in slices of two, without processes: what each would have sent."""
    rows = torch.arange(11 * 2048.).view(11, 2048)
    parts = rows.split([5, 4, 2])
    sent = iter(range(0, 6, 2))
    monkeypatch.setattr(cache, "SLICE", 6)  # of all ranks together
    monkeypatch.setattr(cache, "world_size", lambda: 3)
    monkeypatch.setattr(cache, "row_counts", lambda count: [5, 4, 2])

    def all_gather(own, sizes):
        first = next(sent)
        assert len(own) == sizes[0]
        return torch.cat([part[first:first + 2] for part in parts])

    monkeypatch.setattr(cache, "all_gather_rows", all_gather)
    cache.write_features(tmp_path / "x.npy", parts[0], cache.row_type(2048, "float32"))
    assert np.array_equal(np.load(tmp_path / "x.npy")["features"], rows.numpy())


@pytest.mark.parametrize("arch", ["resnet50", "resnet18-small"])
def test_pooled_windows_of_res5(train, context, arch):
    """VISSL's layer: 6 x 6 averages of res5, in channel order."""
    pipeline = Pipeline(192, "squash", "res5", "float64")
    one = train.subset(np.arange(1), "one")
    (found, _), = cache.collect(toys.backbone(arch), [one], pipeline, context, CPU)
    pixels = Images(one, 192, augment=False, resize="squash")[0, 0][0]
    network = toys.plain_network(arch=arch).eval()
    maps = torch.nn.Sequential(*list(network.children())[:-2])
    with torch.no_grad():
        res5 = maps(normalised(pixels[None], CPU, torch.float64))
    expected = torch.nn.functional.avg_pool2d(res5, 6, 1).flatten(1)
    assert found.shape == (1, pipeline.dimensions(ARCHITECTURES[arch])) == expected.shape
    assert torch.allclose(found, expected, rtol=1e-9)
    assert Pipeline(224, pooling="res5").dimensions(ARCHITECTURES["resnet50"]) == 8192


def test_features_under_another_name_are_not_taken(train, context, tmp_path, capsys):
    """Two files with as many rows, exchanged; and a file whose rows changed places."""
    other = dataclasses.replace(train, names=train.names[::-1].copy())
    found = [features(one, context) for one in (train, other)]
    paths = [cache.place(context.cache, toys.backbone(), one, SMALL) for one in (train, other)]
    paths[0].rename(tmp_path / "x")
    paths[1].rename(paths[0])
    (tmp_path / "x").rename(paths[1])
    for one, path, expected in zip((train, other), paths, found, strict=True):
        assert torch.equal(features(one, context), expected)
        assert f"{path}: damaged features (a wrong check sum" in capsys.readouterr().out
    rows = np.load(paths[0])
    np.save(paths[0], rows[::-1])
    assert torch.equal(features(train, context), found[0])
    assert "a wrong check sum" in capsys.readouterr().out


def test_two_readings_of_one_file_of_weights_have_two_names(train, tmp_path):
    other = dataclasses.replace(toys.backbone(), format="another")
    assert cache.place(tmp_path, other, train, SMALL) != cache.place(tmp_path, toys.backbone(), train, SMALL)
