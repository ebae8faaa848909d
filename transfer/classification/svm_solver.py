"""Linear SVMs with squared hinge: the cost of each class by cross-validation, then a fit on everything.

liblinear is the reference. Its time grows with the cost, where fewer and fewer samples are inside the margin;
there Newton's method in the basis of those samples is exact and cheap (Keerthi and DeCoste, JMLR 6, 2005).
For the active set S, the samples with y f < 1, it solves (K_SS + diag(1 / (2 C weight))) b = y_S and repeats
with the samples that are then inside the margin, until S stands still. K = X X', with a constant feature for
the bias, which liblinear regularises too, is computed once for all classes, costs and folds.

Imports no torch: the processes that share the fits must start fast and stay small.
"""
import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import joblib
import numpy as np
from joblib.externals import loky
from scipy import linalg
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from parallel.process import bar

SOLVERS = ("mixed", "liblinear")
SERIAL_WORK = 1e9  # values passed through a solver below which starting processes costs more than it saves
# With more samples than features, liblinear is the faster one up to this cost: nearly all samples are active.
LIBLINEAR_UP_TO = 1.0
NEWTON_STEPS = 50  # two to six suffice; should S ever cycle, liblinear takes over


class Settings(NamedTuple):
    """What defines a solution; see the fields of the same names in svm.Config."""
    costs: tuple[float, ...]
    folds: int
    positive_weight: float
    tolerance: float
    max_iterations: int
    solver: str = "mixed"
    seed: int = 0


def normalised(features: np.ndarray, epsilon: float) -> np.ndarray:
    """(n, d) -> the same in float64, each row over (its L2 norm + epsilon)."""
    features = features.astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True) + epsilon
    return features


def gram(features: np.ndarray) -> np.ndarray:
    """(n, d) -> (n, n) float64: inner products of the rows, each with a constant 1 behind it."""
    kernel = features @ features.T
    kernel += 1
    return kernel


@contextlib.contextmanager
def pool(processes: int) -> Iterator[joblib.Parallel]:
    """A joblib.Parallel whose processes end with the block. joblib would keep them for 300 s, and a process
    of parallel.launch, which waits for its children when it ends, would wait for that."""
    try:
        with joblib.Parallel(n_jobs=processes) as parallel:
            yield parallel
    finally:
        if processes > 1:
            loky.get_reusable_executor(reuse=True).shutdown()


def solve(train: np.ndarray, labels: np.ndarray, test: np.ndarray, settings: Settings,
          workers: int) -> list[tuple[float, np.ndarray, int]]:
    """For each column of labels (n, classes): chosen cost, scores of the test rows, fits at max_iterations.

    Processes, not threads: liblinear draws its order from one generator per process, so that threads change
    each other's solutions (the weights of ill-conditioned fits by percents) from run to run. The arrays are
    shared between them as memory-mapped files.
    """
    fits = labels.shape[1] * (len(settings.costs) * settings.folds + 1)
    processes = max(1, workers) if fits * train.size > SERIAL_WORK else 1
    columns = [np.where(column == 1, 1, -1) for column in labels.T]  # difficult and absent alike: negative
    kernel = gram(train) if settings.solver == "mixed" else None
    with pool(processes) as parallel:
        jobs = [(column, fold) for column in range(len(columns)) for fold in range(settings.folds)]
        answers = parallel(joblib.delayed(fold_scores)(train, kernel, columns[column], fold, settings)
                           for column, fold in bar(jobs, "cross-validation"))
        scores = np.array([scores for scores, _ in answers])
        scores = scores.reshape(len(columns), settings.folds, len(settings.costs))
        chosen = [settings.costs[best] for best in scores.mean(1).argmax(1)]  # the first of equals, as VISSL
        refits = parallel(joblib.delayed(refit)(train, kernel, target, test, cost, settings)
                          for target, cost in bar(list(zip(columns, chosen)), "fits"))
    early = np.array([count for _, count in answers], dtype=int).reshape(len(columns), settings.folds).sum(1)
    return [(cost, scores, int(count + late))
            for cost, (scores, late), count in zip(chosen, refits, early, strict=True)]


def fold_scores(features: np.ndarray, kernel: np.ndarray | None, target: np.ndarray, fold: int,
                settings: Settings) -> tuple[list[float], int]:
    """Held-out average precision (0-1) of one fold at each cost, and how many fits hit max_iterations.

    Folds and score are those of scikit-learn's cross_val_score(cv=3, scoring="average_precision"), as in
    VISSL: stratified, unshuffled, without interpolation.
    """
    kept, held_out = list(StratifiedKFold(settings.folds).split(features, target))[fold]
    models = fit_costs(features, kernel, target, kept, settings.costs, settings)
    outside = features[held_out]
    scores = [float(average_precision_score(target[held_out], outside @ weights + bias))
              for weights, bias, _ in models]
    return scores, sum(stopped for *_, stopped in models)


def refit(features: np.ndarray, kernel: np.ndarray | None, target: np.ndarray, test: np.ndarray, cost: float,
          settings: Settings) -> tuple[np.ndarray, int]:
    """Scores (m,) of the test rows by the SVM of all training rows, and whether it hit max_iterations."""
    # A cost in between gives Newton a small set to begin with, for less than it saves.
    steps = [cost] if kernel is None or cost <= LIBLINEAR_UP_TO else [LIBLINEAR_UP_TO, cost]
    weights, bias, stopped = fit_costs(features, kernel, target, np.arange(len(target)), steps, settings)[-1]
    return test @ weights + bias, stopped


def fit_costs(features: np.ndarray, kernel: np.ndarray | None, target: np.ndarray, rows: np.ndarray,
              costs: Sequence[float], settings: Settings) -> list[tuple]:
    """(weights (d,), bias, 1 if it stopped at max_iterations) of the rows' SVM at each cost.

    features (n, d), target (n,) in {1, -1}; kernel (n, n) of `gram`, or None for liblinear alone.
    """
    own, found, active = features[rows], {}, np.ones(len(rows), dtype=bool)
    for cost in sorted(set(costs)):
        dual = None
        if kernel is not None and (cost > LIBLINEAR_UP_TO or len(rows) <= features.shape[1]):
            dual = newton(kernel, target, rows, active, cost, settings)
        if dual is None:
            found[cost] = liblinear(own, target[rows], cost, settings)
        else:
            found[cost] = dual @ own, dual.sum(), 0
        weights, bias, _ = found[cost]
        active = target[rows] * (own @ weights + bias) < 1
    return [found[cost] for cost in costs]


def newton(kernel: np.ndarray, target: np.ndarray, rows: np.ndarray, active: np.ndarray, cost: float,
           settings: Settings) -> np.ndarray | None:
    """Dual variables (len(rows),) of the exact solution, from a first guess of the active set, (len(rows),)
    bool; None if the set cycles."""
    signs = target[rows].astype(np.float64)
    slack = 1 / (2 * cost * np.where(signs > 0, settings.positive_weight, 1.0))
    for _ in range(NEWTON_STEPS):
        products = kernel[np.ix_(rows[active], rows)]
        system = products[:, active]
        system[np.diag_indices_from(system)] += slack[active]
        dual = linalg.solve(system, signs[active], assume_a="pos", overwrite_a=True, check_finite=False)
        margins = signs * (dual @ products)
        before, active = active, margins < 1
        if np.array_equal(before, active):
            full = np.zeros(len(rows))
            full[active] = dual
            return full
    return None


def liblinear(features: np.ndarray, target: np.ndarray, cost: float,
              settings: Settings) -> tuple[np.ndarray, float, int]:
    """(weights, bias, 1 if it stopped at max_iterations), as VISSL calls it: dual, bias scaled by 1."""
    model = LinearSVC(C=cost, loss="squared_hinge", penalty="l2", dual=True, tol=settings.tolerance,
                      max_iter=settings.max_iterations, intercept_scaling=1.0, random_state=settings.seed,
                      class_weight={1: settings.positive_weight, -1: 1.0})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted, and told in the log, instead
        model.fit(features, target)
    return model.coef_[0], model.intercept_[0], int(model.n_iter_ >= settings.max_iterations)
