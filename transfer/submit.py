"""--launcher slurm: every cell, a task with a seed, becomes a job of its own; all of them are one array.

`arguments` is the parsed command line of transfer/run.py.
"""
import argparse
import sys
from pathlib import Path

from parallel import jobs, launcher
from transfer.execution import one_line
from transfer.suite import missing_seeds, show_plan, show_tables
from transfer.weights.readers import read

SCRIPT = Path(__file__).resolve().parent / "run.py"


def submit(tasks, backbone, seeds, arguments) -> int:
    """Submit the cells that are not stored yet. Returns the exit status: 1 where a task cannot run or failed.

    backbone: None where the weights are yet to be made (--after). Nothing is known of stored records then:
    every cell is submitted and looks for itself.
    """
    cluster, words = launcher.split(arguments.command)
    if arguments.num_gpus not in (1, cluster.tasks):
        raise ValueError(f"--num-gpus {arguments.num_gpus}: --launcher slurm starts {cluster.tasks} "
                         "processes (--nodes times --gpus-per-node or --tasks-per-node); leave it out")
    device = arguments.device or cluster.device
    # Here are no GPUs to be counted: the jobs have them.
    here = argparse.Namespace(**vars(arguments) | {"device": "cpu", "num_gpus": cluster.tasks})
    if backbone:
        show_plan(tasks, backbone, seeds, here)
    single = len(tasks) == 1 and arguments.seeds is None
    cells, status = [], 0
    for task in tasks:
        try:
            cells += [cell_of(task, seed, single, arguments, words, device)
                      for seed in missing_seeds(task, backbone, seeds, here)]
        except (ValueError, OSError, RuntimeError) as error:
            if len(tasks) == 1:
                raise
            status = 1
            print(f"{task.name}: not submitted: {one_line(error)}", file=sys.stderr, flush=True)
    if cells:
        folder = Path(arguments.output or "output")
        folder = folder.parent if single and arguments.output else folder  # beside the runs, never in one
        name = tasks[0].name if len(tasks) == 1 else "transfer"
        status = jobs.run(cells, cluster, folder, name, arguments.workers, arguments.plan) or status
    if cluster.wait and not backbone and Path(arguments.weights).is_file():
        backbone = read(arguments.weights, arguments.format, arguments.name, arguments.encoder)
    if backbone and not arguments.plan and (cluster.wait or not cells):
        show_tables(backbone, arguments)
    return status


def cell_of(task, seed, single, arguments, words, device):
    """Return the Cell of a task with a seed: the command line `words` with these two in it."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--task", "--seed", "--seeds", "--output", "--device", "--num-gpus"):
        own.add_argument(flag)
    own.add_argument("--plan", action="store_true")
    rest = own.parse_known_args(words)[1]
    command = [str(SCRIPT), "--task", task.name, "--seed", str(seed), "--device", device]
    if arguments.output:
        folder = arguments.output if single else str(Path(arguments.output) / f"{task.name}-s{seed}")
        command += ["--output", folder]
    more = [] if arguments.resume or arguments.rerun or arguments.eval_only else ["--resume"]
    return jobs.Cell(f"{task.name} seed {seed}", [*command, *rest], [*command, *more, *rest])
