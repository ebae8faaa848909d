"""Low-shot VOC07 against a plain loop; the draws keep VISSL's counts."""
import dataclasses
import json
import multiprocessing

import classification_toys as toys
import numpy as np
import pytest
from sklearn.svm import LinearSVC

from transfer.classification import lowshot, svm_solver
from transfer.classification.metrics import average_precision

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
SMALL = lowshot.Config(shots=(1, 3), draws=2, costs=(0.1, 1.0, 10.0), image_size=32)


def problem():
    """Features (120, 160) and (60, 160), labels with some ignored (0)."""
    draw = np.random.default_rng(0)
    features = svm_solver.normalised(np.abs(draw.normal(size=(180, 160))), 1e-5)
    scores = features @ draw.normal(size=(160, 3)) + 0.5 * draw.normal(size=(180, 3))
    labels = np.where(scores > np.quantile(scores, 0.7, axis=0), 1, -1)
    labels[draw.random(labels.shape) < 0.1] = 0
    return features[:120], labels[:120], features[120:], labels[120:]


def test_draws_have_n_positives_and_classes_minus_one_times_n_negatives():
    labels = problem()[1]
    rows = lowshot.drawn(labels, 1, 8, (0, 0, 1, 0))
    assert [(labels[rows, 1] == value).sum() for value in (1, 0, -1)] == [8, 0, 16]
    assert len(set(rows)) == 24 and rows.tolist() == sorted(rows)
    assert not np.array_equal(rows, lowshot.drawn(labels, 1, 8, (0, 1, 1, 0)))


def test_precisions_equal_a_plain_loop():
    train, labels, test, truth = problem()
    costs, rows = (0.1, 1.0, 10.0), lowshot.drawn(labels, 0, 6, (0, 0, 0, 0))
    settings = svm_solver.Settings(costs, 0, 2.0, 1e-4, 2000)
    found = lowshot.precisions(train, svm_solver.gram(train), labels[:, 0], test, truth[:, 0], rows, settings)
    rest = np.setdiff1d(np.arange(len(train)), rows)
    for place, cost in enumerate(costs):
        model = LinearSVC(C=cost, class_weight={1: 2, -1: 1}, dual=True, max_iter=100_000, tol=1e-8)
        model.fit(train[rows], labels[rows, 0])
        expected = [average_precision(model.decision_function(inputs), wanted) for inputs, wanted in
                    ((train[rest], labels[rest, 0]), (test, truth[:, 0]))]
        assert found[:, place] == pytest.approx(expected, abs=1e-4)


def test_the_cost_is_chosen_without_the_test_set(tmp_path):
    """One n, two draws, one class, two costs: train prefers the first, test the second."""
    table = np.zeros((2, 1, 2, 1, 2))
    table[0, 0, :, 0] = [[50, 40], [60, 50]]
    table[1, 0, :, 0] = [[30, 80], [34, 90]]
    context = toys.context(tmp_path, tmp_path / "out")
    config = dataclasses.replace(SMALL, shots=(4,), costs=(1.0, 10.0))
    found = lowshot.report(table, ("apple",), config, context, lowshot.Journal(context))
    assert found == {"mAP_n4": 32.0, "std_n4": 2.0, "best_mAP_n4": 85.0}
    assert json.loads((tmp_path / "out/record/per_class.json").read_text()) == {"apple": {"AP_n4": 32.0}}


def test_run_on_a_voc_tree(tmp_path):
    toys.voc_tree(tmp_path / "VOC2007")
    context = toys.context(tmp_path, tmp_path / "out")
    metrics = lowshot.run(toys.backbone(), SMALL, context)
    assert list(metrics) == ["mAP_n1", "mAP_n3", "std_n1", "std_n3", "best_mAP_n1", "best_mAP_n3"]
    assert all(metrics[f"best_mAP_n{n}"] >= metrics[f"mAP_n{n}"] - 1e-9 for n in (1, 3))
    again = lowshot.run(toys.backbone(), SMALL, dataclasses.replace(context, workers=2))
    assert again == pytest.approx(metrics, abs=1e-9)
    assert not multiprocessing.active_children()  # a rank would wait for them
    assert 0 < metrics["mAP_n3"] <= 100 and lowshot.data(SMALL, context)["counts"] == {"train": 18, "test": 9}


@pytest.mark.parametrize("changes, message", [
    ({"shots": (7,)}, "expected at least 7 positive images of each class, found 6 of apple"),
    ({"shots": ()}, "shots: expected values from 1"), ({"draws": 0}, "draws: expected from 1"),
    ({"shots": (6,)}, "expected 12 images without each class, found 10 without boat; lower shots"),
    ({"solver": "fast"}, "solver: expected one of"),
])
def test_errors(tmp_path, changes, message):
    toys.voc_tree(tmp_path / "VOC2007")
    with pytest.raises(ValueError, match=message):
        lowshot.data(dataclasses.replace(SMALL, **changes), toys.context(tmp_path, tmp_path / "out"))


def test_defaults_are_vissls():
    """Golden: eval_resnet_8gpu_transfer_voc07_low_shot_svm.yaml."""
    config = lowshot.Config()
    assert config.shots == (1, 2, 4, 8, 16, 32, 64, 96) and config.draws == 5
    assert config.costs == (0.01, 0.1, 1, 2, 5, 10, 15, 20, 50, 100, 1000)
