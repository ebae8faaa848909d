"""The ROI head that MoCo's detection protocol adds to Detectron2: one more norm layer after res5."""

from detectron2.layers import get_norm
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """Res5ROIHeads whose res5 ends in a norm layer (N, width, 7, 7) of kind MODEL.RESNETS.NORM.

    The backbone of C4 ends at res4 and this head fine-tunes res5; the norm after it lets one learning rate
    fit features of any scale (MoCo, arXiv 1911.05722, section 4.2; facebookresearch/moco
    detection/train_net.py). Its tensors are roi_heads.res5.norm.*; no checkpoint of a backbone holds them.
    """

    @classmethod
    def _build_res5_block(cls, cfg):
        res5, channels = super()._build_res5_block(cfg)
        res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, channels))
        return res5, channels
