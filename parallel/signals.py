"""Being asked to stop: by SIGTERM, SIGUSR1 or SIGINT (Ctrl-C).

A loop that can save its state works inside `deferred`. There a signal is only noted, and `wish` tells all
processes of a group the same. Elsewhere a signal ends the work at once with the exception Stopped.

What makes SLURM start the job again (slurm.conf and scontrol in SLURM's documentation):
- SIGUSR1, as `#SBATCH --signal=USR1@300 --requeue` sends it before the time limit: the main process calls
  `scontrol requeue` for the job (or for its own task of a job array), as submitit and Lightning do.
- SIGTERM comes from preemption, after which SLURM requeues a --requeue job by itself, and from scancel, after
  which the job must not come back. So this process does not requeue it.
- After both, the exit status is 75 (EX_TEMPFAIL of sysexits.h, "try again later"). A cluster whose slurm.conf
  has RequeueExit=75 requeues batch jobs that end with it, and a loop in a script can test for it. torchrun
  turns every failure into 1, so start the tasks with srun if the status matters.
"""
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from parallel.process import is_main

STOPPED_STATUS = 75
REQUEUE_SIGNAL = signal.SIGUSR1
STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)  # the one that counts first
WORKER_SECONDS = 20  # between SIGTERM and the end of a loader's worker
SECOND_CTRL_C = 1.0  # seconds; an earlier one is the first again, sent to the group and passed on


class Stopped(BaseException):
    """A stop signal ended the work. number: the signal."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class _State:
    """Of this process: the first stop signal and when it came, how deep `listening` and `deferred` are, the
    pipe into which C writes each signal, and what to say at the end."""
    received: int = 0
    since, listening, deferred = 0.0, 0, 0
    pipe: tuple[int, int] | None = None
    farewell: Callable[[int], int] | None = None


def received() -> int:
    """Return the first stop signal in the outermost `listening`, 0 for none."""
    return _State.received


def votes() -> list[bool]:
    """Return which of STOP_SIGNALS this process received. The sums over a group are for `elected`."""
    return [number == _State.received for number in STOP_SIGNALS]


def elected(votes: Sequence[float]) -> int:
    """Return the stop signal that counts, 0 for none, from the number of processes that received each of
    STOP_SIGNALS. Of several it is the one that brings the job back."""
    return next((number for number, count in zip(STOP_SIGNALS, votes) if count), 0)


def wish() -> int:
    """Return the stop signal that any process of the group received, the same in all of them; 0 for none."""
    import torch

    from parallel.collectives import all_reduce_sum

    return elected(all_reduce_sum(torch.tensor(votes(), dtype=torch.int64)).tolist())


def status(number: int) -> int:
    """Return the exit status of a process that was stopped by this signal."""
    return 128 + number if number == signal.SIGINT else STOPPED_STATUS


def _note(number, frame):
    now = time.monotonic()
    if number == signal.SIGINT == _State.received and now - _State.since > SECOND_CTRL_C:
        leave_at_once()
    if _State.received:
        return
    _State.received, _State.since = number, now
    if not _State.deferred:
        raise Stopped(number)
    if number == signal.SIGINT and is_main() and sys.stderr.isatty():
        print("\nfinishing and saving this step; Ctrl-C again leaves at once", file=sys.stderr,
              flush=True)


def leave_at_once() -> NoReturn:
    """End this process as a second Ctrl-C demands. The last checkpoint stays as it is."""
    os._exit(status(signal.SIGINT))


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Note a stop signal inside this block instead of ending the work; the code inside asks for `wish`. May
    be nested."""
    _State.deferred += 1
    try:
        yield
    finally:
        _State.deferred -= 1


@contextlib.contextmanager
def urgent() -> Iterator[None]:
    """End the work at once on a stop signal inside this block, even within `deferred`; a noted signal ends it
    now."""
    before, _State.deferred = _State.deferred, 0
    try:
        if _State.received:
            raise Stopped(_State.received)
        yield
    finally:
        _State.deferred = before


@contextlib.contextmanager
def listening(farewell: Callable[[int], int] | None = None) -> Iterator[None]:
    """Heed stop signals inside this block. May be nested.

    farewell(number) says where the work stands when a signal ends it, and returns the exit status. parallel's
    watch calls it if the main thread cannot.
    """
    if not _State.listening:
        _State.farewell = farewell
        before = {number: signal.signal(number, _note) for number in STOP_SIGNALS}
        _State.pipe = _State.pipe or os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # for good: a thread reads it
        while heard(0):
            pass  # of an earlier block
        wakeup = signal.set_wakeup_fd(_State.pipe[1], warn_on_full_buffer=False)
    _State.listening += 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # a signal that was held back comes now
        yield
    finally:
        _State.listening -= 1
        if not _State.listening:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            _State.received, _State.farewell = 0, None


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold back stop signals inside this block, since processes started inside cannot answer them before they
    listen. Scripts do the same with their first line, while they import."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heard(seconds: float) -> list[int]:
    """Wait at most this long for signals; returns the stop signals among them, in turn. Unlike the handler,
    it learns of a signal while the main thread is inside a C call. For one thread at a time."""
    if _State.pipe is None:
        time.sleep(seconds)
        return []
    if not select.select([_State.pipe[0]], [], [], seconds)[0]:
        return []
    return [number for number in os.read(_State.pipe[0], 1024) if number in STOP_SIGNALS]


def ignore() -> None:
    """Ignore stop signals until the end of `listening`: this process is already leaving."""
    if _State.listening:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def loader_worker(_: int | None = None) -> None:
    """Prepare a loader's worker (worker_init_fn). Ctrl-C and a job's signals reach workers, too, but only the
    trainer answers them. After SIGTERM it still finishes its step and may need a batch, so workers stay for a
    while."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_SECONDS))
    # The thread that hands over batches would report the trainer's end as a lost connection.
    speak = sys.excepthook
    sys.excepthook = lambda kind, *rest: issubclass(kind, (ConnectionError, EOFError)) or speak(kind, *rest)


def heed_no_more() -> None:
    """Let stop signals kill this process, like other programs, until the end of `listening`: there is nothing
    to save."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def farewell(number: int) -> int:
    """Say where the work stands, in the words of `listening`; returns the exit status."""
    return _State.farewell(number) if _State.farewell else status(number)


def _in_a_fork():
    """Leave stop signals to the trainer, which answers for its loader's workers."""
    if _State.listening:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in (signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


os.register_at_fork(after_in_child=_in_a_fork)


def part(number: int, where: str | Callable[[], str]) -> int:
    """Say in one line what the signal ended, and ask for the job's return. Returns the exit status. where:
    how the work stands, or a function that says so and may take a while."""
    ignore()  # whoever started the processes may end them as soon as the first has left
    word = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    words, command = requeueing(number)
    # Printed before it is done, since SLURM at once ends a job that it requeues, and this process with it.
    say("; ".join(filter(None, (word, where() if callable(where) else where, words))))
    if command:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode not in (0, -signal.SIGTERM):
            say(f"{' '.join(command)} failed: {' '.join(done.stderr.split()) or done.returncode}")
    return status(number)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def requeueing(number: int) -> tuple[str, list[str]]:
    """Return how SLURM comes to start this job again, in words ("" if this is not a SLURM job), and the
    command that makes it do so, if it is this process that must ask."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job or number == signal.SIGINT:
        return "", []
    if "SLURM_ARRAY_JOB_ID" in os.environ and "SLURM_ARRAY_TASK_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if number != REQUEUE_SIGNAL:
        return f"SLURM itself requeues job {job} if this was a preemption", []
    if not shutil.which("scontrol"):
        return f"no scontrol here, so job {job} comes back only where RequeueExit has {STOPPED_STATUS}", []
    return f"asking SLURM to requeue job {job}", ["scontrol", "requeue", job]
