"""SyncBN on a CPU, where torch's own does not run."""

from torch import nn

from parallel.batchnorm import CPUSyncBatchNorm


class CPUSyncBatchNorm2d(CPUSyncBatchNorm, nn.BatchNorm2d):
    """Ours, and a batch norm for precise BN and for Detectron2's rule that norms have no weight decay."""


def joint_on_cpu(model: nn.Module) -> nn.Module:
    """Turn each SyncBN of the model into one that a CPU can compute: joint statistics over gloo in several
    processes, plain batch norm in one. In place; returns the model. Other norms stay as they are.
    """
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):
            # the same parameters and buffers, another forward
            module.__class__ = CPUSyncBatchNorm2d  # type: ignore[assignment]
    return model
