"""Report what is installed, which data sets are complete, and which tasks can run.

    python transfer/doctor.py [--data ROOT]
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if not __package__:
    sys.path[0] = str(ROOT)

import torch
from tabulate import tabulate

from parallel.mappings import differences
from transfer import workspace
from transfer.settings import Conditions, data_root
from transfer.tasks import TASKS, Task


def main(argv: list[str] | None = None) -> int:
    """Print three short tables: machine, packages, tasks. Exit status 1 if a task's data is not complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="data root (default: $DETECTRON2_DATASETS, else datasets/)")
    root = data_root(parser.parse_args(argv).data)
    installed = workspace.packages()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    print(f"GPUs: {', '.join(gpus) or 'none; tasks run on the CPU'}")
    print(tabulate([(name, installed.get(name, "missing")) for name in ("python", *workspace.PACKAGES)],
                   headers=["package", "version"]))
    print(f"\nData root {root}")
    conditions = Conditions(data=root, gpus=1, workers=0, seed=0, device="cpu")
    rows = [(task.name, *inspect(task, conditions)) for task in TASKS.values() if not task.own]
    print(tabulate(rows, headers=["task", "can run", "data"]))
    ready = all(can_run == "yes" for _, can_run, _ in rows) and set(workspace.PACKAGES) <= set(installed)
    return 0 if ready else 1


def inspect(task: Task, conditions: Conditions) -> tuple[str, str]:
    """Return ("yes" or "no", what was found) for one task's data under conditions.data."""
    try:
        data = task.protocol.data(task.config, conditions)
    except (ValueError, OSError) as error:
        return "no", str(error)
    sizes = ", ".join(f"{split} {count}" for split, count in data["counts"].items())
    differ = differences(task.counts, data["counts"])
    return "yes", f"{sizes} ({'not the' if differ else 'the'} official sizes)"


if __name__ == "__main__":
    sys.exit(main())
