"""Being asked to stop: SIGTERM and SIGUSR1 are noted, and the trainer saves after its current step.

What makes SLURM start the job again (slurm.conf and scontrol in SLURM's documentation):
- SIGUSR1, as `#SBATCH --signal=USR1@300 --requeue` sends it before the time limit: the main process calls
  `scontrol requeue` for the job (or for its own task of a job array), as submitit and Lightning do.
- SIGTERM comes from preemption, after which SLURM requeues a --requeue job by itself, and from scancel, after
  which nobody wants it back. So it is not requeued from here.
- Exit status 75 (EX_TEMPFAIL of sysexits.h, "try again later") after both. A cluster whose slurm.conf has
  RequeueExit=75 requeues batch jobs that end with it; a loop in a script can look for it, too. torchrun turns
  every failure into 1, so start the tasks with srun where the status matters.
"""
import contextlib
import os
import shutil
import signal
import subprocess

from parallel.launch import pass_on

STOPPED_STATUS = 75
REQUEUE_SIGNAL = signal.SIGUSR1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

_received = 0
_stopped = 0
_depth = 0


def _note(number, frame):
    global _received
    _received = _received or number
    pass_on(number)


def received() -> int:
    """The first stop signal since the outermost `listening` began; 0 for none."""
    return _received


def stop(number: int) -> None:
    """Note that the processes agreed to stop because of this signal, whoever got it."""
    global _stopped
    _stopped = number


def stopped() -> int:
    """What this process stopped for; 0 when it did not."""
    return _stopped


def heed_no_more() -> None:
    """Until the end of `listening`, die of a stop signal as other programs do: there is nothing to save."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def listening():
    """Note stop signals inside this block instead of dying of them. May be nested."""
    global _received, _stopped, _depth
    if not _depth:
        _received = _stopped = 0
    _depth += 1
    before = {number: signal.signal(number, _note) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        _depth -= 1
        for number, handler in before.items():
            signal.signal(number, handler)


def requeue(number: int) -> str:
    """Have SLURM start this job again, if that is ours to ask for; returns what was done, in words ("" when
    this is no SLURM job)."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return ""
    if "SLURM_ARRAY_JOB_ID" in os.environ and "SLURM_ARRAY_TASK_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if number != REQUEUE_SIGNAL:
        return f"SLURM itself requeues job {job} if this was a preemption"
    if not shutil.which("scontrol"):
        return f"no scontrol here, so job {job} comes back only where RequeueExit has {STOPPED_STATUS}"
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if done.returncode:
        return f"scontrol requeue {job} failed: {' '.join(done.stderr.split()) or done.returncode}"
    return f"SLURM job {job} was requeued"
