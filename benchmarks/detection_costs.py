"""What a training step of the papers' detectors costs, on tensors without values.

Torch's FakeTensorMode cannot follow what depends on values: which anchors and proposals are sampled. Those
parts are left out and their results have fixed sizes, the most that a configuration allows. A step is then
the backbone, the head of the region proposals with the decoding of all boxes, res5 on all sampled regions,
the mask head on all that can be foreground, the backward pass and the optimiser. The losses are sums.
"""
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from parallel.ledger import Ledger, renewed
from transfer.detection import configuration
from transfer.detection.trainer import Trainer


def step_costs(yaml, pairs=(), images=2, size=None):
    """Return the ledger of the second iteration of one process; its peak includes weights and momenta.

    yaml, pairs: as in configuration.build; size: (height, width) of the pictures, the largest of training by
    default.
    """
    cfg = configuration.build(yaml, tuple(pairs))
    cfg.MODEL.DEVICE = "cpu"  # whose autocast knows the same operations as a GPU's
    height, width = size or (max(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN)
    model = Trainer.build_model(cfg).train()
    with FakeTensorMode(allow_non_fake_inputs=True), Ledger() as ledger:
        renewed(model)
        optimizer = Trainer.build_optimizer(cfg, model)
        pictures = torch.empty(images, 3, height, width)
        for _ in range(2):  # the first makes the momenta
            ledger.restart()
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=cfg.SOLVER.AMP.ENABLED):
                total = loss(model, pictures, cfg)
            total.backward()
            optimizer.step()
    return ledger


def loss(model, pictures, cfg):
    """Return a scalar that every part of the network has a share in. pictures: (n, 3, H, W), normalised."""
    features = model.backbone(pictures)
    rpn, heads = model.proposal_generator, model.roi_heads
    maps = [features[name] for name in rpn.in_features]
    anchors = rpn.anchor_generator(maps)
    scores, deltas = rpn.rpn_head(maps)
    flat = [one.view(len(one), -1, 4, *one.shape[-2:]).permute(0, 3, 4, 1, 2).flatten(1, -2)
            for one in deltas]
    with torch.no_grad():
        rpn._decode_proposals(anchors, flat)
    sampled = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    pooler, feature = heads.pooler.level_poolers[0], features[heads.in_features[0]]
    regions = heads.res5(pooler(feature, torch.empty(len(pictures) * sampled, 5)))
    parts = [*scores, *flat, *heads.box_predictor(regions.mean(dim=[2, 3]))]
    if cfg.MODEL.MASK_ON:
        foreground = len(pictures) * int(sampled * cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION)
        parts.append(heads.mask_head.layers(regions[:foreground].clone()))
    return sum(part.float().sum() for part in parts)
