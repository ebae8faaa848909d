"""Write results/protocols.json from the catalogue: what a record by the paper's protocol says.

    python -m tools.write_protocols

Run it after a change of a default or of the catalogue. A change that alters the meaning of a number needs a
new version of the task; the former ones stay in the file, so that their records keep their place.
"""

import json
import sys

from parallel.files import write_whole
from parallel.resnets import SIDES
from results.protocols import PATH
from transfer.tasks import TASKS, Task
from transfer.weights.architectures import ARCHITECTURES, RESNET50


def current() -> dict:
    """Return the content that the file should have."""
    known = json.loads(PATH.read_text("utf-8"))["tasks"] if PATH.exists() else {}
    for name, task in TASKS.items():
        known.setdefault(name, {})[str(task.version)] = stated(task)
    detectors = {name: {key: value for key, value in arch.detectron2.items()
                        if value != RESNET50.detectron2[key]}
                 for name, arch in ARCHITECTURES.items() if arch.stem == RESNET50.stem}
    return {"architectures": detectors, "sides": SIDES, "tasks": known}


def stated(task: Task) -> dict:
    """Return what a record of that task says where it followed the paper's protocol."""
    return {"detects": task.detects, "counts": task.counts, "config": task.config.resolved()}


def main() -> int:
    write_whole(PATH, json.dumps(current(), indent=1) + "\n")
    print(f"{PATH.name}: {len(TASKS)} tasks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
