"""Batch normalisation over the rows of all processes, exact forward and backward."""
from typing import Any

import torch
from torch import nn

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
