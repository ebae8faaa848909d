"""Files of a run: `checkpoint.pth` from time to time, earlier ones beside it, the backbone at the end.

checkpoint.pth is always the newest, in the official format. checkpoint-<steps>.pth are the newest one again
(a second name of the same file, not a copy) and those before it, as many as --keep says.
"""
import dataclasses
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from parallel import checkpoints
from parallel.collectives import agree, all_gather_rows, is_main, rank, require_same, world_size
from pretrain.methods.method import Method
from pretrain.optim import slots
from pretrain.recipe import Recipe

OFFICIAL = {"epoch", "model", "optimizer"}  # main.py of facebookresearch/barlowtwins, lines 148-150
OURS = {"epoch", "step", "sampler", "model", "optimizer", "scaler", "guard", "feed", "rng", "config", "data",
        "processes"}

Parts = dict[str, Any]  # the network as `model`, and optimizer, scaler, guard, feed: all have a state_dict


@dataclass(frozen=True)
class Position:
    """Where a run stands: finished epochs, steps done in the epoch after them, steps done in all."""
    epoch: int = 0
    start: int = 0
    step: int = 0

    def __str__(self) -> str:
        return f"{self.epoch} finished epochs and {self.start} steps"


def save(path: Path, keep: int, position: Position, parts: Parts, config: Recipe, data: dict) -> None:
    """Save a checkpoint. Every process calls it; the main one writes.

    data: what the data set is, in JSON values; a resume compares it.
    The keys epoch (finished ones), model (names start with module.) and optimizer are the official ones. rng
    has one row for each process.
    """
    rng = {"cpu": all_gather_rows(torch.get_rng_state()[None])}
    if torch.cuda.is_initialized():
        rng["cuda"] = all_gather_rows(torch.cuda.get_rng_state()[None])
    if not is_main():
        return
    state: dict[str, Any] = {"epoch": position.epoch, "step": position.step,
                             "sampler": {"epoch": position.epoch, "start": position.start}}
    state |= {name: part.state_dict() for name, part in parts.items()}
    state["model"] = {"module." + name: value for name, value in state["model"].items()}
    state |= {"rng": rng, "config": dataclasses.asdict(config), "data": data, "processes": world_size()}
    checkpoints.write(state, path)
    remember(Path(path), keep, position.step)


def remember(path: Path, keep: int, step: int) -> None:
    """Give the newest checkpoint its second name and remove the oldest ones."""
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
    """Return the numbered checkpoints beside `path`, newest first."""
    path = Path(path)
    return sorted(path.parent.glob(f"{path.stem}-{'[0-9]' * 9}{path.suffix}"), reverse=True)


def load_model(network: Method, state: dict) -> None:
    """Load the `model` entry of a checkpoint, ours or the method's own code's, into the method's network."""
    network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})


def read(path: Path) -> dict:
    """Return a checkpoint of this program or of the official one (which has only the names OFFICIAL), checked
    to its last byte. Raises ValueError with the reason if it is neither."""
    state = checkpoints.read(path, OFFICIAL)
    missing = OURS - state.keys()
    if missing and missing != OURS - OFFICIAL:
        raise ValueError(f"{path}: expected a checkpoint of this program, found one without "
                         f"{', '.join(sorted(missing))}")
    wanted = {"epoch": 0} if missing else {"epoch": 0, "step": 0, "sampler": {"epoch": 0, "start": 0},
                                           "processes": 1}
    try:
        checkpoints.require_like({name: state[name] for name in wanted}, wanted, "place")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return state


def position_of(state: dict, steps: int) -> Position:
    """Return where a checkpoint stands in a run of `steps` steps an epoch."""
    if "sampler" not in state:
        return Position(state["epoch"], 0, state["epoch"] * steps)
    return Position(state["epoch"], state["sampler"]["start"], state["step"])


def resume(path: Path, parts: Parts, config: Recipe, data: dict) -> Position:
    """Restore a run from its checkpoint, if there is one, and return where it stands. Every process calls it.

    Nothing is changed until everything is known to fit. A checkpoint of the official code gives the network,
    the optimiser and the finished epochs. Raises ValueError, the same in every process, if the file is
    damaged (naming the newest good one before it) or belongs to another recipe, network or data set, or to
    another number of processes where that matters.
    """
    state = agree(fitting, Path(path), parts, config, data)
    position = position_of(state, parts["feed"].steps) if state else Position()
    require_same(position, lambda mine, first: (
        f"{path}: expected the same file for every process, found {mine} here, {first} on the main one; "
        "choose a --checkpoint-dir that all machines share"))
    if not state:
        return position
    load_model(parts["model"], state["model"])
    for name in set(parts) & state.keys() - {"model"}:
        parts[name].load_state_dict(state[name])
    if "rng" not in state:
        if is_main():
            print(f"{path}: a checkpoint of the official code with {position.epoch} finished epochs; recipe "
                  "and data are not in it and were not compared; random states, loss factor and the running "
                  "mean of the loss start afresh", file=sys.stderr)
    elif rank() < state["processes"]:  # a process that was not there before keeps its fresh state
        # A copy of the row: torch 2.14.1 takes a row's offset in its tensor as a number of states, not of
        # bytes, and reads far outside it.
        torch.set_rng_state(state["rng"]["cpu"][rank()].clone())
        if "cuda" in state["rng"] and torch.cuda.is_initialized():
            torch.cuda.set_rng_state(state["rng"]["cuda"][rank()].clone())
    return position


def fitting(path: Path, parts: Parts, config: Recipe, data: dict) -> dict | None:
    """Return the checkpoint at path, known to be this run's, or None if there is none."""
    if not os.path.lexists(path):
        if earlier(path):
            raise ValueError(f"{path} is missing, but {earlier(path)[0].name} is beside it; copy that to "
                             f"{path.name} to go on from it, or choose another --checkpoint-dir")
        return None
    try:
        state = read(path)
    except ValueError as error:
        raise ValueError(f"{error}; {advice(path)}") from None
    if "config" in state:
        require_same_run(path, state, config, data)
    try:
        require_fitting_parts(state, parts, config)
    except ValueError as error:
        raise ValueError(f"{path}: expected what this recipe builds, but {error}; use the program that "
                         "wrote it or another --checkpoint-dir") from None
    return state


def require_same_run(path: Path, state: dict, config: Recipe, data: dict) -> None:
    """Raise ValueError for another recipe or data set. A setting that did not exist yet has its default;
    before there were methods, every run was Barlow Twins."""
    if not all(isinstance(state[name], dict) for name in ("config", "data")):
        raise ValueError(f"{path}: expected config and data as dicts of settings, found others; "
                         f"{advice(path)}")
    defaults = {one.name: one.default for one in dataclasses.fields(config)} | {"method": "barlow_twins"}
    changed = checkpoints.difference(defaults | state["config"] | state["data"],
                                     dataclasses.asdict(config) | data)
    if changed:
        raise ValueError(f"{path} was written by another recipe: {changed}; use the same settings or another "
                         "--checkpoint-dir")
    if config.reference_world_size == "actual" and state["processes"] != world_size():
        raise ValueError(f"{path} was written by {state['processes']} processes, now {world_size()}, and "
                         "with --reference-world-size actual their number is part of the recipe; use as many")


def require_fitting_parts(state: dict, parts: Parts, config: Recipe) -> None:
    """Raise ValueError unless every part of the run can be loaded and the file stands within the run."""
    wrapped = {"module." + name: value for name, value in parts["model"].state_dict().items()}
    checkpoints.require_like(state["model"], wrapped, "model")
    if ("online" in parts) != ("online" in state):
        raise ValueError("found one " + ("with" if "online" in state else "without") + " an online probe; "
                         "--online-probe belongs to a run from its start to its end")
    for name in sorted(set(parts) & state.keys() - {"model", "optimizer"}):
        checkpoints.require_like(state[name], parts[name].state_dict(), name)
    fresh = "guard" in state and state["guard"]["counted"] == 0
    state["optimizer"] = checkpoints.optimizer_state(state["optimizer"], parts["optimizer"],
                                                     slots(parts["optimizer"]), fresh)
    steps = parts["feed"].steps
    place = position_of(state, steps)
    if not (0 <= place.start < steps and place.step == place.epoch * steps + place.start
            and 0 <= place.step <= config.epochs * steps):
        raise ValueError(f"it stands at {place}, step {place.step}, of {config.epochs} epochs of {steps} "
                         "steps")
    if "rng" in state:
        require_random_states(state["rng"], state["processes"])


def require_random_states(rng: Any, processes: int) -> None:
    """Raise ValueError unless `rng` has a state for each of the processes that torch accepts."""
    wanted = {"cpu": torch.get_rng_state().expand(max(processes, 1), -1)}
    if isinstance(rng, dict) and "cuda" in rng:
        wanted["cuda"] = (torch.cuda.get_rng_state().expand(max(processes, 1), -1)
                          if torch.cuda.is_initialized() else rng["cuda"])
    checkpoints.require_like(rng, wanted, "rng")
    try:
        torch.Generator().set_state(rng["cpu"][min(rank(), processes - 1)].clone())
    except RuntimeError as error:
        raise ValueError(f"rng.cpu: {error}") from None


def advice(path: Path) -> str:
    """Return what to do about a damaged checkpoint.pth, in words."""
    for other in earlier(path):
        try:
            if os.path.samefile(other, path):
                continue
            position = position_of(read(other), 0)
        except (ValueError, OSError):
            continue
        return f"the newest good one is {other} with {position}; copy it to {path.name} to go on from there"
    return "no good one is beside it; move it away to start anew"


def standing(path: Path) -> Position | None:
    """Return where the checkpoint stands, or None if none can be read."""
    try:
        return position_of(read(Path(path)), 0)
    except ValueError:
        return None


def export_backbone(path: Path, network: Method) -> None:
    """Write the backbone's state dict under torchvision's names, without fc: the official resnet50.pth."""
    checkpoints.write(network.torchvision_state(), path)
