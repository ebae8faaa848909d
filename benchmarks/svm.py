"""VOC07's SVM: time of the whole cost grid by plain LinearSVC over ours, and the memory of both.

    python -m benchmarks.svm [--rounds N]

It measures one class and one fold of the protocol at full size: 11 costs on two thirds of 5011 images of 2048
features, then the fit on all of them. The features are synthetic, non-negative, of length 1, made of 200
factors. The kernel matrix serves all 20 classes and 3 folds; it is timed by itself, and a 60th of its time
counts. Where liblinear stops at its 2000 iterations (the highest costs), only ours is exact. Exits with 1
below the target. On one core (OMP_NUM_THREADS=1) the plain side takes about a minute, so there are few rounds
and no warm-up.
"""
import sys

import numpy as np
import torch
from sklearn.metrics import average_precision_score

from benchmarks import common
from transfer.classification import svm, svm_solver

FLAGS = {"rounds": 1}
IMAGES, DIMENSIONS, FACTORS, POSITIVES = 5011, 2048, 200, 0.06  # positives: the mean share of VOC07's classes
CLASSES, FOLDS = 20, 3
TARGET = 3.5
OURS = svm_solver.Settings(svm.Config.costs, FOLDS, 2.0, 1e-4, 2000)
PLAIN = OURS._replace(solver="liblinear")  # scikit-learn's LinearSVC, cost by cost


def problem(images=IMAGES, dimensions=DIMENSIONS):
    """Return features (images, dimensions) float64 and one class's labels in {1, -1}."""
    draw = np.random.default_rng(0)
    factors = draw.gamma(0.3, size=(images, FACTORS))
    features = factors @ draw.gamma(0.2, size=(FACTORS, dimensions))
    features += 0.5 * draw.normal(size=features.shape)
    score = factors @ draw.normal(size=FACTORS) + 2 * draw.normal(size=images)
    return (svm_solver.normalised(np.maximum(0, features), 1e-5),
            np.where(score > np.quantile(score, 1 - POSITIVES), 1, -1))


def grid(features, kernel, target, settings):
    """Fit one fold at all costs, and everything at one; returns ([held-out AP of each cost], AP of that last
    fit)."""
    scores, _ = svm_solver.fold_scores(features, kernel, target, 0, settings)
    cost = settings.costs[int(np.argmax(scores))]
    final, _ = svm_solver.refit(features, kernel, target, features, cost, settings)
    return [*scores, float(average_precision_score(target, final))]


def peak(name):
    """Return the bytes above features and labels. One cost of liblinear needs as much as all."""
    features, target = problem()
    svm_solver.liblinear(features[:64], target[:64], 1.0, OURS)  # loads libraries
    if name == "plain":
        return common.peak_bytes(lambda: grid(features, None, target, PLAIN._replace(costs=(0.01,))),
                                 torch.device("cpu"))
    return common.peak_bytes(lambda: grid(features, svm_solver.gram(features), target, OURS),
                             torch.device("cpu"))


def measure(args):
    features, target = problem()
    kernel, found = svm_solver.gram(features), {}
    runs = {"kernel": lambda: svm_solver.gram(features),
            "ours": lambda: found.update(ours=grid(features, kernel, target, OURS)),
            "plain": lambda: found.update(plain=grid(features, None, target, PLAIN))}
    seconds = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            seconds[name].append(common.clock(run, 1, lambda: None))
    shared = [ours + one / (CLASSES * FOLDS) for ours, one in zip(seconds["ours"], seconds["kernel"])]
    ratio = common.ratio(seconds["plain"], shared)
    mib = [common.in_fresh_process(peak, name) / common.MIB for name in ("plain", "ours")]
    apart = np.abs(np.subtract(found["ours"], found["plain"]))
    rows = [common.Row("a class and a fold, all costs", "time, plain over ours", ratio, f"{TARGET}",
                       f"{mib[0]:.0f} and {mib[1]:.0f} MiB", ratio.median < TARGET)]
    rows += [common.Row(f"cost {cost:g}", "AP apart", one) for cost, one in zip(OURS.costs, apart[:-1])]
    return [*rows, common.Row("refit", "AP apart", apart[-1])]


if __name__ == "__main__":
    sys.exit(common.main(__doc__, FLAGS, measure))
