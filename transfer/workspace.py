"""A run's own folder: which run owns it, and what the run was made with."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from parallel.checkpoints import regular
from parallel.files import write_whole
from parallel.mappings import differences
from parallel.places import CHECKOUT, ROOT
from parallel.process import one_line, this_process
from parallel.slurm import started_again, this_job

MARK = "run.json"
TRAINING = "training data"  # key of an identity: hash of the part of its data that a trained model depends on
PACKAGES = ("torch", "torchvision", "detectron2", "numpy", "pillow", "scikit-learn", "pycocotools",
            "faster-coco-eval")
OWN = "barlow-transfer"  # its version is recorded beside theirs


def claim(out: Path, identity: Mapping[str, Any], resume: bool, rerun: bool,
          usual: Mapping[str, Any] | None = None, about: Mapping[str, Any] | None = None,
          sign: bool = True) -> bool:
    """Make `out` this run's folder: new, continued (resume) or emptied (rerun); never somebody else's.

    identity: JSON dict that a run shares only with its own continuation; kept in out/run.json, with the job
    and the process that run it, and with `about`, which results/watch.py shows, too. usual: values of
    settings that an older file does not know. sign: whether run.json is written; an evaluation of what a
    run left does not make it another's. Returns whether the run continues what the
    folder holds: with resume, and where SLURM or torchrun started the same job again. Raises ValueError where
    the folder holds something else, or an earlier run and neither resume nor rerun is set. A folder with
    nothing but run.json is that of a run which was refused before it began: it counts as new.
    """
    mark = out / MARK
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: expected a folder, found a file; choose another --output")
    continues = False
    if out.exists() and {path.name for path in out.iterdir()} - {MARK}:
        found = _read_mark(mark)
        if isinstance(found.get("config"), dict):
            found["config"] = {**(usual or {}), **found["config"]}
        binding = _binding(found, identity)
        if any(found.get(key) != binding[key] for key in binding):
            raise ValueError(f"{out} is a run with {another(found, binding)}; choose another --output")
        continues = resume or started_again(found.get("job"))
        if rerun and not continues:
            shutil.rmtree(out)
        elif not continues:
            raise ValueError(f"{out} holds an earlier run; --resume continues it, --rerun starts over")
    out.mkdir(parents=True, exist_ok=True)
    if sign:
        write_whole(mark, json.dumps({**identity, "job": this_job(), "process": this_process(),
                                      **(about or {})}, indent=1) + "\n")
    return continues


def continued(out: Path, identity: Mapping[str, Any]) -> Path:
    """Return the folder in which the run of an identity is: `out`, which its record names, or, if that holds
    none, the one beside it whose data differs in nothing that was trained on. Raises ValueError where several
    are so."""
    others = []
    for mark in sorted(out.parent.glob(f"*/{MARK}")) if not (out / MARK).exists() else ():
        with contextlib.suppress(ValueError):  # a damaged one
            found = _read_mark(mark)
            binding = _binding(found, identity)
            if TRAINING in binding and all(found.get(key) == binding[key] for key in binding):
                others.append(mark.parent)
    if len(others) > 1:
        raise ValueError(f"{out}: expected the folder of one such run on other test data, found "
                         f"{', '.join(map(str, others))}; name one with --output")
    return others[0] if others else out


def _binding(found, identity):
    """What of an identity a run must share: its whole data, unless both say what was trained on. Then that
    alone, so that what it is measured on may be repaired."""
    free = "data" if TRAINING in found and TRAINING in identity else TRAINING
    return {key: value for key, value in identity.items() if key != free}


def another(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return "another config (epochs 2, here 3)" for where the identity of a run is not the wanted one."""
    other = [_difference(key, found.get(key), wanted[key]) for key in wanted if found.get(key) != wanted[key]]
    return f"another {', '.join(other)}"


def _difference(key: str, found: object, wanted: object) -> str:
    """Return the key's name; for a dict, with up to three of the keys in it that differ and both values."""
    if not isinstance(wanted, dict) or not isinstance(found, dict):
        return key
    pairs = list(differences(found, wanted).items())[:3]
    return f"{key} ({', '.join(f'{name} {before}, here {now}' for name, (before, now) in pairs)})"


def require_records(folder: Path) -> None:
    """Raise ValueError if `folder` cannot be read: its records would count as missing."""
    if folder.exists() and not (folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)):
        found = "one without permission" if folder.is_dir() else "a file"
        raise ValueError(f"{folder}: expected a folder that can be read, found {found}; choose another "
                         "--results")


def require_writable(folder: Path) -> None:
    """Make a folder of records and write into it: a run of days must not end because it cannot be stored."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder}: expected a folder that can be written, found: {error.strerror}; "
                         "choose another --results") from None


def _read_mark(mark: Path) -> dict[str, Any]:
    """Return what run.json says of its folder. Raises ValueError where there is none, or it is damaged."""
    if not os.path.lexists(mark):
        raise ValueError(f"{mark.parent}: expected an empty folder or our own run; choose another --output")
    try:
        found = json.loads(regular(mark).read_text())
        found.keys()
        return found
    except (ValueError, AttributeError):
        raise ValueError(f"{mark}: expected the identity of a run, found it damaged; delete the folder or "
                         "choose another --output") from None


def code_version() -> dict[str, Any]:
    """Return {"commit", "dirty"}: of the suite's checkout, or the commit that pip installed it from; empty
    and False where neither is known."""
    if not CHECKOUT:  # site-packages may lie in somebody else's repository
        found = importlib.metadata.distributions(name=OWN, path=[str(ROOT)])
        return {"commit": next(map(_installed_from, found), ""), "dirty": False}
    changes = _git(ROOT, "status", "--porcelain", "--untracked-files=no")
    return {"commit": _git(ROOT, "rev-parse", "HEAD"), "dirty": bool(changes)}


def _git(folder: Path, *words: str) -> str:
    """Return what git says of a folder; "" where it is no checkout, or git is not there."""
    try:
        answer = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _installed_from(package: importlib.metadata.Distribution) -> str:
    """Return the commit that pip installed a package from (PEP 610); "" where that is not known."""
    return json.loads(package.read_text("direct_url.json") or "{}").get("vcs_info", {}).get("commit_id", "")


def detectron2() -> str:
    """Return which Detectron2 is there, as one line: version, commit if known, how it was built. To load
    what was compiled takes torch."""
    found = _detectron2()
    if found is None:
        return "none"
    folder, version = found
    if not any(folder.glob("_C.*.so")):
        return f"{version}, pure Python"
    try:
        return f"{version}, compiled ({importlib.import_module('detectron2._C').get_cuda_version()})"
    except ImportError as error:
        return f"{version}, compiled, does not load: {one_line(error)}; build it again for this torch"


def _detectron2() -> tuple[Path, str] | None:
    """Return folder and version of the Detectron2 that an import would find, None without one. Upstream has
    called itself 0.6 since 2021, whatever the commit, so that stands beside it where it is known."""
    found = importlib.util.find_spec("detectron2")
    if found is None or not found.origin:
        return None
    folder = Path(found.origin).parent
    beside = importlib.metadata.distributions(name="detectron2", path=[str(folder.parent)])
    if installed := next(iter(beside), None):
        version, commit = installed.version, _installed_from(installed)
    else:  # a source tree on the path, or an editable installation of one
        stated = re.search(r'^__version__ = "(.+)"', Path(found.origin).read_text(), re.M)
        version = stated[1] if stated else "of unknown version"
        commit = _git(folder.parent, "rev-parse", "HEAD") if (folder.parent / ".git").exists() else ""
    return folder, f"{version} at {commit[:12]}" if commit else version


def version(name: str) -> str:
    """Return a package's version; "" where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def packages() -> dict[str, str]:
    """Return {package: version} of what can influence a number; what is not installed is left out."""
    found = {"python": platform.python_version()}
    found |= {name: version(name) for name in (*PACKAGES, OWN) if version(name)}
    if there := _detectron2():
        found["detectron2"] = there[1]
    return found


def describe_device(device: str, count: int) -> dict[str, str | int]:
    """Return {"type", "name", "count"} of what a run on `count` processes computes on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return {"type": device, "name": name, "count": count}
