"""The flags of --launcher slurm, and what SLURM is asked for. jobs.py submits and waits."""
import argparse
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from parallel.process import is_main

DEFAULTS: dict[str, Any] = {
    "launcher": None, "partition": None, "account": None, "qos": None, "constraint": None, "nodes": 1,
    "gpus_per_node": 1, "tasks_per_node": None, "cpus_per_task": None, "time": None,
    "signal_seconds": 300, "requeue": True, "after": None, "sbatch": [], "wait": False, "retries": 1}


class CommandLine(argparse.ArgumentParser):
    """A parser whose errors are one line, said once for all processes."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help shows the flags\n" if is_main() else "")

    def print_help(self, file: Any = None) -> None:
        if is_main():
            super().print_help(file)


def flags() -> argparse.ArgumentParser:
    """Return the flags, as a parent of a command's parser. They have no defaults, so given flags can be
    recognised."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    group = parser.add_argument_group("cluster (docs/cluster.md)")
    group.add_argument("--launcher", choices=("slurm",), help="submit to SLURM instead of running here; "
                       "needs pip install submitit, and folders that the nodes share")
    for name in ("partition", "account", "qos", "constraint"):
        group.add_argument(f"--{name}", metavar="NAME", help=f"sbatch's --{name}")
    group.add_argument("--nodes", type=whole(1), metavar="N", help="nodes of a job (default: 1)")
    group.add_argument("--gpus-per-node", type=whole(0), metavar="N",
                       help="GPUs of each node, one process each; 0: CPUs only (default: 1)")
    group.add_argument("--tasks-per-node", type=whole(1), metavar="N",
                       help="processes of each node (default: one for each GPU; 1 without)")
    group.add_argument("--cpus-per-task", type=whole(1), metavar="N",
                       help="CPUs of each process (default: one for each of its --workers and one more)")
    group.add_argument("--time", type=minutes, metavar="TIME",
                       help="time limit of a job: minutes, HH:MM:SS or D-HH:MM (default: the partition's)")
    group.add_argument("--signal-seconds", type=whole(1), metavar="N", help="how long before the time limit "
                       "a run is told to save and to requeue itself (default: 300)")
    group.add_argument("--requeue", action=argparse.BooleanOptionalAction,
                       help="let SLURM start a job again that was preempted or lost a node (default: yes)")
    group.add_argument("--after", type=job_numbers, metavar="JOB", help="start when this job, or each of "
                       "several with commas between, has ended well")
    group.add_argument("--sbatch", action="append", metavar="KEY=VALUE", help="another option of sbatch, "
                       "such as mem=64G or exclusive; may be repeated")
    group.add_argument("--wait", action="store_true", help="wait for the jobs, try failed ones again, say "
                       "which failed and why; status 1 if any did")
    group.add_argument("--retries", type=whole(0), metavar="N",
                       help="with --wait: further tries of a job that failed (default: 1)")
    return parser


def whole(least: int) -> Callable[[str], int]:
    def read(text):
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected {least} or more, found {text!r}")
        return int(text)
    return read


def job_numbers(text: str) -> str:
    if not re.fullmatch(r"\d+(_\d+)?(,\d+(_\d+)?)*", text):
        raise argparse.ArgumentTypeError(f"expected the number of a job, such as 4711, found {text!r}")
    return text.replace(",", ":")


def minutes(text: str) -> int:
    """Parse a time as sbatch's --time takes it; returns minutes, rounded up."""
    known = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not known:
        raise argparse.ArgumentTypeError(f"expected minutes, HH:MM:SS or D-HH:MM, found {text!r}")
    days, *parts = (int(part or 0) for part in known.groups())
    hours_first = known[1] is not None or known[4] is not None  # else 90 and 90:30 begin with minutes
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1) if hours_first else (60, 1, 0)))
    return -(-(days * 86400 + seconds) // 60)


def split(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Split a command line into the flags above, with `tasks` (processes of a job) and `device`, and
    everything else in its order. Raises ValueError if they do not fit. In a step of SLURM, call adopt_slurm
    first."""
    given, rest = flags().parse_known_args(arguments)
    if vars(given) and "launcher" not in given:
        flag = next(iter(vars(given))).replace("_", "-")
        raise ValueError(f"--{flag}: expected --launcher slurm with it, found none")
    cluster = argparse.Namespace(**{**DEFAULTS, **vars(given)})
    if cluster.launcher and "RANK" in os.environ:
        raise ValueError("--launcher slurm starts the processes itself; call it without torchrun and srun")
    # SLURM may send the signal a minute early; a run that is still starting would die of it.
    least = -(-cluster.signal_seconds // 60) + 2
    if cluster.time is not None and cluster.time < least:
        raise ValueError(f"--time: expected at least {least} min, so that a run gets somewhere before it is "
                         f"told to save itself (--signal-seconds {cluster.signal_seconds}), found "
                         f"{cluster.time}")
    cluster.tasks_per_node = cluster.tasks_per_node or cluster.gpus_per_node or 1
    cluster.tasks = cluster.nodes * cluster.tasks_per_node
    cluster.device = "cuda" if cluster.gpus_per_node else "cpu"
    return cluster, rest


def parameters(cluster: argparse.Namespace, name: str, workers: int) -> dict:
    """Return what submitit is asked for. name: of the job; workers: data loading processes of each task."""
    cpus = cluster.cpus_per_task or workers + 1
    more = {"signal": f"USR1@{cluster.signal_seconds}", "requeue" if cluster.requeue else "no-requeue": True}
    if cluster.after:  # if that job fails, this one would wait for ever
        more |= {"dependency": f"afterok:{cluster.after}", "kill-on-invalid-dep": "yes"}
    more |= {key: value or True for key, _, value in (option.partition("=") for option in cluster.sbatch)}
    if "array" in more:  # its numbers are those of the cells
        raise ValueError("--sbatch array: expected no array, since the launcher makes it, found "
                         f"{more['array']}; scontrol update ArrayTaskThrottle=N JobId=ID limits how many run")
    return {**{key: getattr(cluster, key) for key in ("partition", "account", "qos", "constraint", "time",
                                                      "nodes")},
            "job_name": name, "gpus_per_node": cluster.gpus_per_node or None,
            "ntasks_per_node": cluster.tasks_per_node, "cpus_per_task": cpus, "stderr_to_stdout": True,
            # Since SLURM 22.05 srun does not inherit sbatch's CPUs. --wait ends a process that does not
            # answer after the others have left; --kill-on-bad-exit would hide their exit status.
            "srun_args": [f"--cpus-per-task={cpus}", "--wait=60"],
            "additional_parameters": more}
