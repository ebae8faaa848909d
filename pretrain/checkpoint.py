"""Files of a run: `checkpoint.pth` now and then, earlier ones beside it, the backbone at the end.

checkpoint.pth is always the newest and in the official format; checkpoint-<steps>.pth are the newest ones
again (a second name of the same file, no second copy) and those before it, as many as --keep says.
"""
import dataclasses
import os
import pickle
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

from pretrain.config import difference
from parallel.collectives import all_gather_rows, is_main, rank, world_size

OURS = {"epoch", "step", "sampler", "model", "optimizer", "scaler", "guard", "feed", "rng", "config", "data",
        "processes"}


@dataclass(frozen=True)
class Position:
    """Where a run stands: whole epochs done, steps done in the epoch after them, steps done in all."""
    epoch: int = 0
    start: int = 0
    step: int = 0

    def __str__(self):
        return f"{self.epoch} finished epochs and {self.start} steps"


def write_atomically(state, path: Path) -> None:
    """torch.save that leaves either the old file or the whole new one, whenever it is interrupted."""
    path = Path(path)
    draft = path.with_name(path.name + ".part")
    with open(draft, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, is to outlive a power cut
    finally:
        os.close(folder)


def save(path, keep: int, position: Position, parts: dict, config, data: dict) -> None:
    """Every process calls it, the main one writes.

    parts: the network as `model`, and whatever else has a state_dict (optimizer, scaler, guard, feed).
    data: what the data set is, in JSON values; a resume compares it.
    Keys epoch (finished ones), model (names start with module.) and optimizer are the official ones. rng has
    one row a process.
    """
    rng = {"cpu": all_gather_rows(torch.get_rng_state()[None])}
    if torch.cuda.is_initialized():
        rng["cuda"] = all_gather_rows(torch.cuda.get_rng_state()[None])
    if not is_main():
        return
    state = {"epoch": position.epoch, "step": position.step,
             "sampler": {"epoch": position.epoch, "start": position.start}}
    state |= {name: part.state_dict() for name, part in parts.items()}
    state["model"] = {"module." + name: value for name, value in state["model"].items()}
    state |= {"rng": rng, "config": dataclasses.asdict(config), "data": data, "processes": world_size()}
    write_atomically(state, path)
    remember(Path(path), keep, position.step)


def remember(path: Path, keep: int, step: int) -> None:
    """Give the newest checkpoint its second name and remove the names of the oldest ones."""
    if keep > 1:
        name = path.with_name(f"{path.stem}-{step:09}{path.suffix}")
        draft = name.with_name(name.name + ".part")
        draft.unlink(missing_ok=True)
        try:
            os.link(path, draft)
        except OSError:  # a file system without second names
            shutil.copyfile(path, draft)
        os.replace(draft, name)
    for old in earlier(path)[max(0, keep if keep > 1 else 0):]:
        old.unlink()


def earlier(path: Path) -> list[Path]:
    """The numbered checkpoints beside `path`, newest first."""
    path = Path(path)
    return sorted(path.parent.glob(f"{path.stem}-{'[0-9]' * 9}{path.suffix}"), reverse=True)


def load_model(network, state: dict) -> None:
    """Load the `model` entry of a checkpoint, ours or the official code's, into a BarlowTwins network."""
    network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})


def read(path: Path) -> dict:
    """A checkpoint of this program, checked to its last byte. ValueError with the reason when it is none."""
    try:
        broken = zipfile.ZipFile(path).testzip()  # torch.load does not compare checksums
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError,
            zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"cannot be read as a checkpoint ({reason})") from None
    if broken:
        raise ValueError(f"is damaged: its part {broken} does not fit its checksum")
    missing = OURS - set(state)
    if missing:
        raise ValueError(f"expected a checkpoint of this program, found one without "
                         f"{', '.join(sorted(missing))}")
    return state


def resume(path, parts: dict, config, data: dict) -> Position:
    """Restore a run from its checkpoint, if there is one; returns where it stands.

    ValueError when the file is damaged (naming the newest good one before it), and when it belongs to
    another recipe or data set, or to another number of processes where that matters.
    """
    path = Path(path)
    if not path.is_file():
        if earlier(path):
            raise ValueError(f"{path} is missing, but {earlier(path)[0].name} is beside it; copy that to "
                             f"{path.name} to go on from it, or choose another --checkpoint-dir")
        return Position()
    try:
        state = read(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {advice(path)}") from None
    changed = difference(state["config"] | state["data"], dataclasses.asdict(config) | data)
    if changed:
        raise ValueError(f"{path} was written by another recipe: {changed}; use the same settings or another "
                         "--checkpoint-dir")
    if config.reference_world_size == "actual" and state["processes"] != world_size():
        raise ValueError(f"{path} was written by {state['processes']} processes, now {world_size()}, and "
                         "with --reference-world-size actual their number is part of the recipe; use as many")
    load_model(parts["model"], state["model"])
    for name in set(parts) - {"model"}:
        parts[name].load_state_dict(state[name])
    if rank() < len(state["rng"]["cpu"]):  # a process that was not there before keeps its fresh state
        torch.set_rng_state(state["rng"]["cpu"][rank()])
        if "cuda" in state["rng"] and torch.cuda.is_initialized():
            torch.cuda.set_rng_state(state["rng"]["cuda"][rank()])
    return Position(state["epoch"], state["sampler"]["start"], state["step"])


def advice(path: Path) -> str:
    """What to do about a damaged checkpoint.pth, in words."""
    for other in earlier(path):
        if os.path.samefile(other, path):
            continue
        try:
            state = read(other)
        except ValueError:
            continue
        position = Position(state["epoch"], state["sampler"]["start"])
        return f"the newest good one is {other} with {position}; copy it to {path.name} to go on from there"
    return "no good one is beside it; move it away to start anew"


def standing(path) -> Position | None:
    """Where the checkpoint stands; None when there is none that can be read."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return Position(state["epoch"], state["sampler"]["start"], state["step"])
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        return None


def export_backbone(path, network) -> None:
    """The backbone's state dict, torchvision's names, without fc: the official resnet50.pth."""
    write_atomically(network.backbone.state_dict(), path)
