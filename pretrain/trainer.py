"""The training loop, run by every process of a group."""
import contextlib
import hashlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_

from parallel import signals
from parallel.batchnorm import convert_sync_batchnorm
from parallel.collectives import all_reduce_sum, barrier, is_main, local_device, world_size
from pretrain import methods
from pretrain.accumulate import Tensors, accumulated_backward, plain_backward
from pretrain.optim import LARS, SGD, Adam, build_optimizer, learning_rates
from pretrain.pictures.feed import Feed
from pretrain.recipe import MOST, Recipe
from pretrain.upkeep import checkpoint, knn
from pretrain.upkeep.checkpoint import Position
from pretrain.upkeep.guard import GOOD, KIND, LOSS, Guard, Verdict, diagnosis, gradient_norms, not_finite
from pretrain.upkeep.health import embedding_health, save_correlation
from pretrain.upkeep.logbook import Logbook, sign
from pretrain.upkeep.online import OnlineProbe, judging_pictures

ADVICE = "Lower the learning rates or choose another --precision"
DATA_ON = ("auto", "device", "host")  # auto: on a GPU if they fit, see pictures/resident.py
# How many steps later the host reads a step's numbers: on a GPU, when the next step is already on its way.
LATE = {"cpu": 0, "cuda": 1}
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


# Of a Run: the name of a number, its lowest and highest value.
LIMITS = (("workers", 0, 1024), ("print_freq", 1, MOST), ("checkpoint_minutes", 0, MOST), ("keep", 1, MOST),
          ("max_skips", 1, MOST), ("device_memory", 0.1, MOST))


@dataclass(frozen=True)
class Run:
    """What must not change the result beyond rounding: where things are, and how the work is done."""
    data: Path  # what sources.open_source takes
    checkpoint_dir: Path
    command: str = ""  # which started it, for stats.txt
    device: str = "cpu"
    workers: int = 8  # for each process
    data_on: str = "auto"  # where decoded pictures stay, see DATA_ON
    print_freq: int = 100  # steps between two lines of stats.txt
    checkpoint_minutes: float = 30.0  # between two checkpoints within an epoch; 0: none there
    keep: int = 2  # newest checkpoints
    max_skips: int = 10  # skipped steps in a row that end the run
    channels_last: bool | None = None  # None: on a GPU, where it is faster in 16 bits
    compile: bool = False
    tensorboard: bool = False
    wandb: bool = False
    knn_data: Path | None = None  # labelled pictures, see knn.py
    online_probe: Path | None = None  # labelled pictures, see online.py
    device_memory: float | None = None  # GiB, which a forecast is held against; None: the GPU's own

    def __post_init__(self):
        if self.data_on not in DATA_ON:
            raise ValueError(f"--data-on expected one of {', '.join(DATA_ON)}, found {self.data_on!r}")
        if self.compile and self.online_probe:
            raise ValueError("--online-probe reads features within the network, which --compile hides; leave "
                             "one of them out")
        for name, least, most in LIMITS:
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"--{name.replace('_', '-')} expected {least} to {most}, found {value}")

    @property
    def memory_format(self) -> torch.memory_format:
        """Of images in the network."""
        last = self.device == "cuda" if self.channels_last is None else self.channels_last
        return torch.channels_last if last else torch.contiguous_format

    @property
    def checkpoint(self) -> Path:
        return self.checkpoint_dir / "checkpoint.pth"


@dataclass(frozen=True)
class Outcome:
    """What `train` comes back with: the files it leaves, and the signal that stopped it (0: it is done)."""
    files: list[Path]
    signal: int = 0


@dataclass
class Training:
    """Everything that moves during a run."""
    recipe: Recipe
    run: Run
    device: torch.device
    feed: Feed
    network: methods.Method
    model: torch.nn.Module  # the network, wrapped for several processes
    optimizer: LARS | Adam | SGD
    scaler: torch.amp.GradScaler
    guard: Guard
    online: OnlineProbe | None = None
    logbook: Logbook | None = None  # of the main process
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def parts(self) -> checkpoint.Parts:
        """Return what a checkpoint holds."""
        parts = {"model": self.network, "optimizer": self.optimizer, "scaler": self.scaler,
                 "guard": self.guard, "feed": self.feed}
        return parts | ({"online": self.online} if self.online else {})

    def save(self, position: Position) -> None:
        bad = not_finite(self.network)
        if bad:
            raise ValueError(f"weights are not finite after {position}, first {bad[0]}; "
                             f"{last_good(self.run)}. {ADVICE}")
        checkpoint.save(self.run.checkpoint, self.run.keep, position, self.parts, self.recipe,
                        self.feed.identity)
        self.saved_at = time.monotonic()


def prepare(recipe: Recipe, run: Run, record: Path | None = None) -> Training:
    """Return data, network and optimiser at the start of a run. record: see Feed."""
    device = local_device(run.device)
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    feed = Feed(recipe, run, device, record)
    torch.manual_seed(recipe.seed)
    network = methods.build(recipe).to(device)
    network.steps_per_epoch = feed.steps
    if run.memory_format == torch.channels_last:
        network.to(memory_format=torch.channels_last)
    network = cast(methods.Method, convert_sync_batchnorm(network))
    if run.compile:
        network.compile()
    model: torch.nn.Module = network
    if world_size() > 1:
        model = DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None,
                                        gradient_as_bucket_view=True)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    online = None
    if run.online_probe:
        judges, classes = judging_pictures(feed.source, run.online_probe, recipe.image_size)
        online = OnlineProbe(network, recipe, judges, classes, device)
    return Training(recipe, run, device, feed, network, model, build_optimizer(recipe, network), scaler,
                    Guard(network, recipe.spike_factor), online)


def train(recipe: Recipe, run: Run) -> Outcome:
    """Train from the start or from run.checkpoint, to the last epoch or until a stop signal.

    Raises ValueError or FileNotFoundError, one line, for data, checkpoints and settings that do not fit, and
    when too many steps in a row were skipped.
    """
    run.checkpoint_dir.mkdir(parents=True, exist_ok=True)
    with signals.listening(), signals.deferred(), contextlib.ExitStack() as stack:
        training = prepare(recipe, run, run.checkpoint_dir / "bad_pictures.txt")
        labelled = knn.Labelled(run.knn_data, recipe.image_size) if run.knn_data else None
        position = checkpoint.resume(run.checkpoint, training.parts, recipe, training.feed.identity)
        if is_main():
            print(f"data: {training.feed.identity['images']} images from {training.feed.place}", flush=True)
            training.logbook = stack.enter_context(contextlib.closing(Logbook(run, position.step)))
            sign(run.checkpoint_dir, steps=recipe.epochs * training.feed.steps, processes=world_size())
        if position.step == 0:  # of the untrained network, for comparison
            judge(training, labelled, epoch=0, step=0)
        for epoch in range(position.epoch, recipe.epochs):
            number = train_epoch(training, epoch, position.start if epoch == position.epoch else 0, labelled)
            if number:
                return Outcome([run.checkpoint], number)
        if is_main():
            checkpoint.export_backbone(run.checkpoint_dir / f"{recipe.arch}.pth", training.network)
        barrier()
    folder = run.checkpoint_dir
    return Outcome([run.checkpoint, folder / f"{recipe.arch}.pth", folder / "stats.txt"])


def train_epoch(training: Training, epoch: int, start: int, labelled: knn.Labelled | None) -> int:
    """Take the steps from `start` to the end of an epoch, with the checkpoints on the way. Returns the signal
    that ended it before its time, or 0."""
    run, steps = training.run, training.feed.steps
    training.model.train()
    meter = Meter(training)
    unread: deque[Taken] = deque()
    for done, views in enumerate(training.feed.batches(epoch, start), start=start + 1):
        step = epoch * steps + done - 1
        seen = train_step(training, step, views)
        unread.append(Taken(epoch, step, seen, on_its_way(torch.cat([seen.numbers, news(training)]))))
        meter.count()
        number, due = 0, False
        late = 0 if done == steps or step % run.print_freq == 0 else LATE[training.device.type]
        while len(unread) > late:
            first, second = settle(training, unread.popleft(), meter)
            number, due = number or first, due or second
            late = 0 if number or due else late
        if done == steps:
            if len(training.recipe.view_recipes()) > 1:
                save_correlation(run.checkpoint_dir / "correlation.npz", step, *seen.outputs[:2])
            judge(training, labelled, epoch, step)
            training.save(Position(epoch + 1, 0, step + 1))
        if done < steps and (number or due):
            training.save(Position(epoch, done, step + 1))
        if number:
            return number
    return 0


def judge(training: Training, labelled: knn.Labelled | None, epoch: int, step: int) -> None:
    """Log the accuracies of online kNN and probe, if asked for. Every process calls it."""
    network, device = training.network, training.device
    found = {"knn": labelled.accuracy(network, device)} if labelled else {}
    found |= training.online.accuracies(device) if training.online else {}
    if training.logbook and found:
        training.logbook.write(dict(epoch=epoch, step=step) | found)


@dataclass(frozen=True)
class Seen:
    """What one step showed, on the device: `numbers` of the guard, figures and outputs of the method."""
    numbers: torch.Tensor
    rates: tuple[float, ...]  # of weights, of one-dimensional parameters
    figures: dict[str, torch.Tensor]
    outputs: Tensors


def train_step(training: Training, step: int, views: Tensors) -> Seen:
    """Update the network once. views: as of Feed.batches. The host need not wait for the device: it is there
    that a step is skipped."""
    optimizer, scaler, guard = training.optimizer, training.scaler, training.guard
    rates = learning_rates(training.recipe, step, training.feed.steps)
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate
    optimizer.zero_grad()
    guard.begin()
    labels = views[-1]  # an online probe's; else the last view
    inputs = views[:-1] if training.online and not training.recipe.labelled else views
    loss, figures, outputs = backward(training, step, inputs)
    scaler.unscale_(optimizer)
    # fp16 gradients overflow now and then by design: the scaler leaves the step out and halves its factor.
    norms = gradient_norms(optimizer)
    numbers = guard.judge(loss, norms, scaler.scale(torch.ones_like(loss)) > 1)
    kind = numbers[KIND]
    if training.recipe.max_norm:
        total = torch.linalg.vector_norm(torch.stack(norms))
        clip_grads_with_norm_(training.network.parameters(), training.recipe.max_norm, total)
    optimizer.found_inf = (kind != GOOD).float()
    optimizer.step()
    if training.online:
        training.online.learn(labels, step, training.feed.steps, kind != GOOD)
    training.network.after_step(step, kind == GOOD)
    guard.restore(kind >= LOSS)
    scaler.update()
    return Seen(numbers, rates, figures, outputs)


def backward(training: Training, step: int,
             views: Tensors) -> tuple[torch.Tensor, dict[str, torch.Tensor], Tensors]:
    """Compute the gradients of the scaled loss. Returns the loss itself, the method's figures, and its
    outputs."""
    recipe, network = training.recipe, training.network
    factor = recipe.loss_scale * gradient_factor(recipe.reference_world_size, world_size())

    def autocast() -> contextlib.AbstractContextManager:
        dtype = AUTOCAST.get(recipe.precision)
        return torch.autocast(training.device.type, dtype=dtype) if dtype else contextlib.nullcontext()

    inputs = network.inputs(views, draw_of(recipe.seed, step))
    with torch.no_grad(), autocast():
        targets = network.targets(*inputs)

    def loss_of(outputs: Tensors) -> tuple[torch.Tensor, tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        loss, figures = network.loss(outputs, targets, step)
        return training.scaler.scale(loss * factor), (loss.detach(), figures)

    if recipe.accumulate > 1:
        (loss, figures), outputs = accumulated_backward(network, training.model, inputs, recipe.accumulate,
                                                        loss_of, autocast)
    else:
        (loss, figures), outputs = plain_backward(training.model, inputs, loss_of, autocast)
    return loss, figures, outputs


def gradient_factor(reference_world_size: int | str, processes: int) -> float:
    """Return what to multiply the loss with before backward.

    Each process has its own rows' gradient of the joint loss and DDP takes the mean, so DDP's result is the
    exact gradient / processes. We want the exact gradient / reference, whatever the number of processes.
    """
    return 1.0 if reference_world_size == "actual" else processes / int(reference_world_size)


def draw_of(seed: int, step: int) -> torch.Generator:
    """Return the random numbers of one step, the same in every process and after a resume."""
    digest = hashlib.sha256(f"{seed} {step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def news(training: Training) -> torch.Tensor:
    """Return, on the device, what the processes have to tell each other after a step: whether a checkpoint is
    due by the clock, how many samples of this start were made from another picture than their own, and how
    many processes got which stop signal."""
    minutes = training.run.checkpoint_minutes
    due = is_main() and minutes > 0 and time.monotonic() - training.saved_at >= 60 * minutes
    own = torch.tensor([due, training.feed.loader.replaced, *signals.votes()], dtype=torch.float64)
    return all_reduce_sum(own.to(training.device, non_blocking=True))


def on_its_way(numbers: torch.Tensor) -> Callable[[], list[float]]:
    """Begin to copy numbers to the host. Returns a function that waits for them."""
    host = numbers.to("cpu", non_blocking=True)
    if not numbers.is_cuda:
        return host.tolist
    arrived = torch.cuda.Event()
    arrived.record()

    def read() -> list[float]:
        arrived.synchronize()
        return host.tolist()

    return read


@dataclass(frozen=True)
class Taken:
    """A step whose numbers, with `news` at their end, are on their way to the host."""
    epoch: int
    step: int
    seen: Seen
    read: Callable[[], list[float]]


def settle(training: Training, taken: Taken, meter: "Meter") -> tuple[int, bool]:
    """Read a step's numbers, and log them if they are due or the step was skipped. Returns the stop signal
    that any process got (0: none) and whether a checkpoint is due, the same in every process. Raises
    ValueError if too many steps in a row were skipped."""
    run, seen = training.run, taken.seen
    numbers = taken.read()
    due, replaced, *votes = numbers[len(seen.numbers):]
    verdict = training.guard.read(numbers[:len(seen.numbers)])
    training.feed.note_replaced(int(replaced))
    if training.logbook and (taken.step % run.print_freq == 0 or verdict.reason):
        training.logbook.write(dict(epoch=taken.epoch, step=taken.step) | meter.figures(seen, verdict))
    if verdict.reason and verdict.in_a_row >= run.max_skips:
        where = diagnosis(training.network, seen.outputs)
        raise ValueError(f"{verdict.in_a_row} steps in a row were skipped, the last at step {taken.step} "
                         f"(epoch {taken.epoch}): {verdict.reason}; {where}; {last_good(run)}. {ADVICE}")
    return signals.elected(votes), bool(due)


class Meter:
    """Figures of one line of stats.txt, and speed since the line before it."""

    def __init__(self, training: Training):
        self.training = training
        self.reset()

    def reset(self) -> None:
        self.since, self.steps, self.training.feed.waited = time.perf_counter(), 0, 0.0

    def count(self) -> None:
        self.steps += 1

    def figures(self, seen: Seen, verdict: Verdict) -> dict[str, float | str]:
        """Return the figures of a step's line, and begin the next one."""
        training = self.training
        assert training.logbook  # only the process that has one asks
        recipe, seconds = training.recipe, max(time.perf_counter() - self.since, 1e-9)
        speed = dict(images_per_second=round(self.steps * recipe.batch_size / seconds, 2),
                     data_wait_share=round(min(1.0, training.feed.waited / seconds), 4))
        figures: dict[str, float | str] = dict(
            lr_weights=seen.rates[0], lr_biases=seen.rates[1], loss=verdict.loss,
            time=training.logbook.seconds())
        figures |= {name: value.item() for name, value in seen.figures.items()}
        figures |= embedding_health(seen.outputs[0])
        figures |= dict(gradient_norm_weights=verdict.norms[0],
                        gradient_norm_biases=verdict.norms[1]) | speed
        figures |= dict(skipped=verdict.skipped, replaced_pictures=training.feed.replaced)
        if recipe.precision == "fp16":
            figures["loss_factor"] = training.scaler.get_scale()
        if recipe.accumulate > 1:
            images = recipe.batch_size // recipe.accumulate
            figures["batch_norm"] = f"statistics of micro-batches of {images} images"
        if verdict.reason:
            figures["skipped_because"] = verdict.reason
        self.reset()
        return figures


def last_good(run: Run) -> str:
    """Return where the run could continue, in words."""
    position = checkpoint.standing(run.checkpoint)
    if position:
        return f"the last good checkpoint is {run.checkpoint} with {position}"
    return "there is no checkpoint yet"
