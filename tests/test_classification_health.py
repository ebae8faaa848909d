"""The effective rank that every classification record has beside it, and of which pictures it is."""
import dataclasses
import json

import classification_toys as toys
import numpy as np
import pytest
import torch

from transfer.classification import health, images, layouts
from transfer.classification.features import Pipeline
from transfer.classification.journal import Journal
from transfer.tasks import TASKS


def kept(context):
    return json.loads((context.out / "record" / "features.json").read_text())


def plain_rank(samples, chosen, side=32):
    """RankMe of the network as torchvision runs it, by NumPy in float64."""
    pictures = images.Images(samples, side, augment=False)
    pixels = torch.stack([pictures[0, index][0] for index in chosen])
    with torch.no_grad():
        network = toys.plain_network(arch="resnet18").eval()
        features = network(images.normalised(pixels, torch.device("cpu"), torch.float64))
    sigma = np.linalg.svd(features.numpy(), compute_uv=False)
    p = sigma / sigma.sum() + 1e-7
    return np.exp(-(p * np.log(p)).sum())


TINY = {"image_size": 32, "precision": "float64"}
CONFIGS = {"imagenet_linear": TINY | {"epochs": 1, "batch_size": 7},
           "imagenet_semi1": TINY | {"split": "draw:100%", "epochs": 1, "batch_size": 7},
           "imagenet_knn": TINY | {"k": (1,)}, "cifar10_probe": TINY | {"resize": "crop", "strengths": 2}}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_record_has_the_rank_of_its_training_pictures(tmp_path, monkeypatch, name):
    """Of evenly spaced ones where there are too many; fine-tuning's is of the network that it begins with."""
    toys.image_tree(tmp_path / "imagenet")
    (tmp_path / "cifar10").symlink_to("imagenet")
    task, context = TASKS[name], toys.context(tmp_path, tmp_path / "out")
    monkeypatch.setattr(health, "MOST", 5)
    monkeypatch.setattr(health, "FEW", 5)
    task.protocol.run(toys.backbone("resnet18"), dataclasses.replace(task.config, **CONFIGS[name]), context)
    train, _ = layouts.split_pair(tmp_path / "imagenet")
    chosen = [0, 2, 5, 8, 11]  # of 14
    assert kept(context) == {"features": 512, "pictures": 5,
                             "effective_rank": pytest.approx(plain_rank(train, chosen), abs=1e-4)}
    assert '{"effective_rank": ' in (context.out / "log.txt").read_text()


@pytest.mark.parametrize("name", ["voc07_svm", "voc07_lowshot"])
def test_so_has_a_record_of_svms(tmp_path, name):
    toys.voc_tree(tmp_path / "VOC2007")
    task, context = TASKS[name], toys.context(tmp_path, tmp_path / "out")
    shots = {"shots": (1,)} if name == "voc07_lowshot" else {}
    config = dataclasses.replace(task.config, **TINY, costs=(1.0,), **shots)
    task.protocol.run(toys.backbone("resnet18"), config, context)
    train = layouts.voc(tmp_path / "VOC2007", "trainval")
    assert kept(context) == {"features": 512, "pictures": 18,
                             "effective_rank": pytest.approx(plain_rank(train, range(18)), abs=1e-4)}


def test_a_collapsed_network_is_told_from_one_that_is_not(tmp_path):
    """Each picture has the same features: the last batch norms only add."""
    samples = layouts.image_folder(toys.image_tree(tmp_path) / "train")
    sound = toys.backbone("resnet18")
    dead = dict(sound.state)
    for norm in ("0.bn2", "0.downsample.1", "1.bn2"):
        dead[f"layer4.{norm}.weight"] = torch.zeros(512)
    ranks = []
    for backbone in (sound, dataclasses.replace(sound, state=dead)):
        context = toys.context(tmp_path, tmp_path / "out")
        health.keep_rank_of(backbone, samples, Pipeline(32), context, torch.device("cpu"), Journal(context))
        ranks.append(kept(context)["effective_rank"])
    assert ranks[0] > 1.01 and ranks[1] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("layout, count", [
    (lambda root: toys.image_tree(root), 14),
    (lambda root: toys.image_tree(root) / "val", 8),
    (lambda root: toys.image_tree(root / "ILSVRC/Data/CLS-LOC") and root, 14),
    (lambda root: toys.voc_tree(root), 18),
    (lambda root: (toys.image_tree(root / "x"), (root / "train.txt").write_text("x/val/boat/boat_0.JPEG 0\n"))
     and root, 1),
    (lambda root: [toys.picture(root / f"{n}.png", 0, n) for n in range(3)] and root, 3),
], ids=["train and val", "classes", "Kaggle's", "VOC", "a list", "no classes"])
def test_pictures_in_any_layout_without_labels(tmp_path, layout, count):
    samples = health.pictures(layout(tmp_path))
    assert len(samples) == count and all(samples.path(index).is_file() for index in range(count))


def test_folders_without_pictures_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError, match="expected pictures in it or below, found none"):
        health.pictures(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        health.pictures(tmp_path / "b")
