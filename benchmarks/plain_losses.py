"""The losses as their papers and codes write them, which autograd differentiates, for one process: (recipe,
*outputs, *targets) -> a scalar. What benchmarks/loss.py compares ours with."""
import torch
from torch.nn import functional

from pretrain.recipe import Recipe


def without_diagonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return a copy of the D (D - 1) elements off the diagonal of (D, D)."""
    # Without the last element, in rows of D + 1, the diagonal is the first column.
    width = len(matrix)
    return matrix.flatten()[:-1].view(width - 1, width + 1)[:, 1:].flatten()


def redundancy(c: torch.Tensor, lambd: float, aim: float = 0.0) -> torch.Tensor:
    """Return the loss on C (D, D), squared in place: its diagonal to 1, the rest, copied, to `aim`."""
    rest = without_diagonal(c).sub_(aim).pow_(2).sum()
    return c.diagonal().add_(-1).pow_(2).sum() + lambd * rest


def standardised(z: torch.Tensor) -> torch.Tensor:
    return (z - z.mean(0)) / z.std(0)


def barlow_twins(recipe: Recipe, z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    """main.py:207-222 of facebookresearch/barlowtwins: C by one product."""
    a, b = (functional.batch_norm(z, None, None, training=True) for z in (z1, z2))
    return redundancy((a.T @ b).div_(len(z1)), recipe.lambd)


def hsic(recipe: Recipe, z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    """main.py of yaohungt/Barlow-Twins-HSIC: the same with the aim -1."""
    c = (standardised(z1).T @ standardised(z2)).div_(len(z1))
    return redundancy(c, recipe.lambd, -1.0)


def mixed_barlow_twins(recipe: Recipe, z1: torch.Tensor, z2: torch.Tensor, zm: torch.Tensor,
                       partners: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """main.py of wgcban/mix-bt: four more D x D matrices."""
    a, b, m = (standardised(z) for z in (z1, z2, zm))
    loss = redundancy((a.T @ b).div_(len(a)), recipe.lambd)
    part = share[0]
    for view in (a, b):
        rest = m.T @ view - part * (a.T @ view) - (1 - part) * (b[partners].T @ view)
        weight = recipe.mixing * recipe.lambd
        loss = loss + weight * (rest / len(a)).pow(2).sum()
    return loss


def vicreg(recipe: Recipe, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """forward of main_vicreg.py in facebookresearch/vicreg: two D x D covariances."""
    invariance = functional.mse_loss(x, y)
    variance = covariance = x.new_zeros(())
    for z in (x - x.mean(0), y - y.mean(0)):
        variance = variance + functional.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() / 2
        c = (z.T @ z) / (len(z) - 1)
        covariance = covariance + without_diagonal(c).pow_(2).sum() / len(c)
    return 25 * invariance + 25 * variance + covariance


def simsiam(recipe: Recipe, z1: torch.Tensor, z2: torch.Tensor, p1: torch.Tensor,
            p2: torch.Tensor) -> torch.Tensor:
    """main_simsiam.py of facebookresearch/simsiam."""
    return -(functional.cosine_similarity(p1, z2.detach()).mean()
             + functional.cosine_similarity(p2, z1.detach()).mean()) / 2


def byol(recipe: Recipe, z1: torch.Tensor, z2: torch.Tensor, p1: torch.Tensor, p2: torch.Tensor,
         t1: torch.Tensor, t2: torch.Tensor) -> torch.Tensor:
    """Equation 2 of arXiv 2006.07733, both ways."""
    return sum(((functional.normalize(p, dim=1) - functional.normalize(t, dim=1)) ** 2).sum(1).mean()
               for p, t in ((p1, t2), (p2, t1)))


def nt_xent(recipe: Recipe, z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    """Equation 1 of arXiv 2002.05709, as a cross-entropy on a 2N x 2N matrix."""
    z = functional.normalize(torch.cat([z1, z2]), dim=1)
    logits = z @ z.T / recipe.temperature
    logits.fill_diagonal_(-torch.inf)
    return functional.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(z1)))


def supcon(recipe: Recipe, z1: torch.Tensor, z2: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """losses.py of HobbitLong/SupContrast: 2N x 2N matrices of logits and of positives."""
    z = functional.normalize(torch.cat([z1, z2]), dim=1)
    logits = z @ z.T / recipe.temperature
    logits = logits - logits.max(1, keepdim=True).values.detach()
    others = 1 - torch.eye(len(z), device=z.device)
    positives = (labels[:, None] == labels).float().repeat(2, 2) * others
    logs = logits - (logits.exp() * others).sum(1, keepdim=True).log()
    return -((positives * logs).sum(1) / positives.sum(1)).mean()


def info_nce(recipe: Recipe, q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor) -> torch.Tensor:
    """moco/builder.py of facebookresearch/moco: logits of the key and of the queue (D, K)."""
    q, k = functional.normalize(q, dim=1), functional.normalize(k, dim=1)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue], 1)
    logits = logits / recipe.temperature
    return functional.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))


def swav(recipe: Recipe, z1: torch.Tensor, z2: torch.Tensor, s1: torch.Tensor,
         s2: torch.Tensor) -> torch.Tensor:
    """main_swav.py of facebookresearch/swav, for two views."""
    temperature, loss = recipe.temperature, s1.new_zeros(())
    for here, there in ((s1, s2), (s2, s1)):
        with torch.no_grad():
            q = (here / recipe.epsilon).exp().T
            q /= q.sum()
            for _ in range(recipe.sinkhorn):
                q /= q.sum(1, keepdim=True) * q.size(0)
                q /= q.sum(0, keepdim=True) * q.size(1)
            q = (q * q.size(1)).T
        loss = loss - (q * functional.log_softmax(there / temperature, dim=1)).sum(1).mean() / 2
    return loss
