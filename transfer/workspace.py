"""A run's own folder: whose it is, and what the run was made with."""

import importlib.metadata
import json
import platform
import shutil
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "detectron2", "numpy", "pillow", "scikit-learn", "pycocotools",
            "faster-coco-eval")


def claim(out, identity, resume, rerun):
    """Make `out` this run's folder: new, continued (resume) or emptied (rerun); never somebody else's.

    identity: JSON dict that a run shares only with its own continuation; kept in out/run.json. Raises
    ValueError where the folder holds something else, or an earlier run and neither resume nor rerun is set.
    """
    mark = out / "run.json"
    if out.exists() and any(out.iterdir()):
        if not mark.exists():
            raise ValueError(f"{out}: expected an empty folder or a run of ours; choose another --output")
        found = json.loads(mark.read_text())
        other = [key for key in identity if found.get(key) != identity[key]]
        if other:
            raise ValueError(f"{out} is a run with another {', '.join(other)}; choose another --output")
        if rerun:
            shutil.rmtree(out)
        elif not resume:
            raise ValueError(f"{out} holds an earlier run; --resume continues it, --rerun starts over")
    out.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps(identity, indent=1) + "\n")


def code_version():
    """Return {"commit", "dirty"} of the suite's checkout; empty and False outside a git checkout."""
    def git(*words):
        answer = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
        return answer.stdout.strip() if answer.returncode == 0 else ""

    try:
        changes = git("status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes)}
    except FileNotFoundError:  # no git on this machine
        return {"commit": "", "dirty": False}


def packages():
    """Return {package: version} of what can influence a number; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe_device(device, count):
    """Return {"type", "name", "count"} of what a run on `count` processes computes on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return {"type": device, "name": name, "count": count}
