"""The file that a run resumes from: written whole, read with suspicion, and compared with what the run has
built before any of that is changed.

A run's folder outlives processes, machines and disks, and others may have copied, truncated or filled it. So
the file must be a regular file of that folder, and every checksum of its archive must hold (torch.load
compares none). No code from it is run (weights_only), and each name, shape and type must be what the run
expects.
"""
import os
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from parallel.files import remove_drafts, replacing

MOST = 1_000_000  # values of a state; a run's have some thousand
HOW = ("foreach", "fused", "capturable")  # options of an optimiser that change no more than its rounding


def write(state: dict, path: str | os.PathLike) -> None:
    """Save like torch.save, leaving either the old file or the whole new one whenever it is interrupted."""
    remove_drafts(path)  # each is as large as the file, and a run is alone in its folder
    with replacing(path) as draft, open(draft, "wb") as file:
        torch.save(state, file)


def regular(path: str | os.PathLike) -> Path:
    """Return the path itself. Raises ValueError unless it is a regular file in its folder; a link may point
    to another file of that folder."""
    path = Path(path)
    try:
        kind = path.stat().st_mode
    except OSError as error:
        raise ValueError(f"{path}: expected a file, found none ({error.strerror})") from None
    if not stat.S_ISREG(kind):
        raise ValueError(f"{path}: expected a file, found a folder or device")
    if path.resolve().parent != path.parent.resolve():
        raise ValueError(f"{path}: expected a file of its folder, found a link to {path.resolve()}")
    return path


def read(path: str | os.PathLike, keys: Iterable[str]) -> dict[str, Any]:
    """Return what `write` left at path, on the CPU: a dict with at least these keys. Raises ValueError if it
    is not one."""
    path = regular(path)
    try:
        with open(path, "rb") as file:
            with zipfile.ZipFile(file) as archive:
                if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                    raise ValueError("it unpacks to more than it has, and torch.save does not compress")
                broken = archive.testzip()
            file.seek(0)
            state: Any = None if broken else torch.load(file, map_location="cpu", weights_only=True)
        require_few(state)
    except Exception as error:  # foreign bytes raise almost anything
        reason = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
        raise ValueError(f"{path}: cannot be read as a checkpoint ({reason})") from None
    if broken:
        raise ValueError(f"{path}: is damaged: its part {broken} does not fit its checksum")
    missing = sorted(set(keys) - set(state)) if isinstance(state, dict) else ["any names"]
    if missing:
        raise ValueError(f"{path}: expected a checkpoint of this program, found one without "
                         f"{', '.join(missing)}")
    return state


def require_few(state: Any) -> None:
    """Raise ValueError for a state with more than MOST values: nested lists that name each other again and
    again have no end for whoever compares them."""
    waiting, count = [state], 0
    while waiting:
        value = waiting.pop()
        inner = value.values() if isinstance(value, dict) else value
        if isinstance(value, (dict, list, tuple)):
            count += len(inner)
            waiting += inner
        if count > MOST:
            raise ValueError(f"it holds more than {MOST} values")


def unlike(found: Any, wanted: Any, name: str) -> str:
    """Return the first place where `found` has other names, kinds, shapes or types than `wanted`, in words,
    or "". Both are nested dicts and lists of tensors and plain values, like a state_dict."""
    if isinstance(wanted, torch.Tensor):
        if not isinstance(found, torch.Tensor) or _form(found) != _form(wanted):
            return f"{name}: expected {_form(wanted)}, found {_form(found)}"
    elif type(found) is not type(wanted) and not (isinstance(found, dict) and isinstance(wanted, dict)):
        return f"{name}: expected {_form(wanted)}, found {_form(found)}"
    elif isinstance(wanted, dict):
        for key in wanted:
            if key not in found:
                return f"{name}: expected {key}, found none"
        if len(found) > len(wanted):
            return f"{name}: found {next(key for key in found if key not in wanted)}, which is not expected"
        pairs = ((found[key], wanted[key], f"{name}.{key}") for key in wanted)
        return next(filter(None, (unlike(*pair) for pair in pairs)), "")
    elif isinstance(wanted, (list, tuple)):
        if len(found) != len(wanted):
            return f"{name}: expected {len(wanted)} entries, found {len(found)}"
        pairs = ((*pair, f"{name}.{number}") for number, pair in enumerate(zip(found, wanted)))
        return next(filter(None, (unlike(*pair) for pair in pairs)), "")
    return ""


def _form(value) -> str:
    if not isinstance(value, torch.Tensor):
        return "dict" if isinstance(value, dict) else type(value).__name__
    sparse = "" if value.layout == torch.strided else "sparse "
    return f"{sparse}{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def optimizer_state(found: Any, optimizer: torch.optim.Optimizer, slots: tuple[str, ...],
                    fresh: bool = False) -> dict:
    """Return what `optimizer` may load of a file's `found`. Raises ValueError if the two do not fit.

    slots: the names of the tensors that it keeps for each parameter. fresh: it has not made a step, so it may
    have none. All options except the learning rate must be those of the run. An option that the file lacks
    or that only says how the work is done (HOW) counts as the run's, and one that the run does not know is
    left out.
    """
    built = optimizer.state_dict()["param_groups"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    # A slot has its parameter's shape, except for the count of steps.
    states = {number: {slot: torch.zeros(()) if slot == "step" else p for slot in slots}
              for number, p in enumerate(parameters) if slots}
    if fresh and isinstance(found, dict) and found.get("state") == {}:
        states = {}
    groups = found.get("param_groups") if isinstance(found, dict) else None
    if (isinstance(groups, list) and len(groups) == len(built)
            and all(isinstance(group, dict) for group in groups)):
        found = found | {"param_groups": [
            {name: value if name in HOW else group.get(name, value) for name, value in wanted.items()}
            for group, wanted in zip(groups, built)]}
    require_like(found, {"state": states, "param_groups": built}, "optimizer")
    for number, (group, wanted) in enumerate(zip(found["param_groups"], built)):
        changed = difference(group, wanted | {"lr": group["lr"]})
        if changed:
            raise ValueError(f"optimizer: group {number} was made with {changed}")
    return found


def require_like(found: Any, wanted: Any, name: str) -> None:
    """Raise ValueError if `unlike` finds a difference."""
    trouble = unlike(found, wanted, name)
    if trouble:
        raise ValueError(trouble)


def difference(old: dict, new: dict) -> str:
    """Return "batch_size 256, now 512; ..." for what differs between two recipes given as dicts, "" if
    nothing does."""
    # By their text, since a file may hold tensors, whose comparison is a tensor again.
    names = [name for name in {**old, **new} if repr(old.get(name)) != repr(new.get(name))]
    return "; ".join(f"{name} {old.get(name, 'absent')}, now {new.get(name, 'absent')}" for name in names)
