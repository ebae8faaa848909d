"""Starting processes, or joining those that torchrun or SLURM started."""
import functools
import itertools
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

from parallel.collectives import in_group, is_main
from parallel.slurm import adopt_slurm

USER_ERRORS = (ValueError, FileNotFoundError)  # their message is the whole story; others keep a traceback
GRACE_SECONDS = 2.0  # after the first death, wait for the others' stories: one of them may be the cause


class WorkerError(RuntimeError):
    """A worker died of something else than a user's mistake."""


_workers = []  # started by this process
_missed = []  # signals that came before the workers could get them


def pass_on(number: int) -> None:
    """Send a signal to the processes that `launch` started here, if any; safe in a signal handler."""
    for worker in _workers:
        if worker.pid is None:
            _missed.append(number)
            continue
        try:
            os.kill(worker.pid, number)
        except ProcessLookupError:
            pass  # it has ended, and whoever waits for it knows


def launch(function, processes: int, *args):
    """Call function(*args) in every process of a group and return rank 0's value.

    - Under torchrun (RANK and WORLD_SIZE in the environment) and in a step of a SLURM job (see
      `adopt_slurm`): joins that group; other ranks return None.
    - Inside a group already, or processes <= 1: calls the function here.
    - Else spawns `processes` workers that meet through a temporary file, so no port is fixed and several
      runs fit on one machine. `function` must be importable (a module's own function), args picklable.

    A worker's ValueError or FileNotFoundError reaches the caller as it is; any other failure as one
    WorkerError that names the process, its traceback printed. No worker outlives the call.
    """
    if in_group():
        return function(*args)
    adopt_slurm()
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        rank_, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        # A prefix for each call: in the same store a second group would meet at the first one's addresses.
        _join(dist.PrefixStore(f"launch{next(_launches)}", _meeting_point(rank_, size)), rank_, size)
        value, main = function(*args), is_main()
        dist.destroy_process_group()  # not after an error: it could wait for the others
        return value if main else None
    if processes <= 1:
        return function(*args)
    return _spawn(function, processes, args)


_launches = itertools.count()


@functools.cache
def _meeting_point(rank_, size):
    """Return the store through which torchrun's processes meet, one for all groups of this process."""
    return next(dist.rendezvous("env://", rank_, size))[0]


def _join(store, rank_, size):
    gpu = torch.cuda.is_available() and int(os.environ.get("LOCAL_RANK", rank_)) < torch.cuda.device_count()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank_)))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", store=store, rank=rank_, world_size=size)


def _spawn(function, processes, args):
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="rendezvous-") as folder:
        workers = [context.Process(target=_worker, args=(function, number, processes, folder, args))
                   for number in range(processes)]
        _missed.clear()
        _workers.extend(workers)
        try:
            for worker in workers:
                worker.start()
            for number in set(_missed):
                pass_on(number)
            _wait(workers, Path(folder))
        finally:  # also on KeyboardInterrupt and on SystemExit from a signal handler of the caller
            _workers.clear()
            _stop(workers)
        return pickle.loads((Path(folder) / "value").read_bytes())


def _worker(function, number, processes, folder, args):
    threading.Thread(target=_die_with_parent, daemon=True).start()
    # A spawned process would spawn its own children, too, so data loaders would start slowly.
    multiprocessing.set_start_method(None, force=True)
    os.environ["LOCAL_RANK"] = str(number)
    try:
        _join(dist.FileStore(f"{folder}/store", processes), number, processes)
        value = function(*args)
        if number == 0:
            (Path(folder) / "value").write_bytes(pickle.dumps(value))
        dist.destroy_process_group()
    except KeyboardInterrupt:
        os._exit(130)  # the parent has it too, and speaks for everybody
    except Exception as error:
        story = (time.time(), type(error).__name__, isinstance(error, USER_ERRORS), str(error),
                 traceback.format_exc())
        draft = Path(folder) / f"draft-{number}"
        draft.write_bytes(pickle.dumps(story))
        draft.replace(Path(folder) / f"error-{number}")
        os._exit(1)  # without the group's tear-down, which could wait for the others


def _die_with_parent():
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _wait(workers, folder):
    """Return when all workers ended well; raise one error for the first that did not."""
    alive = list(workers)
    while alive:
        multiprocessing.connection.wait([worker.sentinel for worker in alive])
        alive = [worker for worker in alive if worker.is_alive()]
        if any(worker.exitcode for worker in workers):
            deadline = time.monotonic() + GRACE_SECONDS
            for worker in workers:
                worker.join(max(0.0, deadline - time.monotonic()))
            raise _cause(workers, folder)


def _cause(workers, folder):
    """The most telling error: a worker killed from outside, else the earliest exception. The others' are
    mostly consequences ("connection closed by peer")."""
    for number, worker in enumerate(workers):
        code = worker.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in signal.Signals._value2member_map_ else str(-code)
            return WorkerError(f"process {number} of {len(workers)} was ended by {name}; on SIGKILL look "
                               "for too little memory, else see the lines above")
    stories = sorted((pickle.loads(path.read_bytes()), path.name[6:]) for path in folder.glob("error-*"))
    user = [story for story, _ in stories if story[2]]
    if user:
        _, kind, _, message, _ = user[0]
        return FileNotFoundError(message) if kind == "FileNotFoundError" else ValueError(message)
    if stories:
        (_, kind, _, message, trace), number = stories[0]
        print(trace, file=sys.stderr, end="")
        return WorkerError(f"process {number} of {len(workers)} failed with {kind}: {message.strip()}")
    number, code = next((number, worker.exitcode) for number, worker in enumerate(workers) if worker.exitcode)
    return WorkerError(f"process {number} of {len(workers)} left with exit status {code} without an error")


def _stop(workers):
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
    deadline = time.monotonic() + 5
    for worker in workers:
        if worker.pid is not None:
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                worker.kill()
                worker.join()
