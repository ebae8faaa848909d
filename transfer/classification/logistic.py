"""L2-regularised logistic regression by L-BFGS, for one label an image or several.

The loss and its gradient are two matrix products, on whatever device the features are (on a CPU as fast as
scikit-learn's solver); SciPy's L-BFGS-B steers in float64.
"""
from typing import Any

import numpy as np
import torch
from scipy import optimize
from torch.nn import functional

MEMORY = 10  # pairs that L-BFGS remembers, as scikit-learn's solver


def fit(features: torch.Tensor, targets: torch.Tensor, strength: float, start: np.ndarray,
        tolerance: float, max_iterations: int) -> tuple[np.ndarray, bool]:
    """Weights (classes, d + 1) float64, the bias last, and whether L-BFGS met its tolerance.

    Minimises sum of losses + strength / 2 x |weights without bias|^2, over n so that the tolerance (of the
    largest element of the gradient) does not depend on the size of the set: scikit-learn's objective with
    C = 1 / strength. features (n, d); targets (n,) int64: cross-entropy, or (n, classes) of 0 and 1 in the
    features' dtype: one binary problem for each column. start: as the weights.
    """
    count = len(features)

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        loss: Any
        weights = torch.from_numpy(flat.reshape(start.shape)).to(features)
        scores = torch.addmm(weights[:, -1], features, weights[:, :-1].T)
        if targets.ndim == 1:
            logs = functional.log_softmax(scores, 1)
            loss = -logs.gather(1, targets[:, None]).double().sum().item()
            error = logs.exp_()
            error[torch.arange(count, device=error.device), targets] -= 1
        else:
            loss = functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")
            loss, error = loss.double().sum().item(), scores.sigmoid_().sub_(targets)
        gradient = torch.cat([error.T @ features, error.sum(0)[:, None]], 1).double().cpu().numpy()
        shrunk = flat.reshape(start.shape)[:, :-1]
        gradient[:, :-1] += strength * shrunk
        return (loss + strength / 2 * np.square(shrunk).sum()) / count, gradient.ravel() / count

    found = optimize.minimize(value_and_gradient, start.ravel(), jac=True, method="L-BFGS-B", options={
        "maxiter": max_iterations, "maxfun": 2 * max_iterations, "gtol": tolerance, "ftol": 0,
        "maxcor": MEMORY, "maxls": 50})
    return found.x.reshape(start.shape), bool(np.abs(found.jac).max() <= tolerance)


def scores(features: torch.Tensor, weights: np.ndarray) -> torch.Tensor:
    """features (n, d), weights (classes, d + 1) of `fit` -> (n, classes) in the features' dtype."""
    matrix = torch.from_numpy(weights).to(features)
    return torch.addmm(matrix[:, -1], features, matrix[:, :-1].T)
