"""One iteration in several micro-batches, if the total batch does not fit into the GPUs' memory."""

import contextlib
import time
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import nn


class AccumulatingTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer, and its AMPTrainer, with the gradient averaged over `parts` micro-batches.

    Each loss is normalised within its micro-batch, as Detectron2 normalises within each GPU's batch, so N
    GPUs with A parts take the step that N x A GPUs would take on the same images, except for batch norm: its
    statistics are those of one micro-batch over the N GPUs, and its running average moves A times. The
    gradient is a mean of means. It equals that of the joint batch if batch norm is frozen and all
    micro-batches have the same number of sampled regions (and, with masks, foreground regions). With 1 part
    it is Detectron2's.
    """

    def __init__(self, model: nn.Module, micro_batches: Iterable[list[dict]],
                 optimizer: torch.optim.Optimizer, parts: int, amp: bool):
        """micro_batches: lists of Detectron2's dicts, `parts` of them an iteration.
        amp: half precision, float16 on a GPU and bfloat16 on a CPU."""
        super().__init__(model, micro_batches, optimizer)
        self.parts, self.amp = parts, amp
        self.device = next(model.parameters()).device.type
        self.grad_scaler = torch.amp.GradScaler(self.device, enabled=amp)

    def run_step(self) -> None:
        self.optimizer.zero_grad()
        losses: dict[str, torch.Tensor] = {}
        waited = 0.0
        for number in range(self.parts):
            start = time.perf_counter()
            images = next(self._data_loader_iter)
            waited += time.perf_counter() - start
            with self._alone(number + 1 < self.parts):
                with torch.autocast(self.device, enabled=self.amp):
                    found = self.model(images)
                self.grad_scaler.scale(sum(found.values()) / self.parts).backward()
            for name, loss in found.items():
                losses[name] = losses.get(name, 0.0) + loss.detach() / self.parts
        self._write_metrics(losses, waited)  # FloatingPointError where they are not finite
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _alone(self, more_to_come):
        """Gradients travel between processes once an iteration, with the last micro-batch."""
        together = not more_to_come or not hasattr(self.model, "no_sync")
        return contextlib.nullcontext() if together else self.model.no_sync()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
