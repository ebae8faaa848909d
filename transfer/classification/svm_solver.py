"""Linear SVMs with liblinear: the cost of each class by cross-validation, then a fit on everything.

Imports no torch, so that the processes which share the fits start fast and stay small.
"""
import warnings
from typing import NamedTuple

import joblib
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

SERIAL_WORK = 1e9  # values passed through a solver below which starting processes costs more than it saves


class Settings(NamedTuple):
    """What defines a solution; see the fields of the same names in svm.Config."""
    costs: tuple[float, ...]
    folds: int
    positive_weight: float
    tolerance: float
    max_iterations: int
    seed: int = 0


def normalised(features: np.ndarray, epsilon: float) -> np.ndarray:
    """(n, 2048) -> the same in float64, each row over (its L2 norm + epsilon)."""
    features = features.astype(np.float64)
    return features / (np.linalg.norm(features, axis=1, keepdims=True) + epsilon)


def solve(train, labels, test, settings: Settings, workers: int) -> list[tuple[float, np.ndarray, int]]:
    """For each column of labels (n, classes): chosen cost, scores of the test rows, fits at max_iterations.

    Processes, not threads: liblinear draws its order from one generator per process, so that threads change
    each other's solutions (the weights of ill-conditioned fits by percents) from run to run.
    """
    fits = labels.shape[1] * (len(settings.costs) * settings.folds + 1)
    processes = max(1, workers) if fits * train.size > SERIAL_WORK else 1
    columns = [np.where(column == 1, 1, -1) for column in labels.T]  # difficult and absent alike: negative
    with joblib.Parallel(n_jobs=processes) as parallel:
        jobs = [(column, fold) for column in range(len(columns)) for fold in range(settings.folds)]
        answers = parallel(joblib.delayed(fold_scores)(train, columns[column], fold, settings)
                           for column, fold in jobs)
        scores = np.array([scores for scores, _ in answers])
        scores = scores.reshape(len(columns), settings.folds, len(settings.costs))
        chosen = [settings.costs[best] for best in scores.mean(1).argmax(1)]  # the first of equals, as VISSL
        refits = parallel(joblib.delayed(refit)(train, target, test, cost, settings)
                          for target, cost in zip(columns, chosen))
    early = np.array([count for _, count in answers], dtype=int).reshape(len(columns), settings.folds).sum(1)
    return [(cost, scores, int(count + late))
            for cost, (scores, late), count in zip(chosen, refits, early, strict=True)]


def fold_scores(features, target, fold: int, settings: Settings) -> tuple[list[float], int]:
    """Held-out average precision (0-1) of one fold at each cost, and how many fits hit max_iterations.

    Folds and score are those of scikit-learn's cross_val_score(cv=3, scoring="average_precision"), as in
    VISSL: stratified, unshuffled, without interpolation.
    """
    kept, held_out = list(StratifiedKFold(settings.folds).split(features, target))[fold]
    scores, unfinished = [], 0
    for cost in settings.costs:
        model, stopped = fit(features[kept], target[kept], cost, settings)
        found = model.decision_function(features[held_out])
        scores.append(float(average_precision_score(target[held_out], found)))
        unfinished += stopped
    return scores, unfinished


def refit(features, target, test, cost: float, settings: Settings) -> tuple[np.ndarray, int]:
    """Scores (m,) of the test rows by the SVM of all training rows, and whether it hit max_iterations."""
    model, stopped = fit(features, target, cost, settings)
    return model.decision_function(test), stopped


def fit(features, target, cost: float, settings: Settings) -> tuple[LinearSVC, int]:
    """features (n, 2048), target (n,) in {1, -1} -> the fitted SVM, and 1 if it stopped at max_iterations."""
    model = LinearSVC(C=cost, loss="squared_hinge", penalty="l2", dual=True, tol=settings.tolerance,
                      max_iter=settings.max_iterations, intercept_scaling=1.0, random_state=settings.seed,
                      class_weight={1: settings.positive_weight, -1: 1.0})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted, and told in the log, instead
        model.fit(features, target)
    return model, int(model.n_iter_ >= settings.max_iterations)
