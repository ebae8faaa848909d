"""A command run as jobs of a SLURM cluster: submitted through submitit, and waited for.

submitit's files are in FOLDER/slurm, which the nodes must share: ID_submission.sh, ID_submitted.pkl and, for
each process, ID_RANK_log.out. In a job srun starts the tasks, and every task becomes the command itself
(exec), as if it had been typed after `srun` (see slurm.py). So the exit status is the command's. SIGUSR1,
which SLURM sends before the time limit, reaches the command and not a handler of submitit: a run saves and
requeues itself (see signals.py), and the same job continues.
"""
import collections
import contextlib
import functools
import io
import os
import shlex
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parallel import signals
from parallel.launcher import parameters

if TYPE_CHECKING:
    from submitit import Job, SlurmExecutor

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE",
         "PREEMPTED", "REVOKED", "FORGOTTEN")
REFUSED = 2  # exit status of a command that found something wrong before it began
LOG_LINES = 20


@dataclass(frozen=True, eq=False)
class Cell:
    """What one job runs. command: script and arguments; again: those of another try after a failure."""
    name: str
    command: list[str]
    again: list[str]


@dataclass(frozen=True)
class State:
    """word: SLURM's for a job's state, or FORGOTTEN when it no longer knows the job; status: exit status."""
    word: str
    status: int = 0

    def __str__(self) -> str:
        return self.word + (f" with exit status {self.status}" if self.status else "")


def run(cells: Sequence[Cell], cluster: Namespace, folder: str | os.PathLike, name: str, workers: int,
        plan: bool = False) -> int:
    """Submit the cells as one job or one array, and wait for them with --wait. Returns the exit status: 1
    where a cell failed.

    cluster: of launcher.split; folder: gets `slurm`; workers: as in launcher.parameters; plan: print the job
    script and submit nothing. ValueError where SLURM, submitit or sbatch says no.
    """
    executor = make_executor(cluster, folder, name, workers)
    if plan:
        print(script(cells, executor))
        return 0
    jobs = dict(zip(cells, submit([cell.command for cell in cells], executor)))
    for cell, job in jobs.items():
        print(f"{cell.name}: job {job.job_id}, log {log_of(job)}", flush=True)
    ids = " ".join(sorted({job.job_id.partition("_")[0] for job in jobs.values()}))
    if not cluster.wait:
        print(f"squeue --me shows how they stand; scancel {ids} ends them; --after {ids} makes others wait")
        return 0
    try:
        failed = wait(jobs, lambda cell: submit([cell.again], executor)[0], cluster.retries)
    except signals.Stopped as stop:
        print(f"interrupted: the jobs go on without this command; scancel {ids} ends them", file=sys.stderr)
        return signals.status(stop.number)
    for cell, (job, state) in failed.items():
        print(report(cell, job, state), file=sys.stderr)
    return 1 if failed else 0


def make_executor(cluster: Namespace, folder: str | os.PathLike, name: str,
                  workers: int) -> "SlurmExecutor":
    """Return submitit's executor with everything set. Raises ValueError if submitit or SLURM is missing."""
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise ValueError("--launcher slurm: expected submitit, found none; pip install submitit") from None
    for command in ("sbatch", "srun", "squeue"):
        if not shutil.which(command):
            raise ValueError(f"--launcher slurm: expected SLURM's command {command}, found none; call this "
                             "on a login node of the cluster")
    executor = SlurmExecutor(Path(folder).resolve() / "slurm")
    executor.update_parameters(**parameters(cluster, name, workers))
    return executor


def script(cells: Sequence[Cell], executor: "SlurmExecutor") -> str:
    """Return the job script as it would be submitted, and what its tasks become."""
    if len(cells) > 1:
        executor.parameters["map_count"] = len(cells)
    text = executor._make_submission_file_text(executor._submitit_command_str, "")
    array = [f" {number} of the array" if len(cells) > 1 else "" for number in range(len(cells))]
    return text + "\n".join(f"# task{number} becomes: {shlex.join(['python', *cell.command])}"
                            for number, cell in zip(array, cells))


def submit(commands: Iterable[list[str]], executor: "SlurmExecutor") -> "list[Job]":
    """Submit commands as one job or one array -> submitit's jobs. ValueError with sbatch's own message."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    from submitit.helpers import clean_env, environment_variables
    # A job that is submitted from inside another one must not inherit its SLURM_ variables.
    kept = {name: value for name, value in os.environ.items()
            if name == "SLURM_CONF" or name.startswith("SBATCH_")}
    calls = [functools.partial(os.execv, sys.executable, [sys.executable, "-u", *command])
             for command in commands]
    try:
        with clean_env(), environment_variables(**kept), contextlib.redirect_stderr(io.StringIO()):
            return executor.submit_array(calls)
    except (FailedJobError, FailedSubmissionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def wait(jobs: "dict[Cell, Job]", again: "Callable[[Cell], Job]",
         retries: int) -> "dict[Cell, tuple[Job, State]]":
    """Wait for jobs {Cell: submitit's job} and print what becomes of them; again(cell) submits one again.

    Returns {Cell: (job, State)} of those that failed. A job gets `retries` further tries, but none if
    somebody cancelled it or the command refused to begin.
    """
    jobs, failed = dict(jobs), {}
    said: dict[Cell, str] = {}
    tries: collections.Counter[Cell] = collections.Counter()
    start = time.monotonic()
    while jobs:
        time.sleep(min(30.0, 1 + (time.monotonic() - start) / 20))
        known = states()
        if known is None:
            continue
        for cell, job in list(jobs.items()):
            state = known.get(job.job_id, State("FORGOTTEN"))
            line = f"{cell.name}: {state} (job {job.job_id})"
            if said.get(cell) != line:
                print(line, flush=True)
                said[cell] = line
            if state.word not in ENDED:
                continue
            del jobs[cell]
            if state.word == "COMPLETED":
                continue
            if state.word == "CANCELLED" or state.status == REFUSED or tries[cell] == retries:
                failed[cell] = job, state
                continue
            tries[cell] += 1
            jobs[cell] = again(cell)
            print(f"{cell.name}: try {tries[cell] + 1} of {retries + 1} is job {jobs[cell].job_id}, log "
                  f"{log_of(jobs[cell])}", flush=True)
    return failed


def states() -> dict[str, State] | None:
    """Return the states of this user's jobs by number ("12", or "12_0" in an array), or None without an
    answer."""
    answer = subprocess.run(["squeue", "--me", "--states=all", "--array", "--noheader",
                             "--Format=JobArrayID:40,State:20,exit_code:20"], capture_output=True, text=True)
    if answer.returncode:
        return None
    rows = (line.split() for line in answer.stdout.splitlines())
    return {job: State(word, exit_status(code)) for job, word, code in rows}


def exit_status(code: str) -> int:
    """Convert squeue's exit_code, in the form of wait(2) or STATUS:SIGNAL, to an exit status; 128 + N for
    signal N."""
    status, colon, number = code.partition(":")
    wait_status = int(status) << 8 | int(number) if colon else int(code)
    return wait_status >> 8 or (wait_status and 128 + (wait_status & 127))


def log_of(job: "Job") -> Path:
    """Return the log of a job's first process."""
    return job.task(0).paths.stdout


def report(cell: Cell, job: "Job", state: State) -> str:
    """Return which cell failed, why, and the end of its log."""
    try:
        lines = log_of(job).read_text(errors="replace").splitlines()[-LOG_LINES:]
    except FileNotFoundError:
        lines = ["(there is none: the job never began, or its node does not share this folder)"]
    head = f"{cell.name}: failed, {state}, job {job.job_id}; the end of {log_of(job)}:"
    return "\n".join([head, *(f"  | {line}" for line in lines)])
