"""Batch normalisation over the rows of all processes, exact forward and backward, or over groups of rows."""
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from parallel.collectives import all_reduce_sum, world_size


class _JointBatchNorm(torch.autograd.Function):
    """Normalise with the mean and the biased variance of all processes' rows; exact forward and backward.

    Weight and bias get this process's own share of the gradient: their sum over processes is the gradient.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        dims = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        wide = x.double() if x.dtype == torch.float64 else x.float()
        count_and_sum = torch.cat([wide.new_tensor([x.numel() / x.size(1)]), wide.sum(dims)])
        all_reduce_sum(count_and_sum)
        count, mean = count_and_sum[0], count_and_sum[1:] / count_and_sum[0]
        centred = wide - mean.view(shape)
        # A second pass for the variance: E[x^2] - E[x]^2 would lose digits when the mean is large.
        variance = all_reduce_sum(centred.square().sum(dims)) / count
        inverse = (variance + eps).rsqrt()
        normal = centred * inverse.view(shape)
        y = normal if weight is None else normal * weight.view(shape) + bias.view(shape)
        ctx.save_for_backward(normal, inverse, weight, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return y.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx, grad, *_):
        normal, inverse, weight, count = ctx.saved_tensors
        dims = [0, *range(2, grad.dim())]
        shape = [1, -1] + [1] * (grad.dim() - 2)
        wide = grad.to(normal.dtype)
        own = torch.stack([wide.sum(dims), (wide * normal).sum(dims)])  # (2, C): gradients of bias and weight
        joint = all_reduce_sum(own.clone()) / count
        scale = inverse if weight is None else inverse * weight
        dx = (wide - joint[0].view(shape) - normal * joint[1].view(shape)) * scale.view(shape)
        if weight is None:
            return dx.to(grad.dtype), None, None, None
        return dx.to(grad.dtype), own[1].to(weight.dtype), own[0].to(weight.dtype), None


class CPUSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation with joint statistics over gloo, for any number of dimensions (N, C, ...).

    torch's own SyncBatchNorm runs on GPUs only. Processes may hold different numbers of rows. Running
    statistics as torch keeps them (unbiased variance). Not a subclass of torch's: DDP refuses that on CPUs.
    """

    def _check_input_dim(self, x):
        if x.dim() < 2:
            raise ValueError(f"batch normalisation expected (N, C, ...), found {x.dim()} dimensions")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        if x.is_cuda:
            raise ValueError("this batch norm was converted for a CPU and met a GPU tensor; "
                             "move the module to its device before convert_sync_batchnorm")
        y, mean, variance, count = _JointBatchNorm.apply(x, self.weight, self.bias, self.eps)
        if count < 2:
            raise ValueError("batch normalisation expected more than one value per channel over all "
                             "processes, found 1; enlarge the batch")
        update_running_statistics(self, mean, variance, count)
        return y


@torch.no_grad()
def update_running_statistics(layer: Any, mean: torch.Tensor, variance: torch.Tensor,
                              count: float | torch.Tensor) -> None:
    """Move a batch-norm layer's buffers as torch does: momentum None means the plain average over batches,
    and the running variance is the unbiased one, variance (biased) x count / (count - 1)."""
    if not layer.track_running_stats or layer.running_mean is None:
        return
    layer.num_batches_tracked += 1
    momentum = 1.0 / layer.num_batches_tracked.item() if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), momentum)
    layer.running_var.lerp_((variance * (count / (count - 1))).to(layer.running_var.dtype), momentum)


def convert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Replace every batch norm below (and at) `module` by one with joint statistics; no-op in one process.

    Call it after the module is on its device: GPU layers become torch's SyncBatchNorm, CPU layers ours.
    Parameters and buffers are taken over, not copied, and the state dict's names stay.
    """
    if world_size() == 1:
        return module
    tensor = next(iter([*module.parameters(), *module.buffers()]), None)
    if tensor is not None and tensor.is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    return _convert_for_cpu(module)


def _convert_for_cpu(module):
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, CPUSyncBatchNorm):
        new = CPUSyncBatchNorm(module.num_features, module.eps, module.momentum, module.affine,
                               module.track_running_stats)
        for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            setattr(new, name, value)
        return new.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, _convert_for_cpu(child))
    return module


class GroupBatchNorm(nn.Module):
    """Batch normalisation of each `rows` rows by themselves, in their order, for (N, C, ...) of whole groups.

    The result does not depend on how the groups are spread over processes, if each has as many. The running
    statistics move once a batch, by the mean over the groups of all processes. Not a subclass of torch's, so
    convert_sync_batchnorm leaves it alone; names and constants are torch's.
    """

    eps, momentum = 1e-5, 0.1
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(self, channels: int, rows: int):
        super().__init__()
        self.rows = rows
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias,
                                         eps=self.eps)
        if len(x) % self.rows:
            raise ValueError(f"batch normalisation expected whole groups of {self.rows} rows, found {len(x)}")
        groups = x.split(self.rows)
        # With momentum 1 torch's running statistics are those of the group.
        seen = self.running_mean.new_zeros(2, len(groups), len(self.running_mean))
        parts = [functional.batch_norm(group, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
                 for group, mean, variance in zip(groups, *seen)]
        mean, variance = all_reduce_sum(seen.mean(1)) / world_size()
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
            self.num_batches_tracked += 1
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def convert_group_batchnorm(module: nn.Module, rows: int) -> nn.Module:
    """Replace every batch norm below (and at) `module` by a new one that normalises each `rows` rows by
    themselves. Its scales start at 1 and its offsets at 0."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return GroupBatchNorm(module.num_features, rows)
    for name, child in module.named_children():
        setattr(module, name, convert_group_batchnorm(child, rows))
    return module
