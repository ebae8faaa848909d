"""Barlow Twins' loss and its gradient on raw embeddings, exactly, without a D x D matrix.

A, B: the batch-normalised views (N x D); C = A'B / N; c = diag(C). The loss (arXiv 2103.03230, eq. 1) is

    L = sum_i (c_i - 1)^2 + lambd (|C|_F^2 - sum_i c_i^2).

gram    uses |A'B|_F^2 = <AA', BB'>_F: two N x N matrices K1 = AA', K2 = BB' instead of C.
        dL/dA = (2 lambd / N^2) K2 A + B r,  dL/dB = (2 lambd / N^2) K1 B + A r,
        with r_i = (2 (c_i - 1) - 2 lambd c_i) / N per column. 8 N^2 D operations; in one process, where K1
        and K2 are symmetric, towards 6.
direct  walks through C in blocks of columns; each block becomes its own gradient G (2 lambd C, diagonal
        2 (c - 1)): dL/dA = B G' / N, dL/dB = A G / N. 6 N D^2 operations.

A and B are centred, so dL/dA and dL/dB have column means 0 and batch norm's backward is one reduction,
dL/dz = (g - a mean(g a)) / sigma.

Several processes: N is the joint batch and each process gets the rows of the gradient that belong to its
own z, so parameter gradients have to be summed over processes. gram gathers the embeddings and computes its
own rows of K1 and K2; direct sums each block of C over processes. All collectives are in the forward pass,
where the gradient is computed too.
"""
from dataclasses import dataclass

import torch

from parallel.collectives import all_gather_rows, all_reduce_sum, rank, row_counts

EPS = 1e-5  # of nn.BatchNorm1d, main.py:205 of facebookresearch/barlowtwins
COLUMNS = 1024  # width of a block: of C in the direct form, of the gradient in the Gram form
STRIP = 512  # rows of K1 and K2 that are computed at once: fewer save more, but keep a GPU less busy


@dataclass(frozen=True)
class Normalised:
    """One view after batch norm: rows (n, D) of this process, and the joint batch's statistics (D,)."""
    rows: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor  # biased

    @property
    def inverse_deviation(self):
        return (self.variance + EPS).rsqrt()


def working_type(z: torch.Tensor) -> torch.dtype:
    """float64 stays; everything else is computed in float32, 16-bit embeddings too."""
    return torch.float64 if z.dtype == torch.float64 else torch.float32


def normalise(z, count, joint=True) -> Normalised:
    """z (n, D) -> batch-normalised rows. joint: z holds this process's rows of `count`, else all of them."""
    total = all_reduce_sum if joint else (lambda tensor: tensor)
    z = z.detach().to(working_type(z))
    mean = total(z.sum(0)) / count
    rows = z - mean
    # Two passes: E[z^2] - E[z]^2 would lose digits where the mean is large beside the deviation.
    variance = total(torch.linalg.vecdot(rows, rows, dim=0)) / count
    rows.mul_((variance + EPS).rsqrt())
    return Normalised(rows, mean, variance)


class _Correlation(torch.autograd.Function):
    """Computes loss and gradient together; backward only multiplies by the gradient of the loss."""

    @staticmethod
    def forward(ctx, z1, z2, lambd, form):
        compute = {"gram": gram, "direct": direct}[form]
        needs_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        loss, diagonal, square, views, gradients = compute(z1, z2, lambd, needs_gradient)
        if needs_gradient:
            ctx.save_for_backward(*(g.to(z.dtype) for g, z in zip(gradients, (z1, z2))))
        extra = (diagonal, square, *(getattr(v, name) for v in views for name in ("mean", "variance")))
        ctx.mark_non_differentiable(*extra)
        return loss, *extra

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, *_):
        return *(grad * g for g in ctx.saved_tensors), None, None


def gram(z1, z2, lambd, needs_gradient):
    counts = row_counts(len(z1))
    count, start = sum(counts), sum(counts[:rank()]) if len(counts) > 1 else 0
    own = slice(start, start + len(z1))
    # Raw embeddings travel (16 bits under autocast, half the bytes) and are normalised on arrival.
    a, b = (normalise(all_gather_rows(z, counts), count, joint=False) for z in (z1, z2))
    diagonal = torch.linalg.vecdot(a.rows, b.rows, dim=0) / count
    k1, k2 = products(a.rows, own), products(b.rows, own)  # (n, N)
    # Row by row, then in float64: one long float32 sum is wrong in the fourth digit.
    square = all_reduce_sum(torch.linalg.vecdot(k1, k2).double().sum()) / count ** 2
    loss = total_loss(diagonal, square, lambd).to(diagonal.dtype)
    if not needs_gradient:
        return loss, diagonal, square, (a, b), None
    r = (2 * (diagonal - 1) - 2 * lambd * diagonal) / count
    # In one process the gradient takes the place of a and b, block by block: 2 N D less memory. Else a and b
    # hold everybody's rows, and one block means one collective a view.
    alone, width = len(counts) == 1, z1.size(1)
    gradients = [view.rows if alone else torch.empty_like(view.rows[own]) for view in (a, b)]
    step = COLUMNS if alone else width
    for first in range(0, width, step):
        block = slice(first, first + step)
        parts = []
        for k, view, other in ((k2, a, b), (k1, b, a)):
            rows = view.rows[own, block]
            g = (k @ view.rows[:, block]).mul_(2 * lambd / count ** 2)
            g.addcmul_(other.rows[own, block], r[block])
            projection = all_reduce_sum(torch.linalg.vecdot(g, rows, dim=0)) / count
            parts.append(g.addcmul_(rows, projection, value=-1).mul_(view.inverse_deviation[block]))
        for whole, part in zip(gradients, parts):
            whole[:, block] = part
    return loss, diagonal, square, (a, b), gradients


def products(rows, own):
    """rows[own] rows' (n, N) of rows (N, D). Of all rows it is symmetric: strip by strip, each pair once."""
    count = len(rows)
    if len(rows[own]) < count:
        return rows[own] @ rows.T
    k = rows.new_empty(count, count)
    for first in range(0, count, STRIP):
        strip, rest = slice(first, first + STRIP), slice(first + STRIP, count)
        k[strip, first:] = rows[strip] @ rows[first:].T
        k[rest, strip] = k[strip, rest].T
    return k


def direct(z1, z2, lambd, needs_gradient):
    count = sum(row_counts(len(z1)))
    a, b = normalise(z1, count), normalise(z2, count)
    width = z1.size(1)
    diagonal, square = a.rows.new_empty(width), a.rows.new_zeros((), dtype=torch.float64)
    if needs_gradient:
        g1, g2 = torch.zeros_like(a.rows), torch.empty_like(b.rows)
        projections = a.rows.new_zeros(2, width)  # mean over the batch of g1 a and g2 b, per column
    for first in range(0, width, COLUMNS):
        block = slice(first, min(first + COLUMNS, width))
        c = all_reduce_sum(a.rows.T @ b.rows[:, block]).div_(count)  # (D, block)
        diagonal[block] = c.diagonal(-first)[:c.size(1)]
        square += torch.linalg.vecdot(c, c).double().sum()
        if not needs_gradient:
            continue
        g = c * (2 * lambd)
        g.diagonal(-first)[:c.size(1)] = 2 * (diagonal[block] - 1)
        g1.addmm_(b.rows[:, block], g.T)
        g2[:, block] = a.rows @ g
        # sum_n g1 a = row sums of G * C, sum_n g2 b = its column sums: no further collective.
        c.mul_(g)
        projections[0] += c.sum(1)
        projections[1, block] = c.sum(0)
    loss = total_loss(diagonal, square, lambd).to(diagonal.dtype)
    if not needs_gradient:
        return loss, diagonal, square, (a, b), None
    gradients = [g.addcmul_(view.rows, projection, value=-1).mul_(view.inverse_deviation / count)
                 for g, view, projection in zip((g1, g2), (a, b), projections)]
    return loss, diagonal, square, (a, b), gradients


def total_loss(diagonal, square, lambd):
    """diagonal (D,) of C and square = |C|_F^2 -> the loss, float64."""
    diagonal = diagonal.double()
    return (diagonal - 1).square().sum() + lambd * (square - diagonal.square().sum())


class _GatherRows(torch.autograd.Function):
    """all_gather_rows whose backward hands each process its own rows. Right when every process computes the
    same value from the gathered rows, and parameter gradients are summed afterwards."""

    @staticmethod
    def forward(ctx, z):
        counts = row_counts(len(z))
        start = sum(counts[:rank()]) if len(counts) > 1 else 0
        ctx.own = slice(start, start + len(z))
        return all_gather_rows(z, counts).clone()

    @staticmethod
    def backward(ctx, grad):
        return grad[ctx.own]


def reference(z1, z2, lambd):
    """The plain formulation, differentiated by autograd: slow, large, easy to check. For tests."""
    z1, z2 = (_GatherRows.apply(z.to(working_type(z))) for z in (z1, z2))
    a, b = ((z - z.mean(0)) / (z.var(0, correction=0) + EPS).sqrt() for z in (z1, z2))
    c = a.T @ b / len(a)
    off_diagonal = c * (1 - torch.eye(len(c), dtype=c.dtype, device=c.device))
    loss = (c.diagonal() - 1).square().sum() + lambd * off_diagonal.square().sum()
    statistics = [value for z in (z1.detach(), z2.detach()) for value in (z.mean(0), z.var(0, correction=0))]
    return loss, c.diagonal().detach(), c.detach().double().square().sum(), *statistics
