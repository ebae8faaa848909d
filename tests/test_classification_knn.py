"""kNN against brute force."""
import dataclasses
import json
import math

import classification_toys as toys
import numpy as np
import pytest
import torch
from PIL import Image

from transfer.classification import images as data
from transfer.classification import knn, layouts
from transfer.classification.datasets import halves

SMALL = knn.Config(k=(1, 3), image_size=32, precision="float64")


def brute_force(bank, bank_labels, query, k, temperature, classes):
    """The rule in plain Python: cosine, sort, weigh, vote."""
    def cosine(one, two):
        return (one @ two / (one.norm() * two.norm())).item()

    near = [(cosine(row, query), label) for row, label in zip(bank, bank_labels.tolist())]
    near = sorted(near, reverse=True)[:k]
    votes = [sum(math.exp(similarity / temperature) for similarity, label in near if label == number)
             for number in range(classes)]
    return votes.index(max(votes))


def test_votes_equal_brute_force(monkeypatch):
    monkeypatch.setattr(knn, "QUERIES", 4)  # several chunks, the last one smaller
    monkeypatch.setattr(knn, "BLOCK", 7)
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (40,), generator=draw)
    bank = torch.randn(40, 8, generator=draw, dtype=torch.float64)
    bank += 0.5 * torch.nn.functional.one_hot(labels, 8)
    queries = torch.randn(11, 8, generator=draw, dtype=torch.float64)
    votes = knn.predict(bank, labels, queries, 4, (1, 5, 40), (0.07, 5.0), torch.device("cpu"))
    assert len(votes) == 6
    for (k, temperature), found in votes.items():
        assert found.tolist() == [brute_force(bank, labels, query, k, temperature, 4) for query in queries]
    assert not torch.equal(votes[1, 0.07], votes[5, 0.07])  # k matters here, and so does the temperature
    assert not torch.equal(votes[40, 0.07], votes[40, 5.0])


def test_votes_by_euclidean_distance_equal_brute_force(monkeypatch):
    """solo/utils/knn.py of solo-learn in plain Python: features as they are, 1 / (distance + 1e-5)."""
    monkeypatch.setattr(knn, "QUERIES", 4)
    monkeypatch.setattr(knn, "BLOCK", 7)
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (40,), generator=draw)
    bank, queries = (torch.randn(count, 2, generator=draw, dtype=torch.float64) for count in (40, 50))
    votes = knn.predict(bank, labels, queries, 4, (1, 5, 40), (0.07,), torch.device("cpu"), "euclidean")
    for (k, _), found in votes.items():
        for query, vote in zip(queries, found.tolist()):
            near = sorted((math.dist(row, query), label)
                          for row, label in zip(bank.tolist(), labels.tolist()))
            wanted = [sum(1 / (distance + 1e-5) for distance, label in near[:k] if label == number)
                      for number in range(4)]
            assert vote == wanted.index(max(wanted))
    cosine = knn.predict(bank, labels, queries, 4, (5,), (0.07,), torch.device("cpu"))
    assert not torch.equal(votes[5, 0.07], cosine[5, 0.07])


def test_beside_the_bank_there_is_only_a_block_of_it(monkeypatch):
    """ImageNet's is 10.5 GB; benchmarks/knn.py measures the bytes."""
    normalize, copied = torch.nn.functional.normalize, []

    def watched(rows, dim):
        copied.append(len(rows))
        return normalize(rows, dim=dim)
    monkeypatch.setattr(knn.functional, "normalize", watched)
    monkeypatch.setattr(knn, "BLOCK", 7)
    bank = torch.eye(40)
    votes = knn.predict(bank, torch.arange(40), torch.eye(40)[:3], 40, (1,), (0.07,), torch.device("cpu"))
    assert votes[1, 0.07].tolist() == [0, 1, 2]
    assert copied == [3, 7, 7, 7, 7, 7, 5] and torch.equal(bank, torch.eye(40))


def test_a_small_temperature_does_not_overflow():
    bank, labels = torch.eye(3), torch.tensor([2, 0, 1])
    votes = knn.predict(bank, labels, torch.eye(3), 3, (3,), (1e-4,), torch.device("cpu"))
    assert votes[3, 1e-4].tolist() == [2, 0, 1]


@pytest.mark.parametrize("arch", ["resnet50", "resnet18-cifar"])
def test_run_on_images(tmp_path, arch):
    toys.image_tree(tmp_path / "imagenet")
    context = toys.context(tmp_path, tmp_path / "out")
    metrics = knn.run(toys.backbone(arch), dataclasses.replace(SMALL, temperature=(0.07, 1.0)), context)
    network = toys.plain_network(arch=arch).eval()
    pooled = []
    for samples in layouts.split_pair(tmp_path / "imagenet"):
        images = data.Images(samples, 32, augment=False)
        pixels = torch.stack([images[0, index][0] for index in range(len(images))])
        with torch.no_grad():
            pooled.append((network(data.normalised(pixels, torch.device("cpu"), torch.float64)),
                           torch.from_numpy(samples.labels)))
    (bank, labels), (queries, truth) = pooled
    for k in SMALL.k:
        for temperature, name in ((0.07, f"top1_k{k}"), (1.0, f"top1_k{k}_t1")):
            found = torch.tensor([brute_force(bank, labels, query, k, temperature, 3) for query in queries])
            assert metrics[name] == 100 * (found == truth).sum().item() / 8
    kept = json.loads((context.out / "record" / "confusion.json").read_text())
    nearest = [brute_force(bank, labels, query, 1, 0.07, 3) for query in queries]
    assert kept["classes"] == list(toys.CLASSES)
    assert kept["matrix"] == [[sum(pair == (row, column) for pair in zip(truth.tolist(), nearest))
                               for column in range(3)] for row in range(3)]
    assert (context.out / "log.txt").read_text().startswith('{"k": [1, 3], "top1_k1": ')


def test_a_small_set_has_one_figure_by_the_vote_of_mixed_barlow_twins(tmp_path):
    """200 neighbours weighed by exp(similarity / 0.5) (mix-bt, main.py), here 5 at 32 pixels as they are."""
    toys.image_tree(tmp_path / "cifar10")
    config = knn.CIFAR10.override(["k", "5", "temperature", "0.5,0.1", "precision", "float64",
                                   "normalisation", "cifar"])
    metrics = knn.run(toys.backbone("resnet18-cifar"), config, toys.context(tmp_path, tmp_path / "out"))
    network, pooled = toys.plain_network(arch="resnet18-cifar").eval(), []
    mean, std = torch.tensor([[0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]]).double()[..., None, None]
    for samples in halves(tmp_path, "cifar10").values():
        pictures = [Image.open(samples.path(row)).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
                    for row in range(len(samples))]
        pixels = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in pictures])
        with torch.no_grad():
            pooled.append((network((pixels.double() / 255 - mean) / std), torch.from_numpy(samples.labels)))
    (bank, labels), (queries, truth) = pooled
    for temperature, name in ((0.5, "top1"), (0.1, "top1_k5_t0.1")):
        found = torch.tensor([brute_force(bank, labels, query, 5, temperature, 3) for query in queries])
        assert metrics[name] == 100 * (found == truth).sum().item() / 8
    assert list(metrics) == ["top1", "top1_k5_t0.1"]


def test_the_small_sets_have_the_votes_of_their_sources():
    """Golden: mix-bt's main.py and utils.py; lightly's imagenet100_benchmark.py."""
    votes = (200,), (0.5,)
    assert knn.CIFAR10 == knn.Small("cifar10", *votes, 32, "float32", "default", "stretch", "imagenet")
    assert knn.CIFAR100 == dataclasses.replace(knn.CIFAR10, dataset="cifar100")
    assert knn.TINY_IMAGENET == dataclasses.replace(knn.CIFAR10, dataset="tiny_imagenet", image_size=64)
    assert knn.STL10 == knn.Small("stl10", *votes, 64, "float32", "default", "bicubic_crop", "imagenet")
    assert knn.IMAGENET100 == knn.Small("imagenet100", (20,), (0.1,), 224, "float32", "default", "bilinear")
    solo = (0.07, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    for config, changes in ((knn.CIFAR10, {}), (knn.TINY_IMAGENET, {}),
                            (knn.STL10, {"image_size": 96, "resize": "stretch"}),
                            (knn.IMAGENET100, {"resize": "crop"})):
        assert config.override(["preset", "solo"]) == dataclasses.replace(
            config, k=(20,), temperature=solo, preset="solo", **changes)
        assert config.override(["preset", "default"]) == config
    assert knn.STL10.override(["preset", "lightly"]).temperature == (0.1,)


@pytest.mark.parametrize("changes, message", [
    ({"k": (3, 15)}, r"k: expected values up to the 14 training images of .*train, found \(3, 15\)"),
    ({"precision": "int8"}, "precision: expected one of"),
    ({"distance": "manhattan"}, "distance: expected one of cosine, euclidean, found 'manhattan'"),
])
def test_errors(tmp_path, changes, message):
    toys.image_tree(tmp_path / "imagenet")
    config = dataclasses.replace(knn.Small("imagenet", k=(1, 3)), **changes)
    context = toys.context(tmp_path, tmp_path / "out")
    for function in (lambda: knn.data(config, context), lambda: knn.run(toys.backbone(), config, context)):
        with pytest.raises(ValueError, match=message):
            function()


def test_defaults():
    """Golden: VICReg's two k, mmselfsup's temperature."""
    assert knn.Config() == knn.Config("imagenet", (20, 200), (0.07,), 224, "float32", "default")


@pytest.mark.parametrize("preset, ks, temperatures", [
    ("mmselfsup", (10, 20, 100, 200), (0.07,)), ("lightly", (200,), (0.1,)), ("mixed_bt", (200,), (0.5,)),
    ("solo", (20,), (0.07, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0))])
def test_presets(preset, ks, temperatures):
    """Golden: the sources that knn.Config.PRESETS names. The first temperature is that of top1_k<k>."""
    config = knn.Config().override(["preset", preset])
    assert config == knn.Config(k=ks, temperature=temperatures, preset=preset)
