"""The health of a run in numbers, from what a step computes anyway. Called only when a line is printed."""
import math
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from parallel.collectives import all_reduce_sum, is_main, row_counts
from parallel.files import replacing
from parallel.spectrum import effective_rank, singular_values
from pretrain.methods.correlation import normalise

ROWS = 512  # embeddings in the effective rank, at most: their eigenvalues are computed on the spot
CORNER = 128  # dimensions in the picture of C; the first are as good as any others


@torch.no_grad()
def embedding_health(z: torch.Tensor) -> dict[str, float]:
    """Return the effective rank and the spread of embeddings z (n, D), this process's of one view.

    effective_rank: see parallel/spectrum.py; of the batch-normalised embeddings, so up to min(n - 1, D); n up
        to 512. Compare it within one run only.
    embedding_spread: mean over dimensions of the deviation of l2-normalised embeddings, times sqrt(D): 0 if
        all are one point, about 1 if they point everywhere (as in Figure 2 of SimSiam, arXiv 2011.10566).
    Both are nan for embeddings that are not finite.
    """
    if not z.isfinite().all():
        return {"effective_rank": math.nan, "embedding_spread": math.nan}
    z = z.detach().float()
    spread = functional.normalize(z, dim=1).std(0, correction=0).mean().item() * math.sqrt(z.size(1))
    return {"effective_rank": effective_rank(singular_of(z)), "embedding_spread": spread}


def singular_of(z: torch.Tensor) -> torch.Tensor:
    """Return the singular values (min(n, 512, D),), float64, ascending, of the first 512 rows of z (n, D)
    after batch normalisation."""
    rows = z[:ROWS]
    return singular_values((rows - rows.mean(0)) / (rows.std(0, correction=0) + 1e-5))


@torch.no_grad()
def save_correlation(path: Path, step: int, z1: torch.Tensor, z2: torch.Tensor) -> None:
    """Write what a picture of C, the cross-correlation of two views, needs. It shows what any method does to
    its embeddings. Every process calls it, the main one writes. No random numbers are drawn.

    z1, z2 (n, D): this process's embeddings of the step. The file is an .npz of float32 with step; diagonal
    (D,); corner (k, k), C itself in the first k = min(D, 128) dimensions of the joint batch; singular_values,
    descending, as for the effective rank. Nothing is written if they are not finite.
    """
    count = sum(row_counts(len(z1)))
    a, b = (normalise(z, count).rows for z in (z1, z2))
    diagonal = all_reduce_sum(torch.linalg.vecdot(a, b, dim=0)) / count
    corner = all_reduce_sum(a[:, :CORNER].T @ b[:, :CORNER]) / count
    if not is_main() or not (corner.isfinite().all() and z1.isfinite().all()):
        return
    arrays = dict(diagonal=diagonal, corner=corner, singular_values=singular_of(z1.float()).flip(0))
    values = {name: value.float().cpu().numpy() for name, value in arrays.items()}
    with replacing(path) as draft, open(draft, "wb") as file:
        np.savez(file, step=step, **values)  # type: ignore[arg-type]
