"""--launcher slurm: every cell, a task with a seed, becomes one job; all of them are one array."""
import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from parallel import jobs
from parallel.process import one_line
from transfer.execution import opened
from transfer.request import Request
from transfer.suite import missing, note, show_plan, show_tables
from transfer.weights.backbone import Backbone

SCRIPT = Path(__file__).resolve().parent / "run.py"


def submit(requests: dict[str, list[Request]], backbone: Backbone | None, cluster: argparse.Namespace,
           words: list[str], plan: bool) -> int:
    """Submit the cells that are not stored yet. Returns the exit status: 1 where a task cannot run or failed.

    requests: {task: a request for each seed}. backbone: None where the weights are yet to be made (--after).
    Nothing is known of stored records then: every cell is submitted and looks for itself. cluster, words: of
    launcher.split. plan: print the job script and submit nothing.
    """
    first = next(iter(requests.values()))[0]
    if first.num_gpus not in (1, cluster.tasks):
        raise ValueError(f"--num-gpus {first.num_gpus}: --launcher slurm starts {cluster.tasks} "
                         "processes (--nodes times --gpus-per-node or --tasks-per-node); leave it out")
    device = first.device or cluster.device
    # Here are no GPUs to be counted: the jobs have them.
    requests = {task: [replace(request, device="cpu", num_gpus=cluster.tasks) for request in of_seeds]
                for task, of_seeds in requests.items()}
    if backbone:
        rows = show_plan(requests, backbone)
        if not plan:
            note(requests, backbone, rows, time.time(), host="")  # jobs on any host
    cells, status = [], 0
    for task, of_seeds in requests.items():
        try:
            cells += [cell_of(request, words, device) for request in missing(of_seeds, backbone)]
        except (ValueError, OSError, RuntimeError) as error:
            if len(requests) == 1:
                raise
            status = 1
            print(f"{task}: not submitted: {one_line(error)}", file=sys.stderr, flush=True)
    if cells:
        # Beside the runs' own folders, never in one.
        folder = Path(first.output).parent if first.output else Path("output")
        name = first.task if len(requests) == 1 else "transfer"
        status = jobs.run(cells, cluster, folder, name, first.workers, plan) or status
    if cluster.wait and not backbone and Path(first.weights).exists():
        backbone = opened(first)
    if backbone and not plan and (cluster.wait or not cells):
        show_tables(backbone, first.results)
    return status


def cell_of(request: Request, words: list[str], device: str) -> jobs.Cell:
    """Return the Cell of a request: the command line `words` with its own task, seed and folder."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--task", "--seed", "--seeds", "--output", "--device", "--num-gpus"):
        own.add_argument(flag)
    own.add_argument("--plan", action="store_true")
    rest = own.parse_known_args(words)[1]
    command = [str(SCRIPT), "--task", request.task, "--seed", str(request.seed), "--device", device]
    if request.output:
        command += ["--output", str(request.output)]
    more = [] if request.resume or request.rerun or request.eval_only else ["--resume"]
    return jobs.Cell(f"{request.task} seed {request.seed}", [*command, *rest], [*command, *more, *rest])
