"""Health of a run in numbers, from what a step computes anyway; only called where a line is printed."""
import math

import torch
from torch.nn import functional

ROWS = 512  # at most so many embeddings in the effective rank: their eigenvalues are computed on the spot


def correlation_health(correlation, lambd: float) -> dict[str, float]:
    """losses.Correlation -> the loss's two parts per dimension, and how near C is to the identity: mean of
    its diagonal (1 is the aim) and root mean square off the diagonal (0 is the aim; 0.0 for one dimension).
    """
    diagonal = correlation.diagonal.double()
    width = len(diagonal)
    off_diagonal = max((correlation.square - diagonal.square().sum()).item(), 0.0)  # nan stays nan
    return {"loss_invariance": (diagonal - 1).square().mean().item(),
            "loss_redundancy": lambd * off_diagonal / width,
            "diagonal_mean": diagonal.mean().item(),
            "off_diagonal_rms": math.sqrt(off_diagonal / max(1, width * (width - 1)))}


@torch.no_grad()
def embedding_health(z: torch.Tensor) -> dict[str, float]:
    """z (n, D): this process's embeddings of one view -> their effective rank and spread.

    effective_rank: exp of the entropy of the normalised singular values (Roy and Vetterli, EUSIPCO 2007) of
        the batch-normalised embeddings, from 1 to min(n - 1, D); n up to 512. Compare within one run.
    embedding_spread: mean over dimensions of the deviation of l2-normalised embeddings, times sqrt(D): 0 when
        all are one point, about 1 when they point everywhere (as Figure 2 of SimSiam, arXiv 2011.10566).
    nan for embeddings that are not finite.
    """
    if not z.isfinite().all():
        return {"effective_rank": math.nan, "embedding_spread": math.nan}
    z = z.detach().float()
    spread = functional.normalize(z, dim=1).std(0, correction=0).mean().item() * math.sqrt(z.size(1))
    rows = z[:ROWS]
    rows = (rows - rows.mean(0)) / (rows.std(0, correction=0) + 1e-5)
    product = rows @ rows.T if len(rows) < rows.size(1) else rows.T @ rows
    singular = torch.linalg.eigvalsh(product.double()).clamp(min=0).sqrt()
    share = singular / singular.sum().clamp(min=1e-30)
    return {"effective_rank": math.exp(torch.special.entr(share).sum().item()), "embedding_spread": spread}
