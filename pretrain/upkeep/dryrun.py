"""What a run will do and cost, from a few measured steps. Nothing is written."""
import dataclasses
import math
import resource
import statistics
import time

import torch

from parallel.collectives import is_main, world_size
from pretrain.recipe import Recipe, show
from pretrain.trainer import Run, Training, prepare, train_step
from pretrain.upkeep.forecast import Forecast, forecast

WARM, MEASURED = 2, 5  # steps


def report(config: Recipe, run: Run) -> list[str]:
    """Measure a few steps and return the lines of memory and time. Every process calls it; process 0 first
    prints recipe, rates, network and data. The steps train, in memory only. The estimate holds for this
    machine as busy as it is now; it excludes checkpoints and kNN."""
    training = prepare(config, run)
    if is_main():  # first, since a step that runs out of memory ends the process without a message
        print("\n".join(known(config, run, training)), flush=True)
    on_gpu = training.device.type == "cuda"
    training.model.train()
    seconds, waited = [], []
    before = time.perf_counter()
    for step, views in zip(range(WARM + MEASURED), training.feed.batches(0, 0)):
        train_step(training, step, views).numbers.tolist()  # waits until the device's work is done
        now = time.perf_counter()
        seconds.append(now - before)
        waited.append(training.feed.waited)
        before, training.feed.waited = now, 0.0
    usual = statistics.median(seconds[WARM:] or seconds)
    share = sum(waited[WARM:] or waited) / sum(seconds[WARM:] or seconds)
    if on_gpu:
        memory = f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB of GPU memory at most in process 0 " \
                 f"(of {torch.cuda.get_device_properties(training.device).total_memory / 2**30:.1f})"
    else:
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        memory = f"{resident / 2**20:.2f} GiB in process 0, without loader workers"
    steps = training.feed.steps
    return [f"memory: {memory}",
            f"time: {usual:.3f} s a step (median of {len(seconds[WARM:] or seconds)}), "
            f"{config.batch_size / usual:.1f} images per second, {100 * share:.0f} % of it waiting for data; "
            f"{duration(usual * steps)} an epoch, {duration(usual * steps * config.epochs)} for all "
            f"{config.epochs}"]


def known(config: Recipe, run: Run, training: Training) -> list[str]:
    """Return the lines that need no measurement, and one that says what is measured now."""
    weights, biases = config.peak_rates()
    parameters = sum(p.numel() for p in training.network.parameters())
    cost = forecast(config, world_size(), run.device)
    reference = config.reference_world_size if config.reference_world_size != "actual" else world_size()
    return ["recipe: " + ", ".join(f"{one.name} {show(getattr(config, one.name))}"
                                   for one in dataclasses.fields(config)),
            f"learning rates after {config.warmup_epochs} epochs of warm-up: weights {weights:g}, biases "
            f"{biases:g} on 1/{reference:g} of the exact gradient times {config.loss_scale:g}",
            f"network: {parameters / 1e6:.2f} million parameters; a checkpoint has about "
            f"{cost.checkpoint_bytes / 2**30:.2f} GiB, {run.keep} are kept",
            f"data: {training.feed.identity['images']} images, {training.feed.steps} steps an epoch of "
            f"{config.batch_size} images, {config.batch_size // world_size()} in each of {world_size()} "
            "processes" + (f", {config.accumulate} micro-batches with their own batch-norm statistics"
                           if config.accumulate > 1 else "") + f"; from {training.feed.place}",
            foreseen(cost, run, world_size()),
            f"measured now: up to {WARM + MEASURED} steps; if they end with a killed process, there was not "
            "enough memory: lower --batch-size or raise --accumulate"]


def foreseen(cost: Forecast, run: Run, processes: int) -> str:
    """Return the line that says what each of so many processes needs, and whether its device has it."""
    gib = run.device_memory
    if gib is None and run.device == "cuda" and torch.cuda.is_available():
        gib = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 2**30
    return f"forecast for {processes} processes: {cost.sentence(gib)}"


def duration(seconds: float) -> str:
    """Return seconds in the units that a reader plans with."""
    if not math.isfinite(seconds):
        return "unknown"
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
