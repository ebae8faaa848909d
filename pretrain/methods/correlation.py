"""Losses on the cross-correlation of two views, and their gradients on raw embeddings, exactly, without a
D x D matrix.

A, B: the batch-normalised views (N x D); C = A'B / N; c = diag(C). The loss is

    L = sum_i (c_i - 1)^2 + lambd sum_{i != j} (C_ij - t)^2

with t = 0 for Barlow Twins (arXiv 2103.03230, eq. 1) and t = -1 for HSIC. With s = sum_ij C_ij, which is
(A 1).(B 1) / N, the second sum is |C|_F^2 - |c|^2 - 2 t (s - sum_i c_i) + t^2 D (D - 1).

gram    uses |A'B|_F^2 = <AA', BB'>_F: two N x N matrices K1 = AA', K2 = BB' instead of C.
        dL/dA = (2 lambd / N^2) K2 A + B r - (2 lambd t / N) (B 1) 1',  and dL/dB with A and B exchanged,
        with r_i = (2 (c_i - 1) - 2 lambd (c_i - t)) / N per column. 8 N^2 D operations; in one process,
        where K1 and K2 are symmetric, towards 6.
direct  walks through C in blocks of columns; each block becomes its own gradient G (2 lambd (C - t),
        diagonal 2 (c - 1)): dL/dA = B G' / N, dL/dB = A G / N. 6 N D^2 operations.

A and B are centred, so dL/dA and dL/dB have column means 0 and batch norm's backward is one reduction,
dL/dz = (g - a mean(g a)) / sigma.

Several processes: N is the joint batch and each process gets the rows of the gradient that belong to its
own z, so parameter gradients have to be summed over processes. gram gathers the embeddings and computes its
own rows of K1 and K2; direct sums each block of C over processes. All collectives are in the forward pass,
where the gradient is computed too.
"""
from dataclasses import dataclass

import torch

from parallel.batchnorm import update_running_statistics
from parallel.collectives import all_gather_rows, all_reduce_sum, gather_rows, rank, row_counts

FORMS = ("auto", "gram", "direct", "reference")

COLUMNS = 1024  # width of a block: of C in the direct form, of the gradient in the Gram form
STRIP = 512  # rows of K1 and K2 that are computed at once: fewer save more, but keep a GPU less busy


@dataclass(frozen=True)
class Objective:
    """Which of these losses. The defaults but for lambd are Barlow Twins', whose batch norm is an
    nn.BatchNorm1d (main.py:205 of facebookresearch/barlowtwins)."""
    lambd: float  # weight of the terms off the diagonal
    off_diagonal: float = 0.0  # their aim, t
    eps: float = 1e-5  # added to the variance
    correction: int = 0  # the variance divides by N less this; C divides by N always

    def __call__(self, diagonal: torch.Tensor, square: torch.Tensor,
                 total: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss's two parts, float64 scalars. diagonal: of C, (D,); square: |C|_F^2; total: sum_ij
        C_ij, needed unless t is 0."""
        diagonal, t, width = diagonal.double(), self.off_diagonal, len(diagonal)
        off_diagonal = square - diagonal.square().sum()
        if t:
            off_diagonal = off_diagonal - 2 * t * (total - diagonal.sum()) + t ** 2 * width * (width - 1)
        return (diagonal - 1).square().sum(), self.lambd * off_diagonal


@dataclass(frozen=True)
class Correlation:
    """What a loss knows about C, without gradients: its diagonal (D,), |C|_F^2, a float64 scalar, and the
    loss's two parts."""
    diagonal: torch.Tensor
    square: torch.Tensor
    invariance: torch.Tensor
    redundancy: torch.Tensor

    def health(self) -> dict[str, torch.Tensor]:
        """Return the loss's two parts per dimension, and how near C is to the identity: mean of its diagonal
        (1 is the aim) and root mean square off the diagonal (0.0 for one dimension). float64 scalars."""
        diagonal = self.diagonal.double()
        width = len(diagonal)
        off_diagonal = (self.square - diagonal.square().sum()).clamp(min=0)  # nan stays nan
        return {"loss_invariance": self.invariance / width,
                "loss_redundancy": self.redundancy.clamp(min=0) / width,
                "diagonal_mean": diagonal.mean(),
                "off_diagonal_rms": (off_diagonal / max(1, width * (width - 1))).sqrt()}


@dataclass(frozen=True)
class Normalised:
    """One view after batch norm: rows (n, D) of this process, and the joint batch's statistics (D,)."""
    rows: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor
    inverse_deviation: torch.Tensor


# diagonal (D,) of C, |C|_F^2, sum_ij C_ij (0.0 where t is 0), both views, their gradients (n, D) if asked
Computed = tuple[torch.Tensor, torch.Tensor, torch.Tensor | float, tuple[Normalised, Normalised],
                 list[torch.Tensor] | None]


def choose_form(count: int, width: int) -> str:
    """Return the cheaper exact form for a joint batch `count` and embeddings `width`: 8 N^2 D operations for
    the Gram form against 6 N D^2."""
    return "gram" if 4 * count < 3 * width else "direct"


def correlation_loss(z1: torch.Tensor, z2: torch.Tensor, objective: Objective, form: str = "auto",
                     running: torch.nn.BatchNorm1d | None = None) -> tuple[torch.Tensor, Correlation]:
    """Return the loss of the joint batch of all processes, a scalar, and what it learnt about C on the way.

    z1, z2: (n, D) embeddings of this process's two views before their batch norm, which is done inside with
        the statistics of the joint batch. n may differ between processes.
    form: auto, gram, direct or reference, see above; all give the same value and gradient.
    running: a batch norm without parameters whose running statistics follow, z1 first, then z2.

    Computed in float32 also under autocast and for 16-bit embeddings, in float64 for float64. The gradient
    with respect to z is this process's rows of the joint loss's gradient; there is no second derivative.
    Raises ValueError for shapes that do not fit and a joint batch below 2.
    """
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
            loss, *seen = reference(z1, z2, objective)
        else:
            form = choose_form(count, z1.size(1)) if form == "auto" else form
            loss, *seen = _Correlation.apply(z1, z2, objective, form)
    if running is not None:
        for mean, variance in (seen[4:6], seen[6:]):
            update_running_statistics(running, mean, variance, count)
    return loss, Correlation(*seen[:4])


def working_type(z: torch.Tensor) -> torch.dtype:
    """Return the type that z is computed in: float64 for float64, else float32, also for 16 bits."""
    return torch.float64 if z.dtype == torch.float64 else torch.float32


def normalise(z: torch.Tensor, count: int, objective: Objective = Objective(0.0),
              joint: bool = True) -> Normalised:
    """Batch-normalise z (n, D). joint: z holds this process's rows of `count`, else all of them."""
    total = all_reduce_sum if joint else (lambda tensor: tensor)
    z = z.detach().to(working_type(z))
    mean = total(z.sum(0)) / count
    rows = z - mean
    # Two passes: E[z^2] - E[z]^2 would lose digits where the mean is large beside the deviation.
    variance = total(torch.linalg.vecdot(rows, rows, dim=0)) / (count - objective.correction)
    inverse = (variance + objective.eps).rsqrt()
    return Normalised(rows.mul_(inverse), mean, variance, inverse)


class _Correlation(torch.autograd.Function):
    """Computes loss and gradient together; backward only multiplies by the gradient of the loss."""

    @staticmethod
    def forward(ctx, z1, z2, objective, form):
        compute = {"gram": gram, "direct": direct}[form]
        needs_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        diagonal, square, total, views, gradients = compute(z1, z2, objective, needs_gradient)
        parts = objective(diagonal, square, total)
        if needs_gradient:
            ctx.save_for_backward(*gradients)
            ctx.dtype = z1.dtype
        statistics = [value for view in views for value in (view.mean, view.variance)]
        extra = (diagonal, square, *parts, *statistics)
        ctx.mark_non_differentiable(*extra)
        return sum(parts).to(diagonal.dtype), *extra

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, *_):
        # Rounded to 16 bits last: a scaler's factor keeps float16 from running out of small numbers.
        return *((grad * g).to(ctx.dtype) for g in ctx.saved_tensors), None, None


def gram(z1: torch.Tensor, z2: torch.Tensor, objective: Objective, needs_gradient: bool) -> Computed:
    """Compute the Gram form, see above."""
    lambd, t = objective.lambd, objective.off_diagonal
    counts = row_counts(len(z1))
    count, start = sum(counts), sum(counts[:rank()]) if len(counts) > 1 else 0
    own = slice(start, start + len(z1))
    # Raw embeddings travel (16 bits under autocast, half the bytes) and are normalised on arrival.
    a, b = (normalise(all_gather_rows(z, counts), count, objective, joint=False) for z in (z1, z2))
    diagonal = torch.linalg.vecdot(a.rows, b.rows, dim=0) / count
    k1, k2 = products(a.rows, own), products(b.rows, own)  # (n, N)
    # Row by row, then in float64: one long float32 sum is wrong in the fourth digit.
    square = all_reduce_sum(torch.linalg.vecdot(k1, k2).double().sum()) / count ** 2
    sums = [view.rows.sum(1) for view in (a, b)]
    total = torch.linalg.vecdot(*sums).double() / count if t else 0.0
    if not needs_gradient:
        return diagonal, square, total, (a, b), None
    r = (2 * (diagonal - 1) - 2 * lambd * (diagonal - t)) / count
    # In one process the gradient takes the place of a and b, block by block: 2 N D less memory. Else a and b
    # hold everybody's rows, and one block means one collective a view.
    alone, width = len(counts) == 1, z1.size(1)
    gradients = [view.rows if alone else torch.empty_like(view.rows[own]) for view in (a, b)]
    step = COLUMNS if alone else width
    for first in range(0, width, step):
        block = slice(first, first + step)
        parts = []
        for k, view, other, sums_of_other in ((k2, a, b, sums[1]), (k1, b, a, sums[0])):
            rows = view.rows[own, block]
            g = (k @ view.rows[:, block]).mul_(2 * lambd / count ** 2)
            g.addcmul_(other.rows[own, block], r[block])
            if t:
                g.sub_(sums_of_other[own, None], alpha=2 * lambd * t / count)
            projection = all_reduce_sum(torch.linalg.vecdot(g, rows, dim=0)) / (count - objective.correction)
            parts.append(g.addcmul_(rows, projection, value=-1).mul_(view.inverse_deviation[block]))
        for whole, part in zip(gradients, parts):
            whole[:, block] = part
    return diagonal, square, total, (a, b), gradients


def products(rows: torch.Tensor, own: slice) -> torch.Tensor:
    """Return rows[own] rows' (n, N) of rows (N, D). If square it is symmetric: by strips, each pair once."""
    count = len(rows)
    if len(rows[own]) < count:
        return rows[own] @ rows.T
    k = rows.new_empty(count, count)
    for first in range(0, count, STRIP):
        strip, rest = slice(first, first + STRIP), slice(first + STRIP, count)
        k[strip, first:] = rows[strip] @ rows[first:].T
        k[rest, strip] = k[strip, rest].T
    return k


def direct(z1: torch.Tensor, z2: torch.Tensor, objective: Objective, needs_gradient: bool) -> Computed:
    """Compute the direct form, see above."""
    lambd, t = objective.lambd, objective.off_diagonal
    count = sum(row_counts(len(z1)))
    a, b = normalise(z1, count, objective), normalise(z2, count, objective)
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
        g = (c - t if t else c) * (2 * lambd)
        g.diagonal(-first)[:c.size(1)] = 2 * (diagonal[block] - 1)
        g1.addmm_(b.rows[:, block], g.T)
        g2[:, block] = a.rows @ g
        # sum_n g1 a = row sums of G * C, sum_n g2 b = its column sums: no further collective.
        c.mul_(g)
        projections[0] += c.sum(1)
        projections[1, block] = c.sum(0)
    total = all_reduce_sum(torch.linalg.vecdot(a.rows.sum(1), b.rows.sum(1)).double()) / count if t else 0.0
    if not needs_gradient:
        return diagonal, square, total, (a, b), None
    projections *= count / (count - objective.correction)
    gradients = [g.addcmul_(view.rows, projection, value=-1).mul_(view.inverse_deviation / count)
                 for g, view, projection in zip((g1, g2), (a, b), projections)]
    return diagonal, square, total, (a, b), gradients


def reference(z1: torch.Tensor, z2: torch.Tensor, objective: Objective) -> tuple[torch.Tensor, ...]:
    """Compute the plain formulation, differentiated by autograd: slow, large, easy to check. For tests."""
    z1, z2 = (gather_rows(z.to(working_type(z))) for z in (z1, z2))
    deviations = [(z.var(0, correction=objective.correction) + objective.eps).sqrt() for z in (z1, z2)]
    a, b = ((z - z.mean(0)) / deviation for z, deviation in zip((z1, z2), deviations))
    c = a.T @ b / len(a)
    off_diagonal = (c - objective.off_diagonal) * (1 - torch.eye(len(c), dtype=c.dtype, device=c.device))
    invariance = (c.diagonal() - 1).square().sum()
    redundancy = objective.lambd * off_diagonal.square().sum()
    statistics = [value for z in (z1.detach(), z2.detach()) for value in (z.mean(0), z.var(0, correction=0))]
    return (invariance + redundancy, c.diagonal().detach(), c.detach().double().square().sum(),
            invariance.detach().double(), redundancy.detach().double(), *statistics)
