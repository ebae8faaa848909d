"""Checkpoints: resumed equals uninterrupted, the official format, and refusals."""
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

from pretrain import checkpoint, data, model
from pretrain.config import recipe
from pretrain.trainer import Run, train


def toy_backbone(arch, stem):
    return nn.Sequential(nn.Conv2d(3, 6, 5, stride=4), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten()), 6


@pytest.fixture
def start(tmp_path, monkeypatch):
    """start(folder, **changes of the recipe) runs a small training and returns the files it left."""
    monkeypatch.setattr(model, "build_backbone", toy_backbone)
    for number in range(10):
        (tmp_path / "train" / "a").mkdir(parents=True, exist_ok=True)
        left, top = number * 30, number * 20
        cut = load_sample_images().images[number % 2][top:top + 60, left:left + 60]
        Image.fromarray(cut).save(tmp_path / "train" / "a" / f"{number}.png")

    def run(folder, **changes):
        values = dict(epochs=3, batch_size=4, image_size=24, projector="8-8", precision="fp32",
                      warmup_epochs=1, learning_rate_weights=20.0, learning_rate_biases=1.0)
        (tmp_path / folder).mkdir(exist_ok=True)
        return train(recipe(**(values | changes)),
                     Run(tmp_path, tmp_path / folder, "the command", workers=0, print_freq=1))
    return run


def load(path):
    return torch.load(path, weights_only=True)


def stop_after(monkeypatch, epoch):
    """Interrupt a run as soon as this many epochs are saved."""
    save = checkpoint.save

    def stopping(path, finished, *rest):
        save(path, finished, *rest)
        if finished == epoch:
            raise KeyboardInterrupt
    monkeypatch.setattr(checkpoint, "save", stopping)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_resumed_equals_uninterrupted_bit_for_bit(start, monkeypatch, precision):
    whole = load(start("whole", precision=precision)[0])
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            start("parts", precision=precision)
    torch.manual_seed(99)
    parts = load(start("parts", precision=precision)[0])
    assert parts["epoch"] == whole["epoch"] == 3 and parts["scaler"] == whole["scaler"]
    assert list(parts["model"]) == list(whole["model"])
    for name, value in whole["model"].items():
        assert torch.equal(parts["model"][name], value), name
    for number, state in whole["optimizer"]["state"].items():
        assert torch.equal(parts["optimizer"]["state"][number]["mu"], state["mu"])
    assert torch.equal(parts["rng"]["cpu"], whole["rng"]["cpu"])


def test_files_are_in_the_official_format(start):
    files = start("run")
    state = load(files[0])
    assert {"epoch", "model", "optimizer"} <= set(state)
    assert {name.split(".")[1] for name in state["model"]} == {"backbone", "projector", "bn"}
    assert all(name.startswith("module.") for name in state["model"])
    assert state["model"]["module.bn.num_batches_tracked"] == 2 * 3 * 2  # views x epochs x steps
    assert [len(group["params"]) for group in state["optimizer"]["param_groups"]] == [3, 5]
    backbone = load(files[1])
    assert files[1].name == "resnet50.pth" and backbone.keys() == toy_backbone("", "")[0].state_dict().keys()
    for name, value in backbone.items():
        assert torch.equal(value, state["model"]["module.backbone." + name])
    lines = files[2].read_text().splitlines()
    assert lines[0] == "the command" and len(lines) == 7
    assert not list(files[0].parent.glob("*.part"))


def test_a_finished_run_is_left_as_it_is(start):
    before = load(start("run")[0])["model"]
    after = load(start("run")[0])["model"]
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_each_epoch_has_its_own_order_and_views_also_after_a_resume(start, monkeypatch):
    seen, two_views = [], data.two_views

    def watching(image, size, seed, epoch, index):
        seen.append((epoch, index))
        return two_views(image, size, seed, epoch, index)
    monkeypatch.setattr(data, "two_views", watching)
    start("whole")
    whole, orders = list(seen), [[index for epoch, index in seen if epoch == number] for number in range(3)]
    assert [epoch for epoch, _ in seen] == [0] * 8 + [1] * 8 + [2] * 8
    assert all(len(set(order)) == 8 for order in orders) and orders[0] != orders[1] != orders[2]
    seen.clear()
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            start("parts")
    start("parts")
    assert seen == whole


def spoil(path, **changes):
    torch.save({name: value for name, value in (load(path) | changes).items() if value is not None}, path)


@pytest.mark.parametrize("change, settings, message", [
    (lambda path: None, {"lambd": 0.1, "seed": 4},
     "was written by another recipe: lambd 0.0051, now 0.1; seed 0, now 4; use the same"),
    (lambda path: (path.parent.parent / "train" / "a" / "0.png").unlink(), {}, "images 10, now 9"),
    (lambda path: spoil(path, config=None, images=None), {}, "without config, images; move it away"),
    (lambda path: path.write_bytes(path.read_bytes()[:3000]), {}, "checkpoint.pth: cannot be read as a"),
    (lambda path: path.write_text("hello"), {}, "checkpoint.pth: cannot be read as a"),
], ids=["recipe", "data", "official", "truncated", "text"])
def test_resuming_what_does_not_fit_is_refused(start, tmp_path, change, settings, message):
    start("run", epochs=1)
    path = tmp_path / "run" / "checkpoint.pth"
    change(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message) as caught:
        start("run", **({"epochs": 1} | settings))
    assert "\n" not in str(caught.value) and path.read_bytes() == before


def test_a_loss_that_is_not_finite_stops_and_names_the_checkpoint(start, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            start("run")
    path = tmp_path / "run" / "checkpoint.pth"
    state = load(path)
    state["model"]["module.projector.0.weight"][0, 0] = torch.nan
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"loss is not finite at step 2 \(epoch 1\); the last good "
                                         rf"checkpoint is {path} with 1 finished epochs"):
        start("run")
    with pytest.raises(ValueError, match="weights are not finite after epoch 0; no epoch was finished"):
        start("fresh", learning_rate_weights=1e30)
    assert not (tmp_path / "fresh" / "checkpoint.pth").exists()


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = Path(tmp_path) / "file.pth"
    checkpoint.write_atomically({"a": 1}, path)
    with pytest.raises(Exception):
        checkpoint.write_atomically({"a": lambda: None}, path)  # cannot be stored
    assert load(path) == {"a": 1}
