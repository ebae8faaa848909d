"""The VOC07 SVM against a plain LinearSVC loop."""
import dataclasses
import json

import classification_toys as toys
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from transfer.classification import images as data
from transfer.classification import layouts, svm, svm_solver
from transfer.classification.metrics import average_precision
from transfer.weights.architectures import RESNET50

# The plain loop hits max_iter on toy features as ours does; ours counts it.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
SETTINGS = svm_solver.Settings(svm.Config().costs, 3, 2.0, 1e-4, 2000)
PLAIN = SETTINGS._replace(solver="liblinear")
SMALL = svm.Config(costs=(0.01, 1.0, 50.0), image_size=32)


def plain(train, labels, test, costs):
    """Per class: cost by scikit-learn's own cross-validation, refit, scores of the test rows."""
    for column in labels.T:
        target = np.where(column > 0, 1, -1)
        models = [LinearSVC(C=cost, class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, random_state=0)
                  for cost in costs]
        means = [cross_val_score(model, train, target, cv=3, scoring="average_precision").mean()
                 for model in models]
        best = int(np.argmax(means))
        yield costs[best], models[best].fit(train, target).decision_function(test)


def problem():
    """Features (90, 12) and (40, 12) of three overlapping classes, labels with some ignored (0)."""
    draw = np.random.default_rng(0)
    direction = draw.normal(size=(12, 3))
    features = np.abs(draw.normal(size=(130, 12)))
    score = features @ direction + draw.normal(size=(130, 3))
    labels = np.where(score > np.quantile(score, 0.75, axis=0), 1, -1)
    labels[draw.random(labels.shape) < 0.1] = 0
    train, test = (svm_solver.normalised(rows, 1e-5) for rows in (features[:90], features[90:]))
    return train, labels[:90], test, labels[90:]


def test_liblinear_equals_plain_linear_svc_to_the_bit():
    train, labels, test, truth = problem()
    found = svm_solver.solve(train, labels, test, PLAIN, workers=1)
    for (cost, scores, unfinished), (plain_cost, plain_scores), column in zip(
            found, plain(train, labels, test, SETTINGS.costs), truth.T, strict=True):
        assert cost == plain_cost and np.array_equal(scores, plain_scores)
        assert average_precision(scores, column) == average_precision(plain_scores, column)
    assert len({cost for cost, *_ in found}) > 1  # the choice matters here


def test_the_number_of_processes_changes_nothing(monkeypatch):
    """Fits long and ill-conditioned enough that threads, which share liblinear's generator, do differ."""
    draw = np.random.default_rng(0)
    features = svm_solver.normalised(np.abs(draw.normal(size=(400, 200))), 1e-5)
    scores = features @ draw.normal(size=(200, 3)) + 0.3 * draw.normal(size=(400, 3))
    labels = np.where(scores > 0.3, 1, -1)
    settings = PLAIN._replace(costs=(1000.0,), folds=2, max_iterations=300)
    monkeypatch.setattr(svm_solver, "SERIAL_WORK", 0)
    found = [svm_solver.solve(features, labels, features[:50], settings, workers) for workers in (1, 2)]
    for (cost, scores, unfinished), (other_cost, other_scores, other_unfinished) in zip(*found, strict=True):
        assert (cost, unfinished) == (other_cost, other_unfinished) and np.array_equal(scores, other_scores)


def real_problem(count=900):
    """scikit-learn's handwritten digits as deep features are: many, non-negative, correlated, of length 1."""
    pixels, digits = load_digits(return_X_y=True)
    draw = np.random.default_rng(0)
    features = np.maximum(0, pixels / 16 @ draw.normal(size=(64, 512)) + 0.3 * draw.normal(size=(1797, 512)))
    labels = np.where(digits[:, None] % np.array([10, 4]) == 3, 1, -1)  # one digit; two of them
    labels[draw.random(labels.shape) < 0.05] *= -1  # as no line can separate them
    features = svm_solver.normalised(features, 1e-5)
    return features[:count], labels[:count], features[count:], labels[count:]


def test_the_mixed_solver_chooses_and_scores_as_plain_linear_svc():
    train, labels, test, truth = real_problem()
    found = svm_solver.solve(train, labels, test, SETTINGS, workers=1)
    for (cost, scores, unfinished), (plain_cost, plain_scores), column in zip(
            found, plain(train, labels, test, SETTINGS.costs), truth.T, strict=True):
        assert cost == plain_cost and unfinished == 0
        expected = average_precision(plain_scores, column)
        assert average_precision(scores, column) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("cost, rows", [(0.1, 300), (5.0, 900), (1000.0, 900)])
def test_newton_solves_the_stated_problem_exactly(cost, rows):
    """At the minimum of |w|^2 / 2 + C sum weight max(0, 1 - y f)^2, bias among w, the gradient is zero."""
    train, labels, *_ = real_problem()
    target, rows = labels[:, 1], np.arange(900)[::900 // rows]
    weights, bias, _ = svm_solver.fit_costs(train, svm_solver.gram(train), target, rows, [cost], SETTINGS)[0]
    inputs, signs = np.c_[train[rows], np.ones(len(rows))], target[rows]
    slack = np.maximum(0, 1 - signs * (inputs @ np.append(weights, bias)))
    gradient = np.append(weights, bias) - 2 * cost * (signs * np.where(signs > 0, 2, 1) * slack) @ inputs
    assert np.abs(gradient).max() < 1e-8 * cost


def test_a_cycling_active_set_falls_back_to_liblinear(monkeypatch):
    train, labels, test, _ = problem()
    monkeypatch.setattr(svm_solver, "NEWTON_STEPS", 1)
    settings = SETTINGS._replace(costs=(1.0, 5.0))
    found, expected = (svm_solver.solve(train, labels, test, one, workers=1)
                       for one in (settings, settings._replace(solver="liblinear")))
    assert all(np.array_equal(one[1], two[1]) for one, two in zip(found, expected))


def test_normalisation():
    rows = svm_solver.normalised(np.array([[3, 4], [0, 0]], dtype=np.float32), 1e-5)
    assert rows.dtype == np.float64 and np.allclose(rows, [[3 / 5.00001, 4 / 5.00001], [0, 0]], rtol=1e-12)


def test_fits_that_do_not_converge_are_counted():
    train, labels, test, _ = problem()
    settings = PLAIN._replace(costs=(1000.0,), max_iterations=3)
    found = svm_solver.solve(train, labels, test, settings, workers=1)
    assert [unfinished for *_, unfinished in found] == [4, 4, 4]


def test_run_on_a_voc_tree(tmp_path):
    root = toys.voc_tree(tmp_path / "VOC2007")
    context = toys.context(tmp_path, tmp_path / "out")
    metrics = svm.run(toys.backbone(), SMALL, context)
    pair = [layouts.voc(root, split) for split in ("trainval", "test")]
    network, pooled = toys.plain_network(torch.float32).eval(), []
    for samples in pair:
        images = data.Images(samples, 32, augment=False)
        pixels = torch.stack([images[0, index][0] for index in range(len(images))])
        with torch.no_grad():
            features = network(data.normalised(pixels, torch.device("cpu"))).numpy()
        pooled.append(svm_solver.normalised(features, 1e-5))
    models = plain(pooled[0], pair[0].labels, pooled[1], SMALL.costs)
    found = [[average_precision(scores, truth, method) for method in ("area", "11point")]
             for (_, scores), truth in zip(models, pair[1].labels.T, strict=True)]
    expected = np.mean(found, axis=0).tolist()
    assert [metrics["mAP"], metrics["mAP_11point"]] == pytest.approx(expected, abs=1e-4)
    kept = json.loads((context.out / "record" / "per_class.json").read_text())
    assert [kept[name]["AP"] for name in toys.CLASSES] == pytest.approx([row[0] for row in found], abs=1e-4)
    lines = [json.loads(line) for line in (context.out / "log.txt").read_text().splitlines()]
    assert "effective_rank" in lines.pop(0)
    assert [line["image_class"] for line in lines] == list(toys.CLASSES)
    assert all(line["cost"] in SMALL.costs for line in lines)
    assert svm.data(SMALL, context)["counts"] == {"train": 18, "test": 9}


@pytest.mark.parametrize("changes, damage, message", [
    ({}, lambda root: root.rename(root.parent / "lost"), "VOC2007: no such folder"),
    ({"folds": 7}, None, "trainval: expected at least 7 positive images of each class, found 6 of apple"),
    ({"folds": 1}, None, "folds: expected from 2"),
    ({"costs": (1.0, 0.0)}, None, "costs: expected finite values"),
    ({"solver": "newton"}, None, "solver: expected one of mixed, liblinear, found 'newton'"),
    ({"resize": "shrink"}, None, "resize: expected one of crop, squash, .*, bicubic_crop, found 'shrink'"),
    ({"pooling": "max"}, None, "pooling: expected one of average, res5, found 'max'"),
    ({"pooling": "res5"}, None, "image_size: expected 161 or more for pooling res5.*found 32"),
    ({}, lambda root: (root / "ImageSets/Main/test.txt").write_text("000500\n000502\n"),
     "test: expected at least 1 positive images of each class, found 0 of apple"),
])
def test_errors(tmp_path, changes, damage, message):
    root = toys.voc_tree(tmp_path / "VOC2007")
    if damage:
        damage(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        svm.data(dataclasses.replace(SMALL, **changes), toys.context(tmp_path, tmp_path / "out"))


def test_defaults_are_vissls():
    """Golden: eval_resnet_8gpu_transfer_voc07_svm.yaml and svm_trainer.py."""
    costs = (0.01, 0.1, 1, 2, 5, 10, 15, 20, 50, 100, 1000)
    assert svm.Config() == svm.Config("VOC2007", costs, 2.0, 1e-4, 2000, 1e-5, 224, "float32", "crop",
                                      "average", "mixed", "default", folds=3)


@pytest.mark.parametrize("name, resize, count, ends", [
    ("vissl", "squash", 11, (0.01, 1000)), ("goyal", "crop", 26, (1e-7, 0.5 ** 19)),
    ("mmselfsup", "squash", 19, (1, 0.5 ** 19))])
def test_presets(name, resize, count, ends):
    config = svm.Config().override(["preset", name])
    assert (config.resize, len(config.costs)) == (resize, count)
    assert (config.costs[0], config.costs[-1]) == pytest.approx(ends, rel=1e-12)
    assert config.pipeline.dimensions(RESNET50) == (2048 if name == "goyal" else 8192)
