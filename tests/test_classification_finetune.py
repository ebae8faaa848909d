"""Fine-tuning against a plain loop, and the lists of labelled images."""
import dataclasses
import gzip
import hashlib
import json
from pathlib import Path

import classification_toys as toys
import pytest
import torch
from torch import nn
from torch.nn import functional

from parallel.mappings import differences
from transfer.classification import finetune, layouts, lists, training
from transfer.classification import images as data

LISTS = Path(__file__).resolve().parents[2] / "shared" / "data" / "imagenet_splits"
LISTED = [f"{name}_{number}.JPEG" for name in toys.CLASSES for number in (2, 0, 3)]
# Rates at which a batch of five does not explode: chaos would multiply rounding beyond any tolerance.
SMALL = finetune.Config(epochs=1, batch_size=5, image_size=64, precision="float64", weight_decay=1e-3,
                        backbone_learning_rate=1e-3, head_learning_rate=0.1)


@pytest.fixture
def root(tmp_path):
    """Data root with an unofficial 1percent.txt of 9 names."""
    toys.image_tree(tmp_path / "data" / "imagenet")
    (tmp_path / "data" / "imagenet" / "1percent.txt").write_text("\n".join(LISTED) + "\n")
    return tmp_path / "data"


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_two_epochs_equal_a_plain_loop(root, tmp_path, schedule):
    """The protocol step by step: everything in train mode, two rates, torch's optimiser and scheduler."""
    crop_scale = {"cosine": (0.08, 1.0), "step": (0.5, 0.6)}[schedule]
    config = dataclasses.replace(SMALL, epochs=2, schedule=schedule, drop_epochs=(1,), crop_scale=crop_scale)
    context = toys.context(root, tmp_path / "out")
    metrics = finetune.run(toys.backbone(), config, context)
    saved = torch.load(context.out / "checkpoint.pth", weights_only=True)
    network, head = toys.plain_network(), nn.Linear(2048, 3).double()
    draw = torch.Generator().manual_seed(0)
    head.weight.data = torch.empty(3, 2048).normal_(0, 0.01, generator=draw).double()
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD([{"params": network.parameters(), "lr": 1e-3}, {"params": head.parameters()}],
                                lr=0.1, momentum=0.9, weight_decay=1e-3)
    scheduler = (torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2) if schedule == "cosine" else
                 torch.optim.lr_scheduler.MultiStepLR(optimizer, [1], 0.2))
    train, val = layouts.split_pair(root / "imagenet")
    index_of = {train.path(index).name: index for index in range(len(train))}
    labelled = train.subset(sorted(index_of[name] for name in LISTED), "")
    batches = data.TrainBatches(9, 5, seed=0)
    crops = data.Images(labelled, 64, augment=True, seed=0, crop_scale=crop_scale)
    loader = data.loader(crops, batches, context)
    for batches.epoch in range(2):
        network.train()
        for images, labels, _ in data.batches_of(loader):
            optimizer.zero_grad()
            logits = head(network(data.normalised(images, torch.device("cpu"), torch.float64)))
            functional.cross_entropy(logits, labels).backward()
            optimizer.step()
        scheduler.step()
    for name, expected in network.state_dict().items():
        assert torch.allclose(saved["network"][name].double(), expected.double(), rtol=0, atol=1e-9), name
    assert torch.allclose(saved["head"]["weight"], head.weight, rtol=0, atol=1e-9)
    assert (network.conv1.weight - toys.plain_network().conv1.weight).abs().max() > 1e-6
    network.eval()
    pictures = torch.stack([data.Images(val, 64, augment=False)[0, index][0] for index in range(8)])
    with torch.no_grad():
        logits = head(network(data.normalised(pictures, torch.device("cpu"), torch.float64)))
    right = logits.argmax(1) == torch.from_numpy(val.labels)
    assert metrics["top1"] == 100 * right.sum().item() / 8 and metrics["top5"] == 100
    kept = json.loads((context.out / "record" / "per_class.json").read_text())
    assert kept["apple"] == {"top1": pytest.approx(100 * right[:3].double().mean().item())}
    curve = json.loads((context.out / "record" / "curve.json").read_text())
    assert [row["epoch"] for row in curve] == [1, 2] and curve[1]["top1"] == metrics["top1"]


def test_an_interrupted_run_continues_exactly(root, tmp_path, monkeypatch):
    config = dataclasses.replace(SMALL, epochs=2, image_size=32)
    whole = finetune.run(toys.backbone(), config, toys.context(root, tmp_path / "whole"))
    context = toys.context(root, tmp_path / "broken")
    save = training.Checkpoint.save

    def save_once(self, history):
        save(self, history)
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Checkpoint, "save", save_once)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(toys.backbone(), config, context)
    monkeypatch.undo()
    assert finetune.run(toys.backbone(), config, dataclasses.replace(context, resume=True)) == whole
    one, two = (torch.load(tmp_path / name / "checkpoint.pth", weights_only=True)
                for name in ("whole", "broken"))
    assert all(torch.equal(tensor, two["network"][name]) for name, tensor in one["network"].items())


def test_data_tells_lists_apart(root, tmp_path):
    context = toys.context(root, tmp_path / "out")
    found = finetune.data(SMALL, context)
    sha256 = hashlib.sha256((root / "imagenet" / "1percent.txt").read_bytes()).hexdigest()
    assert found["name"] == f"imagenet list {sha256[:12]}" and len(found["counts"]) == 3
    (tmp_path / "mine.txt").write_text("\n".join(LISTED[::-1]))
    other = finetune.data(dataclasses.replace(SMALL, split=str(tmp_path / "mine.txt")), context)
    assert other["counts"] == {"train": 9, "val": 8} and other["fingerprint"] != found["fingerprint"]
    (root / "imagenet" / "1percent.txt").unlink()
    packed = root / "imagenet" / "1percent.txt.gz"
    packed.write_bytes(gzip.compress("\n".join([*LISTED, ""]).encode()))
    assert finetune.data(SMALL, context) == found  # the unpacked bytes count
    packed.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="1percent.txt.gz: not a gzip file"):
        finetune.data(SMALL, context)


def test_an_altered_list_under_an_official_name_makes_a_scaled_run(root, tmp_path, monkeypatch):
    """Even one that is as long as the official list."""
    context, sizes = toys.context(root, tmp_path / "out"), {"train": 9, "val": 8}
    altered = finetune.data(SMALL, context)["counts"]
    assert differences(sizes, altered) == {"unofficial list": [None, 9]}
    content = (root / "imagenet" / "1percent.txt").read_bytes()
    monkeypatch.setitem(lists.OFFICIAL, "1percent", hashlib.sha256(content).hexdigest())
    assert finetune.data(SMALL, context)["counts"] == sizes


def test_a_missing_official_list_says_how_it_is_fetched(root, tmp_path):
    context = toys.context(root, tmp_path / "out")
    (root / "imagenet" / "1percent.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"1percent.txt: no such list; curl -o \S+/1percent.txt https://"):
        finetune.data(SMALL, context)


def test_a_list_is_also_looked_for_in_the_cache(root, tmp_path, monkeypatch):
    """As data roots are often read-only."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (root / "imagenet" / "1percent.txt").rename(cache / "1percent.txt")
    content = (cache / "1percent.txt").read_bytes()
    monkeypatch.setitem(lists.OFFICIAL, "1percent", hashlib.sha256(content).hexdigest())
    context = toys.context(root, tmp_path / "out", cache=cache)
    assert finetune.data(SMALL, context)["name"] == "imagenet 1percent"
    assert lists.chosen_pair("1percent", "imagenet", context)[0].source == str(cache / "1percent.txt")


def test_a_draw_is_of_each_class_and_the_seeds_are_draws_of_one_row(root, tmp_path):
    contexts = [toys.context(root, tmp_path, seed=seed) for seed in range(3)]
    config = dataclasses.replace(SMALL, split="draw:40%")
    found = [finetune.data(config, context) for context in contexts]
    assert found[0] == found[1] == found[2] and found[0]["name"] == "imagenet draw:40%"
    assert found[0]["counts"] == {"train": 6, "val": 8}  # of 5, 5 and 4 images: 2 each
    drawn = [lists.chosen_pair("draw:40%", "imagenet", context)[0] for context in contexts]
    assert all(samples.labels.tolist() == [0, 0, 1, 1, 2, 2] for samples in drawn)
    assert len({tuple(samples.names) for samples in drawn}) == 3
    again = lists.chosen_pair("draw:40%", "imagenet", contexts[1])[0]
    assert again.names.tolist() == drawn[1].names.tolist()
    least = lists.chosen_pair("draw:0.5%", "imagenet", contexts[0])[0]
    assert least.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("content, message", [
    ("", "expected image names, found none"),
    ("apple_0.JPEG\napple_77.JPEG\nboat_88.JPEG\n", "2 of 3 names are not in .*train, first apple_77.JPEG"),
    ("apple_0.JPEG\napple_0.JPEG\n", "1 names are repeated"),
])
def test_wrong_lists(root, tmp_path, content, message):
    (tmp_path / "mine.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        finetune.data(dataclasses.replace(SMALL, split=str(tmp_path / "mine.txt")),
                      toys.context(root, tmp_path / "out"))


@pytest.mark.parametrize("changes, message", [
    ({"split": "2percent"}, "expected 1percent, 10percent, draw:P% or the path of a list, found '2percent'"),
    ({"split": "draw:0%"}, "split: expected draw:P% with P above 0 and at most 100, found 'draw:0%'"),
    ({"split": "draw:101%"}, "found 'draw:101%'"),
    ({"precision": "bfloat16"}, "precision: expected float32 or float64"),
    ({"batch_size": 4, "image_size": 32}, "leaves batch norm one image in the last batch"),
    ({"schedule": "flat"}, "schedule: expected cosine, step or exponential"),
])
def test_errors(root, tmp_path, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        finetune.run(toys.backbone(), dataclasses.replace(SMALL, **changes),
                     toys.context(root, tmp_path / "out"))


def test_defaults_are_the_papers():
    """Golden: evaluate.py and the README's command of facebookresearch/barlowtwins."""
    assert finetune.ONE_PERCENT == finetune.Config(
        "imagenet", "1percent", 20, 256, 0.005, 0.5, 0.9, 0.0, "cosine", (12, 16), 0.2, 0.01, 224,
        (0.08, 1.0), "float32", False, "default")
    assert finetune.TEN_PERCENT == dataclasses.replace(finetune.ONE_PERCENT, split="10percent")
    step = dataclasses.replace(finetune.ONE_PERCENT, schedule="step")
    assert [training.schedule_factor(step, epoch) for epoch in (11, 12, 16)] == pytest.approx([1, 0.2, 0.04])


@pytest.mark.parametrize("preset, config, changes", [
    ("paper", finetune.ONE_PERCENT, {"backbone_learning_rate": 0.002, "schedule": "step"}),
    ("paper", finetune.TEN_PERCENT, {"backbone_learning_rate": 0.002, "schedule": "step"}),
    ("swav", finetune.ONE_PERCENT, {"backbone_learning_rate": 0.02, "head_learning_rate": 5.0,
                                    "schedule": "step", "sync_batch_norm": True}),
    ("swav", finetune.TEN_PERCENT, {"backbone_learning_rate": 0.01, "head_learning_rate": 0.2,
                                    "schedule": "step", "sync_batch_norm": True}),
    ("vicreg", finetune.ONE_PERCENT, {"backbone_learning_rate": 0.03, "head_learning_rate": 0.08}),
    ("vicreg", finetune.TEN_PERCENT, {"backbone_learning_rate": 0.01, "head_learning_rate": 0.1}),
])
def test_presets(preset, config, changes):
    """Golden: P B.2; SwAV A.4; VICReg C.2."""
    found = differences(config.resolved(), config.override(["preset", preset]).resolved())
    assert {key: used for key, (_, used) in found.items()} == {**changes, "preset": preset}


@pytest.mark.skipif(not LISTS.is_dir(), reason="shared/data/imagenet_splits is not beside the project")
@pytest.mark.parametrize("split, count", [("1percent", 12811), ("10percent", 128116)])
def test_official_lists(split, count):
    content, _ = lists.split_list(split, LISTS, LISTS)
    assert hashlib.sha256(content).hexdigest() == lists.OFFICIAL[split]
    assert len(set(content.split())) == count


def test_without_the_data_set_no_list_is_looked_for(tmp_path):
    context = toys.context(tmp_path / "nowhere", tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere/imagenet: no such folder"):
        finetune.data(finetune.ONE_PERCENT, context)
