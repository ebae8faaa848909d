"""Logistic probes: the fit against scikit-learn, the choice of the penalty, the run on small sets."""
import dataclasses
import json

import classification_toys as toys
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from transfer.classification import images as data
from transfer.classification import logistic, probe
from transfer.classification.metrics import confusion, mean_per_class

SMALL = probe.Config(strengths=3, weakest=1e-3, strongest=10.0, image_size=32, max_iterations=30)


def problem(classes=4):
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(90, 6, generator=draw, dtype=torch.float64)
    scores = features @ torch.randn(6, classes, generator=draw, dtype=torch.float64)
    return features, (scores + torch.randn(90, classes, generator=draw)).argmax(1)


@pytest.mark.parametrize("strength", [0.1, 30.0])
def test_the_fit_is_scikit_learns(strength):
    features, labels = problem()
    weights, met = logistic.fit(features, labels, strength, np.zeros((4, 7)), 1e-8, 1000)
    model = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=1000).fit(features, labels)
    assert met and np.allclose(weights[:, :-1], model.coef_, rtol=0, atol=1e-5)
    expected = model.decision_function(features)
    found = logistic.scores(features, weights).numpy()
    assert np.allclose(found - found.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True),
                       rtol=0, atol=1e-5)


def test_several_labels_are_separate_binary_problems():
    features, labels = problem(3)
    targets = torch.nn.functional.one_hot(labels, 3).double()
    weights, _ = logistic.fit(features, targets, 2.0, np.zeros((3, 7)), 1e-9, 1000)
    for column in range(3):
        model = LogisticRegression(C=0.5, tol=1e-9, max_iter=1000).fit(features, targets[:, column])
        expected = np.append(model.coef_, model.intercept_)
        assert np.allclose(weights[column], expected, rtol=0, atol=1e-5)


def test_a_fit_that_stops_early_says_so():
    features, labels = problem()
    assert not logistic.fit(features, labels, 1e-3, np.zeros((4, 7)), 1e-9, 2)[1]


def test_the_penalty_is_chosen_by_the_held_out_part(tmp_path):
    features, labels = problem()
    kept_out = torch.arange(90) % 3 == 0
    config = dataclasses.replace(SMALL, strengths=6, weakest=1e-2, strongest=1e3, max_iterations=500)
    journal = probe.Journal(toys.context(tmp_path, tmp_path / "out"))
    found = probe.choose(features, labels, kept_out, 4, "mean_per_class", config, journal)
    accuracies = []
    for strength in np.geomspace(1e3, 1e-2, 6):
        model = LogisticRegression(C=1 / strength, tol=1e-6, max_iter=1000)
        said = model.fit(features[~kept_out], labels[~kept_out]).predict(features[kept_out])
        accuracies.append(mean_per_class(confusion(labels[kept_out], torch.from_numpy(said), 4)))
    assert found == pytest.approx(np.geomspace(1e3, 1e-2, 6)[int(np.argmax(accuracies))])
    assert len(set(accuracies)) > 2  # the choice matters here


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_the_fits_do_not_depend_on_the_number_of_ranks(monkeypatch, tmp_path, ranks):
    """Each strength's begins from the same weights, since they decide where L-BFGS stops."""
    features, labels = problem()
    config = dataclasses.replace(SMALL, strengths=20, tolerance=1e-2)
    journal = probe.Journal(toys.context(tmp_path, tmp_path / "out"))
    fit, starts = logistic.fit, {}

    def noting(features, targets, strength, start, *rest):
        starts.setdefault(strength, []).append(start)
        return fit(features, targets, strength, start, *rest)

    monkeypatch.setattr(logistic, "fit", noting)
    for rank, size in [(0, 1), *((rank, ranks) for rank in range(ranks))]:
        monkeypatch.setattr(data, "rank", lambda: rank)
        monkeypatch.setattr(data, "world_size", lambda: size)
        probe.choose(features, labels, torch.arange(90) % 3 == 0, 4, "top1", config, journal)
    assert len(starts) == 20
    assert all(np.array_equal(alone, shared) for alone, shared in starts.values())


def test_accuracy_per_class_by_hand():
    """Class 0: 1 of 2 right; class 1: 3 of 3; class 2 has no sample and does not count."""
    matrix = confusion(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 2, 1, 1, 1]), 3)
    assert matrix.tolist() == [[1, 0, 1], [0, 3, 0], [0, 0, 0]]
    assert mean_per_class(matrix) == 75.0


def test_run_on_folders(tmp_path):
    toys.image_tree(tmp_path / "cifar10", train=10, val=5)
    metrics = probe.run(toys.backbone(), SMALL, toys.context(tmp_path, tmp_path / "one"))
    assert list(metrics) == ["top1", "mean_per_class", "knn20"]
    kept = json.loads((tmp_path / "one/record/confusion.json").read_text())
    matrix = torch.tensor(kept["matrix"])
    assert matrix.sum(1).tolist() == [5, 5, 4]
    assert metrics["top1"] == pytest.approx(100 * matrix.trace().item() / 14)
    lines = [json.loads(line) for line in (tmp_path / "one/log.txt").read_text().splitlines()]
    assert "effective_rank" in lines.pop(0)
    assert [line["strength"] for line in lines[:3]] == pytest.approx([10.0, 0.1, 1e-3])


@pytest.mark.parametrize("official, fits", [(True, [14, 14, 14, 22]), (False, [11, 11, 11, 14])])
def test_the_last_fit_is_on_all_of_train_and_val(tmp_path, monkeypatch, official, fits):
    """14 images of train and 8 of val; without an official val, one of each class is held out."""
    root, seen, fit = toys.image_tree(tmp_path / "cifar10"), [], logistic.fit
    if official:
        toys.image_tree(tmp_path / "more", val=2)
        (tmp_path / "more/val").rename(root / "test")
    monkeypatch.setattr(logistic, "fit", lambda *given: (seen.append(len(given[0])), fit(*given))[1])
    probe.run(toys.backbone(), SMALL, toys.context(tmp_path, tmp_path / "out"))
    assert seen == fits


def test_a_set_too_small_to_hold_out_is_an_error_before_the_run(tmp_path):
    toys.image_tree(tmp_path / "cifar10", train=2)
    context = toys.context(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="train: expected enough images to hold out .*found 5 of 3 classes"):
        probe.data(SMALL, context)
    assert probe.data(dataclasses.replace(SMALL, held_out=0.99), context)["counts"] == {"train": 5, "test": 8}


def test_run_on_voc_scores_eleven_point_precision(tmp_path):
    root = toys.voc_tree(tmp_path / "VOC2007") / "ImageSets" / "Main"
    ids = (root / "trainval.txt").read_text().split()
    (root / "train.txt").write_text("\n".join(ids[:9]))
    context = toys.context(tmp_path, tmp_path / "out")
    config = dataclasses.replace(SMALL, dataset="voc2007")
    metrics = probe.run(toys.backbone(), config, context)
    kept = json.loads((tmp_path / "out/record/per_class.json").read_text())
    assert metrics == {"mAP_11point": pytest.approx(np.mean([row["AP_11point"] for row in kept.values()]))}
    assert probe.data(config, context)["counts"] == {"train": 18, "test": 9}


@pytest.mark.parametrize("changes, message", [
    ({"weakest": 0.0}, "weakest: expected a finite"), ({"strengths": 0}, "strengths: expected from 1"),
    ({"held_out": 1.0}, "held_out: expected a share"), ({"resize": "zoom"}, "resize: expected one of"),
])
def test_errors(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        probe.data(dataclasses.replace(SMALL, **changes), toys.context(tmp_path, tmp_path / "out"))


def test_the_default_grid_is_simclrs():
    config = probe.Config()
    grid = np.geomspace(config.strongest, config.weakest, config.strengths)
    assert len(grid) == 45 and (grid[0], grid[-1]) == pytest.approx((1e5, 1e-6))
    assert (config.resize, config.image_size) == ("bicubic", 224)
