"""A sweep: each head as if it were alone, chosen on a held-out part of train, never on the validation set."""
import dataclasses
import json
import shutil

import classification_toys as toys
import numpy as np
import pytest
import torch

from transfer.classification import heads, journal, layouts, linear

SMALL = linear.Config(epochs=2, batch_size=4, image_size=32, precision="float64", batch_norm=True,
                      momentum=0.8, held_out=0.4)
SWEEP = dataclasses.replace(SMALL, sweep_learning_rates=(0.01, 0.3, 1e308), sweep_weight_decays=(0.0, 0.5))


def state(folder):
    return torch.load(folder / "checkpoint.pth", weights_only=True)["heads"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """(data root, output folder, metrics) of a sweep of six heads, of which two diverge."""
    root = tmp_path_factory.mktemp("data")
    toys.image_tree(root / "imagenet")
    context = toys.context(root, tmp_path_factory.mktemp("out"))
    return root, context.out, linear.run(toys.backbone(), SWEEP, context)


def test_a_head_of_a_sweep_equals_the_one_trained_alone(swept, tmp_path):
    """Alone: the protocol itself, on a folder that lacks the held-out images. Bit by bit."""
    root, out, metrics = swept
    shutil.copytree(root / "imagenet", tmp_path / "imagenet")
    whole = layouts.split_pair(tmp_path / "imagenet")[0]
    _, held = layouts.hold_out(whole, 0.4, seed=0)
    assert held.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for index in range(len(held)):
        held.path(index).unlink()
    many, rows = state(out), json.loads((out / "record" / "sweep.json").read_text())
    chosen = [row["chosen"] for row in rows].index(True)
    for number in {chosen, 1, 2}:
        alone = dataclasses.replace(SMALL, learning_rate=rows[number]["learning_rate"],
                                    weight_decay=rows[number]["weight_decay"])
        context = toys.context(tmp_path, tmp_path / str(number))
        figures = linear.run(toys.backbone(), alone, context)
        one = state(context.out)
        for name in ("weight", "bias"):
            assert torch.equal(one[f"layers.0.{name}"], many[f"layers.{number}.{name}"])
        assert torch.equal(one["norm.running_var"], many["norm.running_var"])
        if number == chosen:
            assert (figures["top1"], figures["top5"]) == (metrics["swept_top1"], metrics["swept_top5"])


def test_the_choice_is_kept_and_a_diverged_head_has_no_figure(swept):
    _, out, metrics = swept
    rows = json.loads((out / "record" / "sweep.json").read_text())
    assert [(row["learning_rate"], row["weight_decay"]) for row in rows] == SWEEP.grid
    figures = [row["held_out_top1"] for row in rows]
    assert figures[4:] == [None, None] and None not in figures[:4]
    best = figures.index(max(figures[:4]))
    assert [row["chosen"] for row in rows] == [number == best for number in range(6)]
    assert metrics.keys() == {"swept_top1", "swept_top5", "held_out_top1"}  # never the protocol's own names
    assert metrics["held_out_top1"] == figures[best]
    last = json.loads((out / "record" / "curve.json").read_text())[-1]
    assert last["top1"] == metrics["swept_top1"] and last["held_out_top1"] == figures[best]


def test_a_finished_sweep_is_read_again(swept, monkeypatch):
    root, out, metrics = swept
    monkeypatch.setattr(linear, "train_epoch", None)
    context = dataclasses.replace(toys.context(root, out), resume=True)
    assert linear.run(toys.backbone(), SWEEP, context) == metrics


def test_the_choice_is_by_held_out_figures():
    """Two heads that name always class 0, or always 1; the held-out images are of class 1."""
    pair = heads.Heads(2, 2048, 3, 0.0, False, seed=0)
    for number, layer in enumerate(pair.layers):
        layer.bias.data[number] = 1.0
    features, device = torch.zeros(4, 2048), torch.device("cpu")
    labels = torch.tensor([1, 1, 1, 0])
    assert heads.choose(pair, [0.1, 9.0], features, labels, device) == (1, [25.0, 75.0])
    assert heads.choose(pair, [0.1, float("nan")], features, labels, device) == (0, [25.0, None])
    assert heads.choose(pair, [0.1, 9.0], features, torch.tensor([1, 1, 0, 0]), device)[0] == 0  # the first
    (top1, top5), predicted = heads.score(pair, 1, features, labels, device)
    assert (top1, top5, predicted.tolist()) == (75.0, 100.0, [1] * 4)


def test_the_held_out_part_is_of_each_class_and_follows_the_seed(swept):
    train, _ = layouts.split_pair(swept[0] / "imagenet")
    parts = [layouts.hold_out(train, 0.3, seed) for seed in (0, 0, 1)]
    for rest, held in parts:
        assert np.bincount(held.labels).tolist() == [2, 2, 1]
        assert {*rest.names} | {*held.names} == {*train.names} and len(rest) + len(held) == len(train)
    names = [held.names.tolist() for _, held in parts]
    assert names[0] == names[1] != names[2]
    assert np.bincount(layouts.hold_out(train, 0.99, 0)[0].labels).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="expects 2 images or more, found 1 of apple"):
        layouts.hold_out(train.subset(np.array([0, 5, 6, 10, 11]), "few"), 0.1, 0)


def test_many_classes_have_accuracies_without_a_matrix(tmp_path):
    truth, predicted = torch.tensor([0, 0, 0, 7, 100]), torch.tensor([0, 0, 7, 7, 3])
    journal.keep_predictions(toys.context(tmp_path, tmp_path), tuple(map(str, range(101))), truth, predicted)
    assert [path.name for path in (tmp_path / "record").iterdir()] == ["per_class.json"]
    kept = json.loads((tmp_path / "record" / "per_class.json").read_text())
    assert len(kept) == 101 and kept["0"]["top1"] == pytest.approx(200 / 3)
    assert kept["7"] == {"top1": 100.0} and kept["100"] == {"top1": 0.0}
    assert kept["3"] == {"top1": None}  # none to be right about


def test_up_to_a_hundred_classes_have_a_matrix_and_the_same_accuracies(tmp_path):
    truth, predicted = torch.tensor([0, 0, 2]), torch.tensor([0, 2, 2])
    journal.keep_predictions(toys.context(tmp_path, tmp_path), ("a", "b", "c"), truth, predicted)
    kept = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "record").iterdir()}
    assert kept == {"per_class": {"a": {"top1": 50.0}, "b": {"top1": None}, "c": {"top1": 100.0}},
                    "confusion": {"classes": ["a", "b", "c"], "matrix": [[1, 0, 1], [0, 0, 0], [0, 0, 1]]}}
