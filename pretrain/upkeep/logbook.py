"""What a run records about itself: stats.txt, TensorBoard and, if asked, Weights & Biases."""
import fcntl
import hashlib
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from parallel.files import write_whole
from parallel.process import this_process

if TYPE_CHECKING:
    import wandb

    from pretrain.trainer import Run  # it imports this module


class Logbook:
    """stats.txt as the official code writes it: the command, then one JSON object a line. The lines are also
    printed, unless there is a progress bar.

    A resumed run removes the lines from step `first` on, which it will write again, and appends its command.
    Only the main process has a logbook. Raises ValueError if --wandb finds no wandb.
    """

    def __init__(self, run: "Run", first: int):
        self.start = time.time()
        self.lock = alone_in(run.checkpoint_dir)
        self.writer, self.wandb = None, None
        if run.wandb:
            self.wandb = open_wandb(run)
        path = run.checkpoint_dir / "stats.txt"
        take_back(path, first)
        self.file = open(path, "a", buffering=1)
        if run.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # seconds to import
            self.writer = SummaryWriter(run.checkpoint_dir / "tensorboard", purge_step=first, flush_secs=30)
        self.emit(run.command)

    def seconds(self) -> int:
        return int(time.time() - self.start)

    def write(self, values: dict) -> None:
        """Write a line. values: epoch and step, and numbers or words. Numbers that are not finite become
        null, since JSON has no such numbers."""
        values = {name: None if isinstance(value, float) and not math.isfinite(value) else value
                  for name, value in values.items()}
        self.emit(json.dumps(values))
        numbers = {name: value for name, value in values.items()
                   if name not in ("epoch", "step") and isinstance(value, (int, float))}
        if self.writer:
            for name, value in numbers.items():
                self.writer.add_scalar(name, value, values["step"])
        if self.wandb:
            self.wandb.log(numbers | {"epoch": values["epoch"]}, step=values["step"])

    def emit(self, line: str) -> None:
        """Write a line to the file and, unless there is a progress bar, to the output."""
        self.file.write(line + "\n")
        if not sys.stderr.isatty():
            print(line, flush=True)

    def close(self) -> None:
        self.file.close()
        self.lock.close()
        if self.writer:
            self.writer.close()
        if self.wandb:
            self.wandb.finish()


def alone_in(folder: Path) -> TextIO:
    """Return an open file whose lock says that a run is at work in this folder. The kernel drops the lock
    with the process. Raises ValueError if another run has it. On a file system without locks nothing is
    checked."""
    file = open(folder / ".lock", "a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{folder}: expected no run at work, found one; wait for it, or choose another "
                         "--checkpoint-dir") from None
    except OSError:
        pass
    return file


def sign(folder: Path, **work: int) -> None:
    """Leave run.json for results/watch.py: which process is at work in a folder, and how much it has to
    do."""
    write_whole(folder / "run.json", json.dumps({**work, "process": this_process()}) + "\n")


def take_back(path: Path, first: int) -> None:
    """Keep only what belongs to steps before `first`, and drop a line that a kill cut off."""
    if not path.is_file():
        return
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if belongs(line, first)]
    if kept != lines:
        write_whole(path, "".join(kept))


def belongs(line: str, first: int) -> bool:
    if not line.endswith("\n"):
        return False
    if not line.startswith("{"):
        return True  # a command
    try:
        step = json.loads(line).get("step", -1)
    except ValueError:
        return False
    return isinstance(step, int) and step < first


def open_wandb(run: "Run") -> "wandb.sdk.wandb_run.Run":
    """Open a run of Weights & Biases, which a resumed run continues."""
    try:
        import wandb
    except ImportError:
        raise ValueError("--wandb expected the package wandb, found none; pip install wandb, or leave the "
                         "flag out") from None
    name = hashlib.sha256(str(run.checkpoint_dir.resolve()).encode()).hexdigest()[:16]
    return wandb.init(project="barlow-twins", id=name, resume="allow", dir=str(run.checkpoint_dir),
                      config={"command": run.command})
