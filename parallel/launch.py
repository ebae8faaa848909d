"""Starting processes on this machine."""
import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from parallel import groups, signals
from parallel.collectives import USER_ERRORS, barrier
from parallel.groups import WorkerError
from parallel.process import in_group
from parallel.watch import Story

START_GRACE = 2.0  # seconds after the first death, for the others' stories: one of them may be the cause


def launch(function: Callable, processes: int, *args: Any) -> Any:
    """Call function(*args) in every process of a group and return rank 0's value.

    - Inside a group, such as that of `groups.joined`, and with processes <= 1: calls it here; other ranks
      have their own values.
    - Else spawns `processes` workers that meet on a free port of this machine. `function` must be importable
      (a module's own function), args picklable.

    A worker's ValueError or FileNotFoundError reaches the caller as it is, a stop signal as Stopped; any
    other failure as one WorkerError that names the process, its traceback printed. No worker outlives the
    call.
    """
    if in_group() or processes <= 1:
        return function(*args)
    return _spawn(function, processes, args)


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
            watch = groups.join(store, number, processes, tell)
            pipe.send("ready")
            value = function(*args)
            # By value: a tensor's memory would be fetched from here, when this process may have ended.
            pipe.send(pickle.dumps(value) if number == 0 else b"")
            barrier()
        except (Exception, signals.Stopped) as error:
            story = watch.explain(error) if watch else Story(
                "refused" if isinstance(error, USER_ERRORS) else "failed", str(error), number)
            tell(dataclasses.replace(story, trace=traceback.format_exc()))
        groups.leave()
    dist.destroy_process_group()


def _wait(workers, pipes, heard):
    """Return when all workers have ended well, or raise one error for the first that has not. Stop signals
    are passed on; before all workers are ready for them, they end the call."""
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
    """Take what workers say, for at most half a second or until one of them ends."""
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
    """Return the most telling error: a worker killed from outside, else the earliest story. The others are
    mostly consequences ("connection closed by peer")."""
    for number, worker in enumerate(workers):
        code = worker.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in signal.Signals._value2member_map_ else str(-code)
            return WorkerError(f"process {number} of {len(workers)} was ended by {name}; on SIGKILL look "
                               "for too little memory, else see the lines above")
    stories = [heard[number] for number in sorted(heard) if _is_story(heard[number])]
    own = [story for number, story in heard.items() if _is_story(story) and story.finder == number]
    if stories:
        order = ("refused", "missing", "broken", "stopped", "failed")
        story = min(own or stories, key=lambda story: order.index(story.kind))
        if story.kind == "failed" and story.lost < 0:
            print(story.trace, file=sys.stderr, end="")
        return groups.error_of(story, spoken=False)
    number, code = next((number, worker.exitcode) for number, worker in enumerate(workers) if worker.exitcode)
    return WorkerError(f"process {number} of {len(workers)} left with exit status {code} without an error")


def _stop(workers):
    """End the remaining workers: there is nothing to save, or it was saved."""
    for worker in workers:
        if worker.is_alive():
            worker.kill()
    for worker in workers:
        if worker.pid is not None:
            worker.join()
