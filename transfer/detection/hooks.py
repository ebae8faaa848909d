"""What happens around Detectron2's iterations besides training."""

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm
from fvcore.nn.precise_bn import BN_MODULE_TYPES

from transfer.detection import pictures
from transfer.detection.loader import mix


class SeedEachIteration(HookBase):
    """Iteration n samples anchors and regions from (seed, n, rank), so a resumed run draws the same ones."""

    def __init__(self, seed):
        self.seed = seed

    def before_step(self):
        torch.manual_seed(mix(self.seed, 3, self.trainer.iter, comm.get_rank()))


class SameStatistics(HookBase):
    """Give every rank rank 0's batch-norm statistics after precise BN, before they are saved and evaluated.

    Precise BN weights the joint statistics of an iteration by the rank's own image sizes, so ranks end up
    with different averages (detectron2#5398) and would evaluate different networks.
    """

    def __init__(self, model, period):
        """period: that of the evaluation (TEST.EVAL_PERIOD), 0 for the end only."""
        self.model, self.period = model, period

    def after_step(self):
        done = self.trainer.iter + 1
        due = done == self.trainer.max_iter or self.period > 0 and done % self.period == 0
        if comm.get_world_size() == 1 or not due:
            return
        for module in self.model.modules():
            if isinstance(module, BN_MODULE_TYPES):
                dist.broadcast(module.running_mean, 0)
                dist.broadcast(module.running_var, 0)


class Curves(HookBase):
    """Draw losses.png from metrics.json when training ends, also when it fails: the curve says why."""

    def __init__(self, out):
        self.out = out

    def after_train(self):
        pictures.curves(self.out / "metrics.json", self.out / "losses.png")
