"""Training objectives on embeddings. One function each: views of a batch in, a scalar out."""
from dataclasses import dataclass

import torch

from parallel.batchnorm import update_running_statistics
from parallel.collectives import row_counts
from pretrain.methods import correlation

FORMS = ("auto", "gram", "direct", "reference")


@dataclass(frozen=True)
class Correlation:
    """What the loss already knows about C, detached: its diagonal (D,) and |C|_F^2, a float64 scalar."""
    diagonal: torch.Tensor
    square: torch.Tensor


def choose_form(count: int, width: int) -> str:
    """The cheaper exact form for a joint batch `count` and embeddings `width`: 8 N^2 D operations for the
    Gram form against 6 N D^2."""
    return "gram" if 4 * count < 3 * width else "direct"


def barlow_twins_loss(z1, z2, lambd, form="auto", running=None) -> torch.Tensor:
    """Barlow Twins' loss (arXiv 2103.03230, eq. 1) of the joint batch of all processes, a scalar.

    z1, z2: (n, D) embeddings of this process's two views before their batch norm, which is done inside
        (biased variance, eps 1e-5, statistics of the joint batch). n may differ between processes.
    lambd: weight of the off-diagonal terms.
    form: auto, gram, direct or reference, see correlation.py; all give the same value and gradient.
    running: an nn.BatchNorm1d(D, affine=False) whose running statistics follow, z1 first, then z2.

    Computed in float32 also under autocast and for 16-bit embeddings, in float64 for float64. The gradient
    with respect to z is this process's rows of the global loss's gradient; there is no second derivative.
    ValueError for shapes that do not fit and a joint batch below 2.
    """
    return barlow_twins_terms(z1, z2, lambd, form, running)[0]


def barlow_twins_terms(z1, z2, lambd, form="auto", running=None) -> tuple[torch.Tensor, Correlation]:
    """The same, and what it learnt about C on the way."""
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, found {form!r}")
    if z1.dim() != 2 or z1.shape != z2.shape:
        raise ValueError(f"the loss expected two (N, D) embeddings of one shape, found {tuple(z1.shape)} and "
                         f"{tuple(z2.shape)}")
    count = sum(row_counts(len(z1)))
    if count < 2:
        raise ValueError(f"the loss expected at least 2 images in the batch, found {count}")
    with torch.autocast(z1.device.type, enabled=False):
        if form == "reference":
            loss, diagonal, square, *statistics = correlation.reference(z1, z2, lambd)
        else:
            form = choose_form(count, z1.size(1)) if form == "auto" else form
            loss, diagonal, square, *statistics = correlation._Correlation.apply(z1, z2, lambd, form)
    if running is not None:
        for mean, variance in (statistics[:2], statistics[2:]):
            update_running_statistics(running, mean, variance, count)
    return loss, Correlation(diagonal, square)


def gradient_factor(reference_world_size, processes: int) -> float:
    """What to multiply the loss with before backward.

    Each process has its own rows' gradient of the joint loss and DDP takes the mean, so DDP's result is the
    exact gradient / processes. We want the exact gradient / reference, whatever the number of processes.
    """
    return 1.0 if reference_world_size == "actual" else processes / reference_world_size
