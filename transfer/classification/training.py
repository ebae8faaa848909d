"""What training heads and fine-tuning share: the schedule, an epoch's figures, files to keep, checkpoints."""
import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from parallel import checkpoints, signals
from parallel.collectives import agree, all_gather_rows, all_reduce_sum, barrier, require_same, world_size
from parallel.process import bar, is_main, rank
from transfer.classification import images
from transfer.classification.journal import keep
from transfer.settings import Context
from transfer.weights.backbone import Backbone

if TYPE_CHECKING:
    from transfer.classification import finetune, linear


def schedule_factor(config: "finetune.Config | linear.Config", epoch: int) -> float:
    """Learning rate of an epoch (from 0) over the initial one; constant within the epoch.

    "cosine": to 0 over config.epochs. "step": times config.drop_factor from each of config.drop_epochs on;
    none: constant. "exponential": by one factor an epoch, times config.drop_factor after config.epochs.
    """
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
    if config.schedule == "exponential":
        return config.drop_factor ** (epoch / config.epochs)
    return config.drop_factor ** sum(epoch >= drop for drop in config.drop_epochs)


def check_training(config: "finetune.Config | linear.Config", processes: int = 1) -> None:
    """ValueError for values that no training on so many processes can have."""
    if config.batch_size % processes:
        nearest = max(1, round(config.batch_size / processes)) * processes
        raise ValueError(f"batch_size {config.batch_size} is over all {processes} processes and must divide "
                         f"by them; the nearest that does is {nearest}")
    if config.schedule not in ("cosine", "step", "exponential"):
        raise ValueError(f"schedule: expected cosine, step or exponential, found {config.schedule!r}")


def linear_head(classes: int, dimensions: int, initial_std: float, seed: int) -> nn.Linear:
    """Weights N(0, initial_std), bias 0; the same on every rank and device."""
    head = nn.Linear(dimensions, classes)
    generator = torch.Generator()
    generator.manual_seed(seed)
    with torch.no_grad():
        head.weight.normal_(0, initial_std, generator=generator)
        head.bias.zero_()
    return head


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over ranks, in one collective. Every parameter must have one."""
    if world_size() == 1:
        return
    gradients: list[Any] = [parameter.grad for parameter in parameters]
    joint = all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, total in zip(gradients, joint.split([gradient.numel() for gradient in gradients])):
        gradient.copy_(total.view(gradient.shape))


def mean_losses(loss_sum: torch.Tensor, batches: images.TrainBatches) -> list[float]:
    """This rank's losses (heads,), summed over an epoch of images.TrainBatches -> means over all ranks'
    images; ValueError when all diverged."""
    count = sum(batches.size(step) for step in range(len(batches)))
    losses = (all_reduce_sum(loss_sum.double().cpu().clone()) / count).tolist()
    if not any(math.isfinite(loss) for loss in losses):
        raise ValueError(f"loss is {losses[0]} in epoch {batches.epoch + 1}; lower the learning rate")
    return losses


def accuracies(history: list[dict]) -> dict[str, float]:
    """Each epoch's {"loss", "top1", "top5"} -> the last epoch's figures, and the best one's beside them."""
    last = history[-1]
    return {"top1": last["top1"], "top5": last["top5"], "best_top1": max(row["top1"] for row in history)}


def keep_history(context: Context, history: list[dict]) -> None:
    """Keep curve.json: each epoch's figures by name."""
    keep(context, "curve.json", [{"epoch": epoch, **row} for epoch, row in enumerate(history, 1)])


class Checkpoint:
    """context.out/checkpoint.pth after each epoch, and within one where a signal ends it: what training
    continues from, exactly."""

    def __init__(self, context: Context, backbone: Backbone, config: "finetune.Config | linear.Config",
                 modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer,
                 batches: images.TrainBatches, losses: int = 1,
                 columns: tuple[str, ...] = ("loss", "top1", "top5"), **recipe: Any):
        """batches: images.TrainBatches. losses: how many each rank sums up in an epoch. columns: of each
        epoch's row in the history. recipe: what else belongs to the run's identity."""
        self.batches = batches
        self.progress: dict[str, Any] = {"step": 0, "loss_sums": torch.zeros(0, losses).double()}
        self.path, self.resume = context.out / "checkpoint.pth", context.resume
        self.modules, self.optimizer, self.config = modules, optimizer, config
        self.row = dict.fromkeys(columns, 0.0)
        self.identity = json.dumps({**dataclasses.asdict(config), "weights": backbone.sha256,
                                    "seed": context.seed, **recipe})

    def load(self) -> list[dict]:
        """Restore what was saved and return its history; [] where there is nothing to resume. Every rank
        calls it. ValueError, the same on all, where the file is damaged or another run's; nothing is changed
        then."""
        saved = agree(self._fitting) if self.resume else None
        history = saved["history"] if saved else []
        require_same(len(history), lambda mine, first: (
            f"{self.path}: expected the same file for every process, found {mine} epochs here, {first} on "
            "the main one; choose an --output that all machines share"))
        if saved:
            for name, module in self.modules.items():
                module.load_state_dict(saved[name])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.progress = saved.get("progress", self.progress)
        return history

    def steps(self, loader: torch.utils.data.DataLoader, history: list[dict],
              loss_sum: torch.Tensor) -> Iterator[tuple[int, images.Batch]]:
        """(step, batch) of an epoch, from where an interrupted one stopped; every rank iterates it.

        history: of the epochs before. loss_sum (losses,): this rank's, which the caller adds to in each step;
        continued, too. Where a stop signal came to any rank, all save after their step and raise Stopped;
        inside `signals.deferred` only.
        """
        self.batches.start, sums = self.progress["step"], self.progress["loss_sums"]
        if len(sums) == world_size():
            loss_sum += sums[rank()].to(loss_sum.device)
        elif is_main():
            loss_sum += sums.sum(0).to(loss_sum.device)
        self.progress = {"step": 0, "loss_sums": sums[:0]}
        # Of the whole training, as its time to go.
        epoch, epochs, steps = self.batches.epoch, self.config.epochs, len(self.batches)
        shown = bar(images.batches_of(loader), f"epoch {epoch + 1}/{epochs}", epochs * steps,
                    epoch * steps + self.batches.start)
        for step, batch in enumerate(shown, self.batches.start):
            yield step, batch
            number = signals.wish()
            if number:
                self.save(history, step + 1, loss_sum)
                barrier()  # the first to leave ends the others
                raise signals.Stopped(number)
        self.batches.start = 0

    def _fitting(self) -> dict | None:
        """The file, found to be this run's; None where there is none."""
        if not os.path.lexists(self.path):
            return None
        try:
            saved = checkpoints.read(self.path, ("identity", "history", "optimizer", *self.modules))
            self._require_same_run(saved["identity"])
            for name, module in self.modules.items():
                checkpoints.require_like(saved[name], module.state_dict(), name)
            slots = (("step", "exp_avg", "exp_avg_sq") if isinstance(self.optimizer, torch.optim.Adam) else
                     ("momentum_buffer",) if self.config.momentum else ())
            saved["optimizer"] = checkpoints.optimizer_state(saved["optimizer"], self.optimizer, slots)
            rows = len(saved["history"]) if isinstance(saved["history"], list) else 0
            checkpoints.require_like(saved["history"], [self.row] * min(rows, self.config.epochs), "history")
            self._require_progress(saved.get("progress", self.progress))
        except ValueError as error:
            reason = str(error).removeprefix(f"{self.path}: ")
            raise ValueError(f"{self.path}: {reason}; remove it, choose another --output or start over with "
                             "--rerun") from None
        return saved

    def _require_same_run(self, identity) -> None:
        """ValueError for another run's identity. A setting that did not exist yet has its default, or what
        the run has."""
        mine = json.loads(self.identity)
        defaults = {one.name: one.default for one in dataclasses.fields(self.config)}
        theirs = json.loads(identity) if isinstance(identity, str) else None
        if not isinstance(theirs, dict):
            raise ValueError(f"expected the identity of a run, found {identity!r:.40}")
        changed = checkpoints.difference(mine | json.loads(json.dumps(defaults)) | theirs, mine)
        if changed:
            raise ValueError(f"it is of {changed}")

    def _require_progress(self, found) -> None:
        sums = found.get("loss_sums") if isinstance(found, dict) else None
        ranks = len(sums) if isinstance(sums, torch.Tensor) and sums.dim() == 2 else 1
        losses = self.progress["loss_sums"].shape[1]
        checkpoints.require_like(found, {"step": 0, "loss_sums": torch.zeros(ranks, losses).double()},
                                 "progress")
        if not 0 <= found["step"] <= len(self.batches):
            raise ValueError(f"progress.step: expected 0 to {len(self.batches)}, found {found['step']}")

    def save(self, history: list[dict], step: int = 0, loss_sum: torch.Tensor | None = None) -> None:
        """Write atomically on rank 0: an interruption leaves the old checkpoint or the new one. step,
        loss_sum: of the epoch after `history`; every rank calls it."""
        sums = self.progress["loss_sums"] if loss_sum is None else all_gather_rows(loss_sum.cpu()[None])
        if is_main():
            state = {name: module.state_dict() for name, module in self.modules.items()}
            checkpoints.write({"identity": self.identity, "history": history,
                               "progress": {"step": step, "loss_sums": sums},
                               "optimizer": self.optimizer.state_dict(), **state}, self.path)
