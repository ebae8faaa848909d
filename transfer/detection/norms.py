"""SyncBN on a CPU, where torch's own does not run."""

from torch import nn

from pretrain import distributed


class CPUSyncBatchNorm2d(distributed.CPUSyncBatchNorm, nn.BatchNorm2d):
    """Ours, and a batch norm for precise BN and for Detectron2's rule that norms have no weight decay."""


def joint_on_cpu(model):
    """Turn SyncBN into what a CPU can compute: plain BN in one process, joint statistics in several.

    In place; returns the model. Other norms (frozen, group) stay as they are.
    """
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.__class__ = nn.BatchNorm2d
    distributed.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is distributed.CPUSyncBatchNorm:
            module.__class__ = CPUSyncBatchNorm2d
    return model
