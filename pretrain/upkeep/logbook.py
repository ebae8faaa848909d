"""What a run writes down about itself: stats.txt, TensorBoard and, when asked, Weights & Biases."""
import fcntl
import hashlib
import json
import math
import sys
import time
from pathlib import Path

from parallel.files import write_whole


class Logbook:
    """stats.txt as the official code writes it: the command, then one JSON object a line. The lines are
    printed, too, unless a progress bar is there.

    A resumed run takes back the lines from step `first` on, which it is going to write again, appends its
    command and goes on. Only the main process has a logbook. ValueError when --wandb finds no wandb.
    """

    def __init__(self, run, first: int):
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
        """values: with epoch and step, and numbers or words. Numbers that are not finite become null, since
        JSON has none such."""
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

    def emit(self, line):
        self.file.write(line + "\n")
        if not sys.stderr.isatty():
            print(line, flush=True)

    def close(self):
        self.file.close()
        self.lock.close()
        if self.writer:
            self.writer.close()
        if self.wandb:
            self.wandb.finish()


def alone_in(folder: Path):
    """An open file whose lock says that a run is at work in this folder; the kernel drops it with the
    process. ValueError where another run has it. A file system without locks is taken as it is."""
    file = open(folder / ".lock", "a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{folder}: expected no run at work, found one; wait for it, or choose another "
                         "--checkpoint-dir") from None
    except OSError:
        pass
    return file


def take_back(path: Path, first: int) -> None:
    """Leave only what belongs to steps before `first`; a line that a kill cut off goes, too."""
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


def open_wandb(run):
    """A run of Weights & Biases that a resumed run continues."""
    try:
        import wandb
    except ImportError:
        raise ValueError("--wandb expected the package wandb, found none; pip install wandb, or leave the "
                         "flag out") from None
    name = hashlib.sha256(str(run.checkpoint_dir.resolve()).encode()).hexdigest()[:16]
    return wandb.init(project="barlow-twins", id=name, resume="allow", dir=str(run.checkpoint_dir),
                      config={"command": run.command})
