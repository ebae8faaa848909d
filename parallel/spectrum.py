"""The effective rank of features: how many directions they use. One definition, for pretraining and transfer.

RankMe(Z) = exp(-sum of p_k log p_k) with p_k = sigma_k / (sum of sigma) + 1e-7 over the min(N, D) singular
values of the N x D matrix of features (Garrido et al., arXiv 2210.02885, equation 1, after Roy and Vetterli,
EUSIPCO 2007). From 1, all features along one line, to min(N, D), as long in all directions.
"""
import math

import torch

from parallel.collectives import all_gather_rows, all_reduce_sum, is_main, row_counts

EPSILON = 1e-7
SLICE = 4096  # rows that are float64 at once


def effective_rank(singular: torch.Tensor) -> float:
    """Return the effective rank by all singular values (min(N, D),) of a matrix."""
    share = singular.double() / singular.double().sum().clamp(min=1e-30) + EPSILON
    return math.exp(torch.special.entr(share).sum().item())


def singular_values(rows: torch.Tensor) -> torch.Tensor:
    """Return the singular values (min(N, D),), float64, ascending, of rows (N, D)."""
    return roots(products(rows if len(rows) >= rows.size(1) else rows.T))


def joint_effective_rank(rows: torch.Tensor) -> float:
    """Return the effective rank of the rows (n_r, D) of all processes together, in the main process; 0 in
    others. Each calls it. With as many rows as columns or more, none travels."""
    counts = row_counts(len(rows))
    if sum(counts) < rows.size(1):
        rows = all_gather_rows(rows, counts)
        return effective_rank(singular_values(rows)) if is_main() else 0.0
    joint = all_reduce_sum(products(rows))
    return effective_rank(roots(joint)) if is_main() else 0.0


def products(rows: torch.Tensor) -> torch.Tensor:
    """Return rows' transpose times rows (D, D), float64."""
    total = torch.zeros(rows.size(1), rows.size(1), dtype=torch.float64, device=rows.device)
    for part in rows.split(SLICE):
        total.addmm_(part.double().T, part.double())
    return total


def roots(gram: torch.Tensor) -> torch.Tensor:
    """Return the singular values behind products. Rounding makes those that are 0 up to 1e-8 of the largest,
    which moves the rank of 2,048 features along a few lines by less than 1e-4 of itself."""
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
