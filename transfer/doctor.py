"""Report what this machine has, what is installed, which data sets are complete, and which tasks can run.

    python transfer/doctor.py [--data ROOT]
    python transfer/doctor.py --json        # the same for a script, with each task's whole reason
"""

import argparse
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if not __package__:
    sys.path[0] = str(ROOT)

import torch
from PIL import features
from tabulate import tabulate

from parallel.places import HOME
from results.protocols import departing
from transfer import workspace
from transfer.settings import Conditions, data_root
from transfer.tasks import TASKS, Task

WIDTH = 100  # columns of a terminal
GIB = 2 ** 30
SHARED = 1.0  # GiB for loaders, below which we warn: docker's own is 1/16
FILES = 1024  # for loaders, which hold some for each batch
OPTIONAL = {"pyarrow": "parquet files", "submitit": "--launcher slurm", "wandb": "--wandb"}


def main(argv: list[str] | None = None) -> int:
    """Print the machine, the packages, the tasks. Exit status 1 if a task's data or a package is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="data root (default: $DETECTRON2_DATASETS, else datasets/)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    root = data_root(arguments.data)
    installed = workspace.packages()
    missing = [name for name in workspace.PACKAGES if name not in installed]
    conditions = Conditions(data=root, gpus=1, workers=0, seed=0, device="cpu")
    tasks = {task.name: inspect(task, conditions) for task in TASKS.values() if not task.own}
    if arguments.json:
        print(json.dumps({"machine": machine(), "packages": installed, "missing": missing, "data": str(root),
                          "tasks": {name: {"runs": runs, "found": text}
                                    for name, (runs, text) in tasks.items()}}, indent=1))
    else:
        show(machine())
        show({"packages": ", ".join(f"{name} {version}" for name, version in installed.items()),
              **({"missing": f"{', '.join(missing)}; make setup installs them"} if missing else {}),
              "data root": str(root)})
        print()
        print(tabulate([(name, runs, short(text, root)) for name, (runs, text) in tasks.items()],
                       headers=["task", "runs", "data, or what it lacks"]))
        show({"": "scaled: with other sizes or pixels than the official ones, so no row of the paper's "
                  "protocol. --json has each reason whole, with the command that fetches a set."})
    return 0 if not missing and all(runs != "no" for runs, _ in tasks.values()) else 1


def inspect(task: Task, conditions: Conditions) -> tuple[str, str]:
    """Return whether one task can run ("yes", "scaled", "no"), and the data under conditions.data or why
    not."""
    try:
        data = task.protocol.data(task.config, conditions)
    except (ValueError, OSError) as error:
        return "no", str(error)
    sizes = []
    for split, count in data["counts"].items():
        official = task.counts.get(split, count)
        sizes.append(f"{split} {count:,}" + (f" of {official:,}" if count != official else ""))
    scaled = departing({}, {}, task.counts, data)
    return "scaled" if scaled else "yes", ", ".join([*sizes, *([data["pixels"]] if "pixels" in data else [])])


def short(text: str, root: Path, width: int = WIDTH - 30) -> str:
    """Return as much of a reason as fits into a line of the table: without the root, whole clauses first."""
    text = " ".join(text.replace(f"{root}/", "").split()).split("; ")[0]
    while len(text) > width and ", " in text:
        text = text.rpartition(", ")[0]
    return text if len(text) <= width else f"{text[:width - 3]}..."


def show(facts: Mapping[str, str]) -> None:
    """Print {name: text}, text that is too long for a line below itself."""
    for name, text in facts.items():
        print(textwrap.fill(text, WIDTH, initial_indent=f"{name:15}" if name else "", break_on_hyphens=False,
                            subsequent_indent=" " * 15 if name else ""))


def machine() -> dict[str, str]:
    """Return what a run can count on, each with advice where that is too little."""
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    kinds = [f"{gpu.name} ({gpu.total_memory / GIB:.0f} GiB)" for gpu in gpus]
    place = importlib.util.find_spec("detectron2")
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return {
        "GPUs": ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
                or "none; tasks run on the CPU",
        "CPU cores": cores(), "memory": memory(), "shared memory": shared(),
        "disk": ", ".join(f"{free(HOME / name if name == 'results' else Path(name)):.0f} GiB free for {name}/"
                          for name in ("output", "results")),
        "open files": files(), "torch": f"{torch.__version__}, built for {cuda}",
        "Detectron2": workspace.detectron2() + (f", in {Path(place.origin).parent}" if place and place.origin
                                                else "; make setup installs it"),
        "SLURM": slurm(), "pictures": pictures(),
        "optional": ", ".join(f"{name} {workspace.version(name) or f'missing (for {use})'}"
                              for name, use in OPTIONAL.items())}


def cores() -> str:
    """The cores that this process may use, as loaders and threads count them, and the limit of its group."""
    usable = len(os.sched_getaffinity(0))
    text = f"{usable} of {os.cpu_count()}" if usable != os.cpu_count() else f"{usable}"
    quota, _, period = limit("cpu.max").partition(" ")
    return f"{text}, limited to the time of {int(quota) / int(period):.1f}" if quota.isdigit() else text


def memory() -> str:
    """The machine's memory, and the least limit of this process."""
    known = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(known[name].split()[0]) / 2 ** 20 for name in ("MemTotal", "MemAvailable"))
    text = f"{available:.1f} of {total:.1f} GiB available"
    limits = [int(limit("memory.max"))] if limit("memory.max").isdigit() else []
    address = resource.getrlimit(resource.RLIMIT_AS)[0]
    limits += [address] if address != resource.RLIM_INFINITY else []
    return f"{text}, limited to {min(limits) / GIB:.1f} GiB" if limits else text


def limit(name: str) -> str:
    """The limit of this process's control group, version 2; "" without one."""
    try:
        group = Path("/proc/self/cgroup").read_text().partition("0::/")[2].splitlines()
        return Path("/sys/fs/cgroup", *group[:1], name).read_text().strip()
    except OSError:
        return ""


def shared() -> str:
    """What loaders hand their batches over in."""
    if not os.path.isdir("/dev/shm"):
        return "no /dev/shm; use --workers 0"
    size = free(Path("/dev/shm"))
    advice = "; little for loaders: docker run --shm-size 8g, or --workers 0" if size < SHARED else ""
    return f"{size:.1f} GiB free in /dev/shm{advice}"


def free(folder: Path) -> float:
    """GiB free where a folder is, or is going to be."""
    folder = folder.resolve()
    return shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists())).free / GIB


def files() -> str:
    """How many files a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"{soft:,}" + (f"; little for loaders: ulimit -n {min(hard, 65_536)}" if soft < FILES else "")


def slurm() -> str:
    """The partitions of a cluster: name, nodes, time limit."""
    if not shutil.which("sbatch") or not shutil.which("sinfo"):
        return "none here (no sbatch)"
    try:
        answer = subprocess.run(["sinfo", "--noheader", "--format=%P (%D nodes, %l)"], capture_output=True,
                                text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return "sbatch is here, but sinfo gives no answer"
    partitions = ", ".join(answer.stdout.splitlines())
    return partitions or f"sbatch is here, but no cluster: {(answer.stderr.splitlines() or ['none'])[0]}"


def pictures() -> str:
    """What decodes pictures."""
    turbo = features.version("libjpeg_turbo")
    formats = ", ".join(name for codec, name in (("webp", "WebP"), ("jpg_2000", "JPEG 2000"))
                        if features.check(codec))
    return (f"simplejpeg {workspace.version('simplejpeg') or 'missing'}, "
            f"Pillow {workspace.version('pillow')} with libjpeg{f'-turbo {turbo}' if turbo else ''}"
            f"{f', {formats}' if formats else ''}")


if __name__ == "__main__":
    sys.exit(main())
