"""Starting processes, or joining those that torchrun or SLURM started."""
import contextlib
import dataclasses
import datetime
import functools
import itertools
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import time
import traceback

import torch
import torch.distributed as dist

from parallel import signals
from parallel.collectives import USER_ERRORS, barrier, in_group, is_main
from parallel.slurm import adopt_slurm
from parallel.watch import Story, Watch

# Of one collective, long, since one process may evaluate COCO while the others wait. That a process is gone
# is known much earlier, by watch.py.
COLLECTIVE_MINUTES = 60
JOIN_SECONDS = 300  # for all processes to come together
START_GRACE = 2.0  # seconds after the first death, for the others' stories: one of them may be the cause


class WorkerError(RuntimeError):
    """A process ended for something else than a user's mistake."""


_watch: Watch | None = None  # of the group that this process is in
_numbers = itertools.count()  # of groups and of calls in them, the same in every process


def launch(function, processes: int, *args):
    """Call function(*args) in every process of a group and return rank 0's value.

    - Inside `joined` (torchrun, SLURM) or another group, and with processes <= 1: calls it here; other ranks
      have their own values.
    - Else spawns `processes` workers that meet on a free port of this machine. `function` must be importable
      (a module's own function), args picklable.

    A worker's ValueError or FileNotFoundError reaches the caller as it is, a stop signal as Stopped; any
    other failure as one WorkerError that names the process, its traceback printed. No worker outlives the
    call.
    """
    if _watch:
        return _attempt(function, *args)
    if in_group() or processes <= 1:
        return function(*args)
    return _spawn(function, processes, args)


# Processes that others started

@contextlib.contextmanager
def joined():
    """Be in the group of the processes that torchrun or SLURM started, inside the block; elsewhere nothing.

    An error that leaves the block in one process is raised in all of them, as ValueError where it is a
    user's and else as WorkerError; so is Stopped. Rank 0 is to say it: in the others `spoken` is True.
    """
    global _watch
    adopt_slurm()
    rank, size = _place()
    if size == 1 or in_group():
        yield
        return
    store = dist.PrefixStore(f"group{next(_numbers)}", _meeting_point(rank, size))
    watch = _watch = _join(store, rank, size, _say_and_leave)
    try:
        yield
        barrier()
    except (Exception, signals.Stopped) as error:
        signals.ignore()  # whoever started the processes may end them as soon as the first has left
        if getattr(error, "agreed", False):
            error.spoken = rank > 0
            raise
        story = watch.explain(error)
        if story.kind == "failed" and story.finder == rank and story.lost < 0:
            traceback.print_exception(error)
        watch.linger()
        raise _error_of(story, spoken=not watch.speaks(story)) from None
    finally:
        watch.end()
        _watch = None
    dist.destroy_process_group()  # not after an error: it could wait for the others


def complain(error: Exception) -> int:
    """Print an error as one line, once for all processes; returns the exit status, 2 for a user's."""
    if not getattr(error, "spoken", not is_main()):
        print(f"error: {error}", file=sys.stderr, flush=True)
    return 2 if isinstance(error, USER_ERRORS) else 1


def _place() -> tuple[int, int]:
    """RANK and WORLD_SIZE. ValueError where one is there without the other, or they do not fit."""
    found = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE")}
    if not any(found.values()):
        return 0, 1
    try:
        rank, size = int(found["RANK"]), int(found["WORLD_SIZE"])
        if 0 <= rank < size:
            return rank, size
    except (TypeError, ValueError):
        pass
    error = ValueError("expected RANK from 0 on and WORLD_SIZE above it in the environment, or neither, found "
                       + " and ".join(f"{name} {value or 'unset'}" for name, value in found.items())
                       + "; start with torchrun or srun, or unset them")
    error.spoken = False
    raise error


@functools.cache
def _meeting_point(rank, size):
    """The store through which the processes meet, one for all groups of this process."""
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        return next(dist.rendezvous("env://", rank, size, timeout=datetime.timedelta(seconds=JOIN_SECONDS)))[0]
    except RuntimeError as error:
        raise ValueError(f"process {rank} of {size} found nobody at the meeting point {address} for "
                         f"{JOIN_SECONDS} s; is process 0 there, and may this host reach it? "
                         f"({str(error).splitlines()[0]})") from None


def _join(store, rank, size, tell) -> Watch:
    """Form the group, when all processes are there; returns this process's watch, already going."""
    watch = Watch(store, rank, size, tell)  # its first sign of life
    deadline = time.monotonic() + JOIN_SECONDS
    while missing := [other for other in range(size) if not store.check([f"life/{other}"])]:
        if time.monotonic() > deadline:
            raise ValueError(f"process {missing[0]} of {size} did not come within {JOIN_SECONDS} s; see its "
                             "host and its log")
        time.sleep(0.05)
    local = int(os.environ.get("LOCAL_RANK", rank))
    gpu = torch.cuda.is_available() and local < torch.cuda.device_count()
    if gpu:
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", store=store, rank=rank, world_size=size,
                            timeout=datetime.timedelta(minutes=COLLECTIVE_MINUTES))
    watch.start()
    return watch


def _attempt(function, *args):
    """Call a function in each process of a joined group. A user's error that all come to is one for all of
    them, after which the group can go on; one that only some come to ends the group."""
    number = next(_numbers)
    try:
        return function(*args)
    except USER_ERRORS as error:
        if getattr(error, "agreed", False) or not _watch.all_came_to(f"end/{number}"):
            raise
        error.agreed = True
        raise


def _error_of(story: Story, spoken: bool) -> BaseException:
    if story.kind == "stopped":
        error = signals.Stopped(story.number)
    else:
        kinds = {"refused": ValueError, "missing": FileNotFoundError, "failed": WorkerError}
        error = kinds[story.kind](story.message)
    error.spoken = spoken
    return error


def _say_and_leave(story: Story):
    """End a joined process whose main thread cannot."""
    if story.kind == "stopped":
        status = signals.farewell(story.number) if _watch.speaks(story) else signals.status(story.number)
    else:
        status = 1 if story.kind == "failed" else 2
        if _watch.speaks(story):
            print(f"error: {story.message}", file=sys.stderr, flush=True)
    os._exit(status)


# Processes of our own

def _spawn(function, processes, args):
    context = multiprocessing.get_context("spawn")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipes = [context.Pipe(duplex=False) for _ in range(processes)]
    workers = [context.Process(target=_worker, args=(function, number, processes, store.port, pipe[1], args))
               for number, pipe in enumerate(pipes)]
    heard = {}  # rank -> its pickled value or a Story, of those that have spoken
    try:
        with signals.deferred():
            with signals.held_back():
                for worker in workers:
                    worker.start()
            for _, far in pipes:
                far.close()
            _wait(workers, {pipe[0]: number for number, pipe in enumerate(pipes)}, heard)
    finally:  # also on KeyboardInterrupt and on SystemExit from a signal handler of the caller
        _stop(workers)
    return pickle.loads(heard[0])


def _worker(function, number, processes, port, pipe, args):
    global _watch
    # A spawned process would spawn its own children, too, so data loaders would start slowly.
    multiprocessing.set_start_method(None, force=True)
    os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"] = str(number), str(processes)

    def tell(story):
        with contextlib.suppress(OSError):  # the parent may be gone
            pipe.send(story)
        os._exit(1)  # without the group's tear-down, which could wait for the others

    watch = None
    with signals.listening():
        try:
            store = dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
            watch = _watch = _join(store, number, processes, tell)
            pipe.send("ready")
            value = function(*args)
            # By value: a tensor's memory would be fetched from here, when this process may have ended.
            pipe.send(pickle.dumps(value) if number == 0 else b"")
            barrier()
        except (Exception, signals.Stopped) as error:
            story = watch.explain(error) if watch else Story("failed", str(error), number)
            tell(dataclasses.replace(story, trace=traceback.format_exc()))
        watch.end()
    dist.destroy_process_group()


def _wait(workers, pipes, heard):
    """Return when all workers ended well; raise one error for the first that did not. Stop signals are passed
    on; before all workers are ready for them, they end the call."""
    ready, asked = set(), False
    while any(worker.is_alive() for worker in workers):
        _listen(pipes, [worker.sentinel for worker in workers if worker.is_alive()], ready, heard)
        number = signals.received()
        if number and not asked:
            if len(ready) < len(workers):
                raise signals.Stopped(number)
            for worker in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, number)
            asked = True
        if any(worker.exitcode for worker in workers) or any(map(_is_story, heard.values())):
            deadline = time.monotonic() + START_GRACE
            while time.monotonic() < deadline and any(worker.is_alive() for worker in workers):
                _listen(pipes, [worker.sentinel for worker in workers if worker.is_alive()], ready, heard)
            _listen(pipes, [], ready, heard)
            raise _cause(workers, heard)
    _listen(pipes, [], ready, heard)


def _is_story(message):
    return isinstance(message, Story)


def _listen(pipes, sentinels, ready, heard):
    """Take what workers say, for half a second at most or until one of them ends."""
    multiprocessing.connection.wait([*pipes, *sentinels], 0.5 if sentinels else 0)
    for pipe, number in list(pipes.items()):
        try:
            while pipe.poll():
                message = pipe.recv()
                if message == "ready":
                    ready.add(number)
                else:
                    heard[number] = message
        except EOFError:
            del pipes[pipe]


def _cause(workers, heard) -> BaseException:
    """The most telling error: a worker killed from outside, else the earliest story. The others' are mostly
    consequences ("connection closed by peer")."""
    for number, worker in enumerate(workers):
        code = worker.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in signal.Signals._value2member_map_ else str(-code)
            return WorkerError(f"process {number} of {len(workers)} was ended by {name}; on SIGKILL look "
                               "for too little memory, else see the lines above")
    stories = [heard[number] for number in sorted(heard) if _is_story(heard[number])]
    own = [story for number, story in heard.items() if _is_story(story) and story.finder == number]
    if stories:
        story = min(own or stories, key=lambda story: ("refused", "missing", "stopped", "failed").index(story.kind))
        if story.kind == "failed" and story.lost < 0:
            print(story.trace, file=sys.stderr, end="")
        return _error_of(story, spoken=False)
    number, code = next((number, worker.exitcode) for number, worker in enumerate(workers) if worker.exitcode)
    return WorkerError(f"process {number} of {len(workers)} left with exit status {code} without an error")


def _stop(workers):
    """End what is left: there is nothing to save, or it was saved."""
    for worker in workers:
        if worker.is_alive():
            worker.kill()
    for worker in workers:
        if worker.pid is not None:
            worker.join()
