"""The supervised contrastive loss (Khosla et al., arXiv 2004.11362), which without labels is NT-Xent (Chen et
al., arXiv 2002.05709), and its gradient, exactly, in strips of rows.

The 2N embeddings of the joint batch, of length 1, are rows of Z; S = ZZ' / temperature. For each row i,
P(i) are the other rows of its class; without labels that is the other view of its image. The loss is

    L = mean_i [ log sum_{k != i} exp(S_ik) - mean_{p in P(i)} S_ip ]

With l_i = log sum_{k != i} exp(S_ik) and m_i, the mean of the z of P(i), the second term is z_i.m_i /
temperature and the gradient dL/dz_i = [sum_{k != i} (exp(S_ik - l_i) + exp(S_ik - l_k)) z_k - 2 m_i] / (2N
temperature): of row i as an anchor, and as one of the others of anchor k. So a process needs its own rows of
S only, in strips, and the l of all.

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
        views = [all_gather_rows(view, counts) for view in (a, b)]
        everyone, numbers = torch.cat(views), torch.arange(2 * count, device=a.device)
        mine = numbers[first:first + len(a)]  # this process's images; its rows:
        own = torch.cat([mine, mine + count])
        classes = numbers[:count] if labels is None else all_gather_rows(labels, counts)
        pairs = views[0] + views[1]
        if labels is None:
            friends, others = pairs[mine], 1
        else:
            same = (classes[mine][:, None] == classes).to(a.dtype)
            friends, others = same @ pairs, (2 * same.sum(1, keepdim=True) - 1).repeat(2, 1)
        rows = torch.cat([a, b])
        middle = (friends.repeat(2, 1) - rows) / others  # of the positives of each row

        def strips():
            """Yield rows of S in strips (s, 2N), -inf for a row with itself, and which they are."""
            for some in torch.arange(len(own), device=a.device).split(STRIP):
                similarity = rows[some] @ everyone.T / temperature
                yield some, similarity.scatter_(1, own[some, None], -torch.inf)

        logs, hits = [], []
        for some, similarity in strips():
            logs.append(similarity.logsumexp(1))
            hits.append(classes[similarity.argmax(1) % count] == classes[own[some] % count])
        log = torch.cat(logs)
        pull = torch.linalg.vecdot(rows, middle) / temperature
        totals = torch.stack([(log - pull).double().sum(), torch.cat(hits).double().sum()])
        loss, accuracy = all_reduce_sum(totals) / (2 * count)
        every_log = all_gather_rows(log.view(2, -1).T, counts).T.flatten()
        gradients = torch.empty_like(rows)
        for some, similarity in strips():
            weight = (similarity - log[some, None]).exp_() + similarity.sub_(every_log).exp_()
            gradients[some] = weight @ everyone
        ctx.save_for_backward((gradients - 2 * middle) / (2 * count * temperature))
        ctx.mark_non_differentiable(accuracy)
        return loss.to(a.dtype), accuracy

    @staticmethod
    def backward(ctx, grad, _):
        gradients, = ctx.saved_tensors
        return *(grad * gradients).chunk(2), None, None
