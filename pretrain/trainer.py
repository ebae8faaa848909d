"""The training loop, run by every process of a group."""
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from pretrain import checkpoint, data
from pretrain.config import PretrainConfig
from pretrain.distributed import barrier, convert_sync_batchnorm, is_main, local_device, rank, world_size
from pretrain.losses import barlow_twins_terms, gradient_factor
from pretrain.model import BarlowTwins
from pretrain.monitor import correlation_health
from pretrain.optim import LARS, learning_rates, parameter_groups

ADVICE = "Lower the learning rates or choose another --precision"
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Run:
    """What must not change the result: where things are, and how the work is shown."""
    data: Path  # holds train/<class>/<picture>
    checkpoint_dir: Path
    command: str
    device: str = "cpu"
    workers: int = 8  # for each process
    print_freq: int = 100  # steps between two lines of stats.txt

    @property
    def checkpoint(self) -> Path:
        return self.checkpoint_dir / "checkpoint.pth"


def train(config: PretrainConfig, run: Run) -> list[Path]:
    """Train from the start or from run.checkpoint to the last epoch; returns the files it leaves.

    ValueError or FileNotFoundError, one line, for data, checkpoints and settings that do not fit, and when
    the loss is no longer finite.
    """
    device = local_device(run.device)
    torch.backends.cudnn.benchmark = True
    files = data.image_files(run.data / "train")
    loader = data.build_loader(files, config, run.workers, world_size(), rank(), device.type == "cuda")
    torch.manual_seed(config.seed)
    network = convert_sync_batchnorm(BarlowTwins(config.arch, config.projector, config.stem).to(device))
    optimizer = LARS(parameter_groups(network), weight_decay=config.weight_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    first = checkpoint.resume(run.checkpoint, network, optimizer, scaler, config, len(files))
    stats = Stats(run) if is_main() else None
    model = network
    if world_size() > 1:
        model = DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
    for epoch in range(first, config.epochs):
        train_epoch(config, run, epoch, loader, model, network, optimizer, scaler, device, stats)
        if not torch.stack(list(torch._foreach_norm(list(network.parameters())))).isfinite().all():
            raise ValueError(f"weights are not finite after epoch {epoch}; {last_good(run)}. {ADVICE}")
        checkpoint.save(run.checkpoint, epoch + 1, network, optimizer, scaler, config, len(files))
    backbone = run.checkpoint_dir / f"{config.arch}.pth"
    if is_main():
        checkpoint.export_backbone(backbone, network)
    barrier()
    return [run.checkpoint, backbone, run.checkpoint_dir / "stats.txt"]


def train_epoch(config, run, epoch, loader, model, network, optimizer, scaler, device, stats):
    loader.batch_sampler.epoch = epoch
    model.train()
    finite = torch.ones((), dtype=torch.bool, device=device)
    steps = enumerate(batches(loader, epoch, config.epochs), start=epoch * len(loader))
    for step, (y1, y2) in steps:
        rates = learning_rates(config, step, len(loader))
        loss, correlation = train_step(config, rates, model, network, optimizer, scaler,
                                       y1.to(device, non_blocking=True), y2.to(device, non_blocking=True))
        finite &= loss.isfinite()
        shown, last = step % run.print_freq == 0, (step + 1) % len(loader) == 0
        # Asking makes a GPU wait, so there only now and then, but always before a checkpoint.
        if (device.type == "cpu" or shown or last) and not finite:
            raise ValueError(f"the loss is not finite at step {step} (epoch {epoch}); {last_good(run)}. "
                             f"{ADVICE}")
        if stats and shown:
            stats.write(dict(epoch=epoch, step=step, lr_weights=rates[0], lr_biases=rates[1],
                             loss=loss.item(), time=stats.seconds()) | correlation_health(correlation))


def train_step(config, rates, model, network, optimizer, scaler, y1, y2):
    """One update. y1, y2 (n, 3, H, W): this process's views. Returns the joint batch's loss and what the loss
    knows of C."""
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate
    optimizer.zero_grad()
    dtype = AUTOCAST.get(config.precision)
    with torch.autocast(y1.device.type, dtype=dtype, enabled=dtype is not None):
        z1, z2 = model(y1, y2)
    loss, correlation = barlow_twins_terms(z1, z2, config.lambd, running=network.bn)
    scaler.scale(loss * gradient_factor(config.reference_world_size, world_size())).backward()
    scaler.step(optimizer)
    scaler.update()
    return loss.detach(), correlation


def batches(loader, epoch, epochs):
    """The loader's batches, with a progress bar on a terminal."""
    bar = tqdm(loader, desc=f"epoch {epoch + 1}/{epochs}", disable=not (is_main() and sys.stderr.isatty()))
    try:
        yield from bar
    except ValueError as error:
        raise data.one_line(error) from None


def last_good(run) -> str:
    """Where the run could go on, in words."""
    epochs = checkpoint.finished_epochs(run.checkpoint)
    if epochs:
        return f"the last good checkpoint is {run.checkpoint} with {epochs} finished epochs"
    return "no epoch was finished, so there is no checkpoint"


class Stats:
    """stats.txt as the official code writes it: the command, then one JSON object a line. A resumed run
    appends its command and goes on. The lines are printed, too, unless a progress bar is there."""

    def __init__(self, run):
        self.start = time.time()
        self.file = open(run.checkpoint_dir / "stats.txt", "a", buffering=1)
        self.emit(run.command)

    def seconds(self) -> int:
        return int(time.time() - self.start)

    def write(self, values: dict) -> None:
        self.emit(json.dumps(values))

    def emit(self, line):
        self.file.write(line + "\n")
        if not sys.stderr.isatty():
            print(line, flush=True)
