"""The group of processes that this one is in: how they meet, and how they leave together."""
import contextlib
import datetime
import functools
import json
import os
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from parallel import signals
from parallel.collectives import barrier
from parallel.process import in_group
from parallel.slurm import adopt_slurm
from parallel.watch import Story, Watch

# Of one collective: long, since one process may evaluate COCO while the others wait. watch.py notices much
# earlier if a process is gone.
COLLECTIVE_MINUTES = 30
JOIN_SECONDS = 300  # for all processes to come together


class WorkerError(RuntimeError):
    """A process ended for another reason than a user's mistake."""


_watch: Watch | None = None  # of the group that this process is in


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the group of processes that torchrun or SLURM started, inside the block. Without one, do nothing.

    An error that leaves the block in one process is raised in all of them: a user's error as ValueError, any
    other as WorkerError. The same holds for Stopped. Rank 0 prints it; in the others `spoken` is True. After
    an error the group stays as it is, since leaving in order could wait for ever; the process must end with
    `process.last`.
    """
    adopt_slurm()
    rank, size = _place()
    if size == 1 or in_group():
        yield
        return
    watch = join(_meeting_point(rank, size), rank, size, _say_and_leave)
    try:
        yield
        barrier()
    except (Exception, signals.Stopped) as error:
        signals.ignore()  # whoever started the processes may end them as soon as the first has left
        if getattr(error, "agreed", False):
            error.spoken = rank > 0  # type: ignore[union-attr]
            raise
        story = watch.explain(error)
        if story.kind == "failed" and story.finder == rank and story.lost < 0:
            traceback.print_exception(error)
        watch.linger()
        raise error_of(story, spoken=not watch.speaks(story)) from None
    finally:
        leave()
    dist.destroy_process_group()  # not after an error: it could wait for the others


def _place() -> tuple[int, int]:
    """Return RANK and WORLD_SIZE. Raises ValueError if only one is set, if they do not fit, or if nothing
    says where to meet."""
    found = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE")}
    if not any(found.values()):
        return 0, 1
    try:
        rank, size = int(found["RANK"] or ""), int(found["WORLD_SIZE"] or "")
        if 0 <= rank < size and (size == 1 or {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()):
            return rank, size
    except (TypeError, ValueError):
        pass
    found |= {name: os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT")}
    raise _alone("expected RANK from 0 on, WORLD_SIZE above it, MASTER_ADDR and MASTER_PORT in the "
                 "environment, or none of them, found "
                 + " and ".join(f"{name} {value or 'unset'}" for name, value in found.items())
                 + "; start with torchrun or srun, or unset them")


@functools.cache
def _meeting_point(rank, size):
    """Return the store through which the processes meet, one for all groups of this process. torchrun has
    created it, or rank 0 does."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    torchruns = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        return dist.TCPStore(host, port, is_master=rank == 0 and not torchruns, wait_for_workers=False,
                             multi_tenant=True, timeout=datetime.timedelta(seconds=JOIN_SECONDS))
    except RuntimeError as error:
        raise _alone(f"process {rank} of {size} did not reach the meeting point {host}:{port} within "
                     f"{JOIN_SECONDS} s; is process 0 there, is the port free, and may this host reach it? "
                     f"({str(error).splitlines()[0]})") from None


def _alone(message: str) -> ValueError:
    """Return an error from before there is a group, so that no other process prints it."""
    error: Any = ValueError(message)
    error.spoken = False
    return error


def join(store: dist.Store, rank: int, size: int, tell: Callable[[Story], None]) -> Watch:
    """Form a group of `size` processes that share a store. Returns this process's watch, already started.
    tell: see Watch. Raises ValueError if they do not all arrive within JOIN_SECONDS."""
    global _watch
    store = dist.PrefixStore(_meet(store, rank, size), store)
    watch = Watch(store, rank, size, tell)
    try:
        store.wait([f"life/{other}" for other in range(size)], datetime.timedelta(seconds=JOIN_SECONDS))
    except RuntimeError:
        raise _alone(f"of {size} processes some left while they met; see the lines above and their "
                     "logs") from None
    local = int(os.environ.get("LOCAL_RANK", rank))
    gpu = torch.cuda.is_available() and local < torch.cuda.device_count()
    if gpu:
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", store=store, rank=rank, world_size=size,
                            timeout=datetime.timedelta(minutes=COLLECTIVE_MINUTES))
    watch.start()
    _watch = watch
    return watch


def leave() -> None:
    """End this process's watch."""
    global _watch
    if _watch:
        _watch.end()
    _watch = None


def _meet(store, rank, size) -> str:
    """Return a new name for this meeting of processes, the same in each of them.

    torchrun keeps one store for all its rounds, and it still holds the addresses of processes that are gone
    (pytorch issue 135712). So each process has a token, rank 0 calls the tokens that it has found, and a
    process has met the others only if it hears its own token.
    """
    token, deadline = secrets.token_hex(8), time.monotonic() + JOIN_SECONDS
    absent, old = [0], store.get("call") if store.check(["call"]) else None
    if rank:
        store.set(f"token/{rank}", token)
        deadline += 5  # rank 0 knows best who is absent
    while time.monotonic() < deadline:
        if rank == 0:
            tokens = [store.get(key).decode() if store.check([key]) else ""
                      for key in (f"token/{other}" for other in range(1, size))]
            absent = [other for other in range(1, size) if not store.check([f"{token}/here/{other}"])]
            if not absent:
                return token
            store.set("call", json.dumps([absent, token, *tokens]))
        elif store.check(["call"]) and (call := store.get("call")) != old:
            absent, name, *tokens = json.loads(call)
            if token in tokens:
                store.set(f"{name}/here/{rank}", "")
                return name
        time.sleep(0.05)
    raise _alone(f"process {absent[0]} of {size} did not come within {JOIN_SECONDS} s; see its host and its "
                 "log")


def error_of(story: Story, spoken: bool) -> BaseException:
    """Return the story as an exception. spoken: whether another process prints it."""
    if story.kind == "stopped":
        error: Any = signals.Stopped(story.number)
    else:
        kinds = {"refused": ValueError, "missing": FileNotFoundError, "broken": OSError,
                 "failed": WorkerError}
        error = kinds[story.kind](story.message)
    error.spoken = spoken
    return error


def _say_and_leave(story: Story):
    """End a joined process whose main thread cannot end itself."""
    assert _watch
    if story.kind == "stopped":
        status = signals.farewell(story.number) if _watch.speaks(story) else signals.status(story.number)
    else:
        status = 1 if story.kind in ("failed", "broken") else 2
        if _watch.speaks(story):
            print(f"error: {story.message}", file=sys.stderr, flush=True)
    os._exit(status)
