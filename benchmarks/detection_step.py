"""One training iteration of both papers' detectors on one GPU: exact float32, TF32 and mixed precision.

    python -m benchmarks.detection_step [--images N] [--rounds N]

It runs the YAML files of the Barlow Twins rows as a run builds them (model, optimiser, AccumulatingTrainer),
on random pictures of the largest training size with eight random objects each. Speeds are ratios to float32
in the same process. Memory is the most that is allocated from before the network is built to the end of its
second iteration, weights and momenta included. The default is 2 images, one GPU's share of the paper's 16 on
8. Without a GPU it exits with 2, and `make bench` leaves it out.
"""
import itertools
import statistics
import sys

import torch
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from benchmarks import common
from transfer.detection import configuration
from transfer.detection.accumulation import AccumulatingTrainer
from transfer.detection.trainer import Trainer
from transfer.precision import tf32

FLAGS = {"device": "cuda", "images": 2, "rounds": 5}
YAMLS = ("pascal_voc_R_50_C4_24k_bt.yaml", "coco_R_50_C4_1x_bt.yaml")
PRECISIONS = {"float32": (), "tf32": ("SOLVER.TF32", "True"), "amp": ("SOLVER.AMP.ENABLED", "True")}
OBJECTS = 8


def batch(cfg, images):
    """Return Detectron2's dicts: uint8 pictures (3, H, W), boxes inside them, classes and, for Mask R-CNN,
    polygons."""
    draw = torch.Generator().manual_seed(0)
    size = max(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN
    pictures = []
    for _ in range(images):
        x0, y0 = (torch.rand(2, OBJECTS, generator=draw) * torch.tensor(size[::-1])[:, None] / 2)
        x1, y1 = x0 + size[1] / 4, y0 + size[0] / 4
        classes = torch.randint(cfg.MODEL.ROI_HEADS.NUM_CLASSES, (OBJECTS,), generator=draw)
        objects = Instances(size, gt_boxes=Boxes(torch.stack([x0, y0, x1, y1], 1)), gt_classes=classes)
        if cfg.MODEL.MASK_ON:
            corners = torch.stack([x0, y0, x1, y0, x1, y1, x0, y1], 1).double().numpy()
            objects.gt_masks = PolygonMasks([[polygon] for polygon in corners])
        pixels = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=draw)
        pictures.append({"image": pixels, "instances": objects, "height": size[0], "width": size[1]})
    return pictures


def step_of(yaml, pairs, images, device):
    """Return a function that makes one iteration and returns what Detectron2 logs of it, {name: number}. The
    rate is 0 unless the pairs name another, so random pictures cannot make it diverge."""
    cfg = configuration.build(yaml, ("SOLVER.BASE_LR", "0", *pairs))
    cfg.MODEL.DEVICE = device
    model = Trainer.build_model(cfg)
    model.train()
    stepper = AccumulatingTrainer(model, itertools.repeat(batch(cfg, images)),
                                  Trainer.build_optimizer(cfg, model), parts=1, amp=cfg.SOLVER.AMP.ENABLED)

    def step():
        with tf32(cfg.SOLVER.TF32), EventStorage() as storage:
            stepper.run_step()
            return {name: value for name, (value, _) in storage.latest().items()}

    return step


def measure(args):
    rows = []
    for yaml in YAMLS:
        built = {name: common.built(lambda: step_of(yaml, pairs, args.images, args.device),
                                    torch.device(args.device)) for name, pairs in PRECISIONS.items()}
        seconds = common.compare({name: step for name, (step, _) in built.items()}, args.rounds, 1.0,
                                 torch.cuda.synchronize)
        rows += [common.Row(f"{yaml.removesuffix('.yaml')}, {name}", "time, float32 over this",
                            common.ratio(seconds["float32"], own),
                            beside=f"{1 / statistics.median(own):.2f} iterations/s, "
                                   f"{built[name][1] / common.MIB:.0f} MiB")
                 for name, own in seconds.items()]
    return rows


if __name__ == "__main__":
    sys.exit(common.main(__doc__, FLAGS, measure))
