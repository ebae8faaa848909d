"""What happens around Detectron2's iterations besides training."""

import logging
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.engine.hooks import PreciseBN
from detectron2.utils import comm
from fvcore.nn.precise_bn import BN_MODULE_TYPES

from parallel import signals
from parallel.collectives import barrier
from transfer.detection import curves, expected, pictures
from transfer.detection.loader import mix

log = logging.getLogger(__name__)


class SeedEachIteration(HookBase):
    """Iteration n samples anchors and regions from (seed, n, rank), so a resumed run draws the same ones."""

    def __init__(self, seed: int):
        self.seed = seed

    def before_step(self) -> None:
        torch.manual_seed(mix(self.seed, 3, self.trainer.iter, comm.get_rank()))


class SameStatistics(HookBase):
    """Make precise BN's statistics the same on every rank and after an interruption, before they are saved.

    Precise BN weights the joint statistics of an iteration by the rank's own image sizes, so ranks end up
    with different averages (detectron2#5398) and would evaluate different networks. Therefore all take rank
    0's. Its stream of images would also continue from one evaluation to the next, at a place that a resumed
    run cannot know. Therefore it begins anew each time.
    """

    def __init__(self, precise: PreciseBN):
        """precise: Detectron2's PreciseBN, the hook before this one."""
        self.precise = precise

    def after_step(self) -> None:
        self.precise._data_iter = None
        done, period = self.trainer.iter + 1, self.precise._period
        due = done == self.trainer.max_iter or period > 0 and done % period == 0
        if comm.get_world_size() == 1 or not due:
            return
        for module in self.precise._model.modules():
            if isinstance(module, BN_MODULE_TYPES):
                dist.broadcast(module.running_mean, 0)
                dist.broadcast(module.running_var, 0)


class StopWhenAsked(HookBase):
    """Save and leave after an iteration in which any process got a stop signal. This is the last hook: the
    others have done their part of the iteration, and a resumed run continues with the next one."""

    def after_step(self) -> None:
        number = signals.wish()
        if number:
            iteration = self.trainer.iter
            self.trainer.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
            barrier()  # the first to leave ends the others
            self.trainer.stopped = True
            raise signals.Stopped(number)


class Curves(HookBase):
    """Draw losses.png from metrics.json when training ends, even if it fails: the curve shows why."""

    def __init__(self, out: Path):
        self.out = out

    def after_train(self) -> None:
        pictures.losses(curves.read_metrics(self.out / "metrics.json"), self.out / "losses.png")


class Expected(HookBase):
    """Say in one line whether losses and AP are those of earlier runs (expected.py); never stop the run.

    Without a band, one thing is true of any run: after the warm-up, a classifier whose loss is not below that
    of one that ignores the image has learnt nothing yet. On the main process only.
    """

    def __init__(self, cfg: CfgNode, weights: str):
        """weights: "trained" or "random", what the run begins from."""
        self.rows, self.source = expected.bands_of(cfg)
        self.weights, self.warmup = weights, cfg.SOLVER.WARMUP_ITERS
        self.classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        values = self._new_precisions()
        if done in expected.CHECKS:
            values |= {name: history.median(expected.WINDOW)
                       for name, history in self.trainer.storage.histories().items() if "loss" in name}
        self._judge(values, done)

    def after_train(self) -> None:
        self._judge(self._new_precisions(), self.trainer.max_iter)

    def _new_precisions(self):
        storage = self.trainer.storage
        return {name: value for name, (value, iteration) in storage.latest().items()
                if name in expected.PRECISIONS and iteration == storage.iter}

    def _judge(self, values, done):
        found = expected.verdict(values, self.rows, self.weights, done)
        if found:
            inside, line = found
            log.log(logging.INFO if inside else logging.WARNING, "%s (%s)", line, self.source)
        elif "loss_cls" in values and done >= self.warmup:
            self._compare_with_blind(values["loss_cls"], done)

    def _compare_with_blind(self, loss, done):
        history = self.trainer.storage.history
        objects, background = (history(f"roi_head/num_{kind}_samples").avg(expected.WINDOW)
                               for kind in ("fg", "bg"))
        share = objects / (objects + background)
        blind = expected.blind_loss(share, self.classes)
        log.log(logging.INFO if loss < blind else logging.WARNING,
                "iteration %d: loss_cls %.3g %s %.3g, that of a classifier which ignores the image (%.0f %% "
                "of the regions are objects); no earlier run with these settings is known",
                done, loss, "is below" if loss < blind else "is NOT below", blind, 100 * share)
