"""The linear protocol against a plain loop and over an interruption, its defaults and its errors."""
import dataclasses
import functools
import json

import classification_toys as toys
import pytest
import torch
from torch import nn
from torch.nn import functional

from parallel.mappings import differences
from transfer.classification import features, heads, layouts, linear, training
from transfer.classification import images as data

SMALL = linear.Config(epochs=2, batch_size=4, image_size=32, precision="float64")


def trained(config, context):
    """(metrics, head state, history) of a run."""
    metrics = linear.run(toys.backbone(), config, context)
    saved = torch.load(context.out / "checkpoint.pth", weights_only=True)
    return metrics, saved["heads"], saved["history"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    toys.image_tree(root / "imagenet")
    return root


ADAM = linear.Small("imagenet", epochs=2, batch_size=4, precision="float64", normalisation="cifar",
                    drop_factor=1e-2, weight_decay=0.1)


@pytest.mark.parametrize("config", [
    SMALL,
    dataclasses.replace(SMALL, schedule="step", drop_epochs=(1,), drop_factor=0.1, nesterov=True,
                        weight_decay=0.1, batch_norm=True, crop_scale=(0.5, 0.6)),
    ADAM,
    dataclasses.replace(ADAM, schedule="step", drop_epochs=(), augmentation="colour_bicubic",
                        resize="bicubic_crop"),
], ids=["cosine", "steps, batch norm, crops", "Adam, falling rate", "Adam, constant rate, other images"])
def test_head_equals_a_plain_loop(root, tmp_path, config):
    """The protocol written down step by step: unfolded eval-mode network, torch's optimiser and scheduler."""
    context = toys.context(root, tmp_path)
    metrics, head, history = trained(config, context)
    train, val = layouts.split_pair(root / "imagenet")
    network = toys.plain_network().eval()
    layer = nn.Linear(2048, 3)
    torch.nn.init.normal_(layer.weight, 0, 0.01, generator=torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(layer.bias)
    plain = nn.Sequential(*[nn.BatchNorm1d(2048, affine=False)] * config.batch_norm, layer).double()
    adam = isinstance(config, linear.Small)
    optimizer = (torch.optim.Adam(plain.parameters(), 0.01, weight_decay=0.1) if adam else
                 torch.optim.SGD(plain.parameters(), 0.3, momentum=0.9, nesterov=config.nesterov,
                                 weight_decay=config.weight_decay))
    schedulers = torch.optim.lr_scheduler
    scheduler = (schedulers.CosineAnnealingLR(optimizer, 2) if config.schedule == "cosine" else
                 schedulers.ExponentialLR(optimizer, 0.1) if config.schedule == "exponential" else
                 schedulers.MultiStepLR(optimizer, [9 if adam else 1], 0.1))
    normalised = functools.partial(data.normalised, device=torch.device("cpu"), dtype=torch.float64,
                                   normalisation=config.normalisation)
    batches = data.TrainBatches(len(train), 4, seed=0)
    crops = data.Images(train, 32, augment=True, seed=0, crop_scale=config.crop_scale,
                        augmentation=config.augmentation)
    loader = data.loader(crops, batches, context)
    for batches.epoch in range(2):
        plain.train()
        for images, labels, _ in data.batches_of(loader):
            with torch.no_grad():
                pooled = network(normalised(images))
            optimizer.zero_grad()
            functional.cross_entropy(plain(pooled), labels).backward()
            optimizer.step()
        scheduler.step()
    plain.eval()
    tests = data.Images(val, 32, augment=False, resize=config.resize)
    images = torch.stack([tests[0, index][0] for index in range(len(val))])
    with torch.no_grad():
        pooled = network(normalised(images))
        ours = heads.make_heads(config, 2048, 3, 0, torch.device("cpu"))
        ours.load_state_dict(head)
        expected = plain(pooled)
        assert (ours.eval()(pooled)[0] - expected).abs().max() < 1e-6 < expected.abs().max()
    hits = (expected.argmax(1) == torch.from_numpy(val.labels)).sum().item()
    assert metrics == {"top1": 100 * hits / 8, "top5": 100.0,
                       "best_top1": max(row["top1"] for row in history)}
    kept = {name: json.loads((context.out / "record" / f"{name}.json").read_text())
            for name in ("curve", "per_class", "confusion")}
    assert kept["curve"] == [{"epoch": 1, **history[0]}, {"epoch": 2, **history[1]}]
    matrix = [[0] * 3 for _ in range(3)]
    for truth, called in zip(val.labels, expected.argmax(1).tolist()):
        matrix[truth][called] += 1
    assert kept["confusion"] == {"classes": list(toys.CLASSES), "matrix": matrix}
    assert kept["per_class"]["cat"] == {"top1": 100 * matrix[2][2] / 2} and len(kept["per_class"]) == 3


@pytest.mark.parametrize("arch", ["resnet50", "resnet18-cifar", "resnet34-small", "resnext50_32x4d"])
def test_folded_network_equals_the_plain_one_in_float32(arch):
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=draw)
    device = torch.device("cpu")
    folded = features.freeze(toys.backbone(arch), device)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    plain = toys.plain_network(torch.float32, arch).eval()(data.normalised(images, device)).detach()
    ours = features.features_of(folded, images, device, "float32")
    assert (ours - plain).norm() < 2e-6 * plain.norm()


@pytest.mark.parametrize("config", [
    dataclasses.replace(SMALL, epochs=3, batch_norm=True), dataclasses.replace(ADAM, epochs=3)],
    ids=["SGD", "Adam"])
def test_an_interrupted_run_continues_exactly(root, tmp_path, monkeypatch, config):
    whole = trained(config, toys.context(root, tmp_path / "whole"))
    context = toys.context(root, tmp_path / "broken")
    save = training.Checkpoint.save

    def save_once(self, history, *more):
        save(self, history, *more)
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Checkpoint, "save", save_once)
    with pytest.raises(KeyboardInterrupt):
        linear.run(toys.backbone(), config, context)
    monkeypatch.undo()
    again = dataclasses.replace(context, resume=True)
    resumed = trained(config, again)
    assert resumed[0] == whole[0] and resumed[2] == whole[2] and len(whole[2]) == 3
    assert all(torch.equal(tensor, resumed[1][name]) for name, tensor in whole[1].items())
    monkeypatch.setattr(linear, "train_epoch", None)  # a finished run is not trained again
    assert linear.run(toys.backbone(), config, again) == whole[0]
    lines = [json.loads(line) for line in (context.out / "log.txt").read_text().splitlines()]
    assert "effective_rank" in lines.pop(0)
    assert [line["epoch"] for line in lines] == [2, 3]  # epoch 1 was cut off before its line
    with pytest.raises(ValueError, match="checkpoint.pth: it is of batch_size 4, now 2; "):
        linear.run(toys.backbone(), dataclasses.replace(config, batch_size=2), again)
    (context.out / "checkpoint.pth").write_bytes(b"PK")
    with pytest.raises(ValueError, match="checkpoint.pth: cannot be read as a checkpoint .*; remove it"):
        linear.run(toys.backbone(), config, again)


def test_a_changed_backbone_is_noticed():
    network = features.freeze(toys.backbone(), torch.device("cpu"))
    features.assert_frozen(network, toys.backbone(), "float32")
    with torch.no_grad():
        network.layer4[2].conv3.bias[7] += 1e-7 + 1e-6 * network.layer4[2].conv3.bias[7].abs()
    with pytest.raises(RuntimeError, match="layer4.2.conv3.bias"):
        features.assert_frozen(network, toys.backbone(), "float32")


def test_a_backbone_that_changes_in_a_run_is_an_error(root, tmp_path, monkeypatch):
    train_epoch = linear.train_epoch

    def tamper(network, *others):
        train_epoch(network, *others)
        next(network.parameters()).data[0] += 1e-6

    monkeypatch.setattr(linear, "train_epoch", tamper)
    with pytest.raises(RuntimeError, match="frozen backbone changed during the run"):
        linear.run(toys.backbone(), dataclasses.replace(SMALL, epochs=1), toys.context(root, tmp_path))


def test_defaults_are_the_papers():
    """Golden: P B.1 with evaluate.py; P C.1 with VISSL's schedule."""
    assert linear.IMAGENET == linear.Config(
        "imagenet", 100, 256, 0.3, 0.9, False, 1e-6, "cosine", (60, 80), 0.1, False, 0.01, 224, (0.08, 1.0),
        "float32", (), (), 0.1, "default")
    for config, name, epochs, drops in ((linear.PLACES205, "places205", 14, (4, 8, 12)),
                                        (linear.INAT18, "inat18", 84, (24, 48, 72))):
        assert config == linear.Config(name, epochs, 256, 0.01, 0.9, True, 5e-4, "step", drops, 0.1, True)
        rates = [config.learning_rate * training.schedule_factor(config, epoch) for epoch in range(epochs)]
        assert rates[drops[0] - 1] == 0.01 and rates[drops[0]] == pytest.approx(1e-3)
        assert rates[-1] == pytest.approx(1e-5)
    cosine = [0.3 * training.schedule_factor(linear.IMAGENET, epoch) for epoch in (0, 50, 99)]
    assert cosine == pytest.approx([0.3, 0.15, 0.3 * 0.000246719], rel=1e-5)
    changed = linear.INAT18.override(["drop_epochs", "1,2", "batch_norm", "false"]).resolved()
    assert changed["drop_epochs"] == [1, 2] and changed["batch_norm"] is False


def test_the_small_sets_have_the_protocols_of_their_sources():
    """Golden: linear.py of mix-bt, whose rate falls from 1e-2 to 1e-6 over 200 epochs; barlow.yaml of
    solo-learn."""
    assert linear.CIFAR10 == linear.Small(
        "cifar10", 200, 512, 0.01, 0.9, False, 5e-6, "exponential", (60, 80), 1e-4, False, 0.01, 32,
        (0.08, 1.0), "float32", (), (), 0.1, "default", "adam", "colour", "stretch", "imagenet")
    rates = [linear.CIFAR10.learning_rate * training.schedule_factor(linear.CIFAR10, epoch)
             for epoch in range(201)]
    assert rates[0] == 0.01 and rates[100] == pytest.approx(1e-4) and rates[200] == pytest.approx(1e-6)
    found = {config.dataset: differences(linear.CIFAR10.resolved(), config.resolved())
             for config in (linear.CIFAR100, linear.TINY_IMAGENET, linear.STL10)}
    sixty_four = {"image_size": 64, "augmentation": "colour_bicubic", "crop_scale": [0.2, 1.0]}
    for name, changes in (("cifar100", {}), ("tiny_imagenet", sixty_four),
                          ("stl10", {**sixty_four, "resize": "bicubic_crop"})):
        assert {key: used for key, (_, used) in found[name].items()} == {"dataset": name, **changes}
    found = differences(linear.IMAGENET.resolved(), linear.IMAGENET100.resolved())
    assert {key: used for key, (_, used) in found.items()} == {
        "dataset": "imagenet100", "learning_rate": 0.1, "weight_decay": 0.0, "schedule": "step",
        "optimiser": "sgd", "augmentation": "crop", "resize": "crop", "normalisation": "imagenet"}


@pytest.mark.parametrize("config, preset, changes", [
    *((config, "hsic", {"learning_rate": 1e-3, "weight_decay": 1e-6, "schedule": "step", "drop_epochs": []})
      for config in (linear.CIFAR10, linear.CIFAR100, linear.TINY_IMAGENET, linear.STL10)),
    *((config, "solo", {"epochs": 100, "batch_size": 128, "optimiser": "sgd", "learning_rate": 0.1,
                        "weight_decay": 0.0, "schedule": "step", "drop_factor": 0.1, "augmentation": "crop"})
      for config in (linear.CIFAR10, linear.CIFAR100)),
    *((linear.IMAGENET100, name, {"learning_rate": rate}) for name, rate in (
        ("byol", 0.3), ("dino", 0.3), ("mocov3", 0.3), ("nnclr", 0.3), ("vibcreg", 0.3), ("vicreg", 0.3),
        ("deepclusterv2", 0.15), ("swav", 0.15), ("mocov2plus", 3.0), ("ressl", 3.0), ("simclr", 1.0),
        ("simsiam", 30.0))),
    (linear.IMAGENET, "first_release", {"learning_rate": 0.1}),
    (linear.IMAGENET, "moco", {"learning_rate": 30.0, "weight_decay": 0.0, "schedule": "step"}),
    (linear.IMAGENET, "vicreg", {"learning_rate": 0.02, "crop_scale": [0.2, 1.0]}),
    (linear.IMAGENET, "solo", {"weight_decay": 1e-5, "schedule": "step"}),
    (linear.IMAGENET, "lightly", {"epochs": 90, "learning_rate": 0.1, "weight_decay": 0.0}),
    (linear.IMAGENET, "vissl", {"epochs": 28, "learning_rate": 0.01, "nesterov": True, "weight_decay": 5e-4,
                                "schedule": "step", "drop_epochs": [8, 16, 24], "batch_norm": True}),
    (linear.PLACES205, "swav", {"epochs": 28, "drop_epochs": [7, 14, 21], "weight_decay": 1e-4,
                                "nesterov": False}),
    (linear.PLACES205, "vicreg", {"epochs": 28, "learning_rate": 0.003, "weight_decay": 1e-4,
                                  "nesterov": False}),
    (linear.PLACES205, "mmselfsup", {"epochs": 28, "drop_epochs": [7, 14, 21], "weight_decay": 1e-4}),
    (linear.INAT18, "swav", {"drop_epochs": [21, 42, 63], "weight_decay": 1e-4, "nesterov": False}),
    (linear.INAT18, "vicreg", {"learning_rate": 0.005, "weight_decay": 1e-4, "nesterov": False}),
    (linear.INAT18, "mmselfsup", {"weight_decay": 1e-4}),
    (linear.INAT18, "vissl_caffe2", {"weight_decay": 1e-4}),
    (linear.PLACES205, "vissl_caffe2", {"weight_decay": 1e-4}),
    (linear.PLACES205, "paper", {"drop_epochs": [5, 9], "nesterov": False}),
    (linear.INAT18, "paper", {"drop_epochs": [28, 56], "nesterov": False}),
])
def test_presets(config, preset, changes):
    """Golden: the sources that linear.PRESETS names."""
    found = differences(config.resolved(), config.override(["preset", preset]).resolved())
    assert {key: used for key, (_, used) in found.items()} == {**changes, "preset": preset}


@pytest.mark.parametrize("config, names", [
    (linear.IMAGENET, ["default", "paper", "swav", "mmselfsup"]), (linear.PLACES205, ["default", "vissl"]),
    (linear.INAT18, ["default", "vissl"])])
def test_other_names_of_a_default_make_its_row(config, names):
    assert all(config.override(["preset", name]) == config for name in names)
    assert config.override(["preset", names[-1], "epochs", "7"]) == dataclasses.replace(config, epochs=7)


@pytest.mark.parametrize("changes, message", [
    ({"schedule": "linear"}, "schedule: expected cosine, step or exponential"),
    ({"epochs": 0}, "epochs: expected from 1 to"),
    ({"precision": "half"}, "precision: expected one of float32"),
    ({"batch_size": 0}, "batch_size: expected from 1 to"),
    ({"batch_size": 1, "batch_norm": True}, "last batch of one of 14 images"),
    ({"learning_rate": 1e300, "epochs": 2}, "lower the learning rate"),
    ({"optimiser": "lars"}, "optimiser: expected sgd or adam, found 'lars'"),
    ({"optimiser": "adam", "nesterov": True}, "nesterov: expected sgd and a momentum above 0 with it"),
    ({"augmentation": "cuts"}, "augmentation: expected one of crop, colour, colour_bicubic, found 'cuts'"),
    ({"normalisation": "own"}, "normalisation: expected one of imagenet, solo_cifar, cifar, "),
    ({"dataset": "imagenot"}, "imagenot: no such folder"),
    ({"sweep_learning_rates": (0.1, 0.1)}, "expected each learning rate and weight decay once"),
    ({"sweep_learning_rates": (0.1, 1.0), "held_out": 1.0}, "held_out: expected a share between 0 and 1"),
    ({"sweep_learning_rates": (1e308, 1.1e308), "epochs": 2}, "lower"),
])
def test_errors(root, tmp_path, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        own = dataclasses.replace(SMALL, **changes) if changes.keys() <= SMALL.resolved().keys() else (
            dataclasses.replace(ADAM, **changes))
        linear.run(toys.backbone(), own, toys.context(root, tmp_path))


def test_data(root, tmp_path):
    found = linear.data(SMALL, toys.context(root, tmp_path))
    assert found["name"] == "imagenet" and found["counts"] == {"train": 14, "val": 8}
    assert len(found["fingerprint"]) == 64
