"""The supervised contrastive loss (Khosla et al., arXiv 2004.11362), which without labels is NT-Xent (Chen et
al., arXiv 2002.05709), and its gradient, exactly, in strips of rows.

The 2N embeddings of the joint batch, of length 1, are rows of Z; S = ZZ' / temperature. For each row i,
P(i) are the other rows of its class; without labels that is the other view of its image. The loss is

    L = mean_i [ log sum_{k != i} exp(S_ik) - mean_{p in P(i)} S_ip ]

With l_i = log sum_{k != i} exp(S_ik), the gradient is dL/dz_i = sum_{k != i} w_ik z_k / (2N temperature),
where w_ik = exp(S_ik - l_i) + exp(S_ik - l_k) - 2 [k in P(i)] / |P(i)|: as an anchor, and as one of the
others of anchor k. So a process needs its own rows of S only, in strips, and the l of all.

Several processes: each has its own anchors, all rows are their negatives, and each gets the rows of the joint
loss's gradient that belong to its own z. All collectives are in the forward pass.
"""
import torch
from torch.nn import functional

from parallel.collectives import all_gather_rows, all_reduce_sum, rank, row_counts
from pretrain.methods.correlation import working_type

STRIP = 1024  # rows of S that are held at once: at 2N = 8192 they take 32 MiB


def contrastive_loss(z1: torch.Tensor, z2: torch.Tensor, temperature: float,
                     labels: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of the joint batch of all processes, and the share (0-1) of its rows whose nearest
    other row is of their class, both scalars.

    z1, z2: (n, D) embeddings of this process's two views, of any length; n may differ between processes.
    labels: (n,) integers, the classes; None: each image is a class of its own.

    Computed in float32 also under autocast and for 16-bit embeddings, in float64 for float64. There is no
    second derivative. Raises ValueError for shapes that do not fit and a joint batch below 2.
    """
    if z1.dim() != 2 or z1.shape != z2.shape:
        raise ValueError(f"the loss expected two (N, D) embeddings of one shape, found {tuple(z1.shape)} and "
                         f"{tuple(z2.shape)}")
    with torch.autocast(z1.device.type, enabled=False):
        rows = [functional.normalize(z.to(working_type(z)), dim=1) for z in (z1, z2)]
        return _Contrast.apply(*rows, temperature, labels)


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, temperature, labels):
        counts = row_counts(len(a))
        count, first = sum(counts), sum(counts[:rank()])
        if count < 2:
            raise ValueError(f"the loss expected at least 2 images in the batch, found {count}")
        everyone = torch.cat([all_gather_rows(view, counts) for view in (a, b)])  # (2N, D)
        numbers = torch.arange(2 * count, device=a.device)
        classes = numbers[:count] if labels is None else all_gather_rows(labels, counts)
        classes = classes.repeat(2)
        own = numbers.view(2, count)[:, first:first + len(a)].flatten()  # where this process's rows are

        def strip(some):
            """S (s, 2N) of some rows, -inf for a row with itself; and who is in P, as shares of 1."""
            similarity = everyone[some] @ everyone.T / temperature
            itself = some[:, None] == numbers
            positive = ((classes[some][:, None] == classes) & ~itself).to(similarity.dtype)
            return similarity.masked_fill_(itself, -torch.inf), positive / positive.sum(1, keepdim=True)

        logs, totals = [], []
        for some in own.split(STRIP):
            similarity, share = strip(some)
            logs.append(similarity.logsumexp(1))
            hits = share.gather(1, similarity.argmax(1, keepdim=True)) > 0
            pull = torch.where(share > 0, similarity, 0).mul_(share).sum(1)
            totals.append(torch.stack([(logs[-1] - pull).double().sum(), hits.double().sum()]))
        loss, accuracy = all_reduce_sum(torch.stack(totals).sum(0)) / (2 * count)
        every_log = all_gather_rows(torch.cat(logs).view(2, -1).T, counts).T.flatten()
        gradients = []
        for some in own.split(STRIP):
            similarity, share = strip(some)
            weight = (similarity - every_log[some][:, None]).exp_()
            weight += (similarity - every_log).exp_()
            gradients.append((weight - 2 * share) @ everyone / (2 * count * temperature))
        ctx.save_for_backward(torch.cat(gradients))
        ctx.mark_non_differentiable(accuracy)
        return loss.to(a.dtype), accuracy

    @staticmethod
    def backward(ctx, grad, _):
        gradients, = ctx.saved_tensors
        return *(grad * gradients).chunk(2), None, None
