"""Starting processes, and what is said when one of them dies."""
import concurrent.futures
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from parallel import groups, signals
from parallel.batchnorm import convert_sync_batchnorm
from parallel.collectives import (
    agree,
    all_gather_rows,
    all_reduce_sum,
    barrier,
    gather,
    rank,
    row_counts,
    world_size,
)
from parallel.groups import WorkerError, joined
from parallel.launch import launch

ROOT = Path(__file__).parent.parent


def collectives():
    mine = torch.full((rank() + 1, 2), float(rank()), dtype=torch.float64)
    barrier()
    return (world_size(), all_gather_rows(mine), row_counts(len(mine)),
            all_reduce_sum(torch.tensor([1.0 + rank()])))


def refuse_one_value():
    convert_sync_batchnorm(nn.BatchNorm1d(3))(torch.zeros(1 - rank(), 3))


def fail(kind, message):
    if rank() == 1:
        raise kind(message)
    barrier()


def die_of(number):
    if rank() == 1:
        os.kill(os.getpid(), number)
    barrier()


@pytest.mark.parametrize("function, arguments, error, message", [
    (refuse_one_value, (), ValueError, "more than one value per channel"),
    (fail, (ValueError, "expected 2, found 3"), ValueError, "^expected 2, found 3$"),
    (fail, (FileNotFoundError, "no such folder"), FileNotFoundError, "^no such folder$"),
    (fail, (KeyError, "x"), RuntimeError, "^process 1 of 2 .host .*. failed with KeyError: 'x'$"),
    (die_of, (signal.SIGKILL,), RuntimeError, "^process 1 of 2 was ended by SIGKILL"),
], ids=["one value", "user error", "missing file", "bug", "killed"])
def test_a_worker_that_dies_gives_one_error(function, arguments, error, message):
    start = time.monotonic()
    with pytest.raises(error, match=message):
        launch(function, 2, *arguments)
    assert time.monotonic() - start < 60


def say():
    with joined():
        assert launch(collectives, 7)[0] == 2
        sys.stdout.write(f"rank {rank()} of {world_size()}\n")  # whole lines


def test_inside_torchrun_the_group_is_joined():
    code = "import tests.test_parallel_launch as t; t.say()"
    script = "import runpy, sys; sys.path[0] = '.'; exec(sys.argv[1])"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*torchrun, "--no-python", sys.executable, "-c", script, code], cwd=ROOT,
                          capture_output=True, text=True, timeout=120)
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("rank")) == [
        "rank 0 of 2", "rank 1 of 2"], done.stderr


def wait_for_a_wish(folder):
    """Each process tells that it is there, then works until the group is asked to stop."""
    with signals.deferred():
        (folder / f"ready-{rank()}").touch()
        while not (number := signals.wish()):
            time.sleep(0.02)
    return number, gather(signals.received())


def fall_asleep(folder):
    (folder / f"ready-{rank()}").touch()
    time.sleep(120)


def send_when_ready(folder, send):
    def wait():
        while len(list(folder.glob("ready-*"))) < 2:
            time.sleep(0.02)
        send()
    sender = threading.Thread(target=wait, daemon=True)
    sender.start()
    return sender


@pytest.mark.parametrize("number", signals.STOP_SIGNALS)
def test_a_signal_reaches_every_process(tmp_path, number):
    """Work that can be saved is finished; its caller hears of the signal from the value."""
    with signals.listening():
        sender = send_when_ready(tmp_path, lambda: os.kill(os.getpid(), number))
        assert launch(wait_for_a_wish, 2, tmp_path) == (number, [number] * 2)
        sender.join()


@pytest.mark.parametrize("to", ["caller", "one worker"])
def test_a_signal_ends_work_that_cannot_be_saved(tmp_path, to):
    def send():
        workers = [child.pid for child in multiprocessing.active_children()]
        os.kill(os.getpid() if to == "caller" else workers[1], signal.SIGTERM)
    start = time.monotonic()
    with signals.listening():
        send_when_ready(tmp_path, send)
        with pytest.raises(signals.Stopped, match="SIGTERM"):
            launch(fall_asleep, 2, tmp_path)
    assert time.monotonic() - start < 60 and not multiprocessing.active_children()


def freeze(folder):
    """Process 1 stops answering; process 0 waits for it in a collective."""
    if rank() == 1:
        time.sleep(3)  # so that it has said where it is
        os.kill(os.getpid(), signal.SIGSTOP)
    barrier()


def test_a_process_that_stops_answering_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("BARLOW_TIMEOUT_SECONDS", "8")
    start = time.monotonic()
    wanted = (f"process 1 of 2 .host {socket.gethostname()}. has not answered for .*"
              r"it was last at tests/test_parallel_launch\.py")
    with pytest.raises(WorkerError, match=wanted):
        launch(freeze, 2, tmp_path)
    assert time.monotonic() - start < 60 and not multiprocessing.active_children()


def count_together(folder):
    """Says when it has begun; its collectives take longer than a lost process may stay."""
    (folder / f"ready-{rank()}").touch()
    for _ in range(110):
        barrier()
        time.sleep(0.1)
    return "counted"


def test_a_group_that_was_stopped_as_a_whole_goes_on(tmp_path, monkeypatch):
    """As by Ctrl-Z and fg, for longer than the limit of silence."""
    monkeypatch.setenv("BARLOW_TIMEOUT_SECONDS", "5")

    def stop_for_a_while():
        time.sleep(3)  # until they have seen each other's signs
        workers = [child.pid for child in multiprocessing.active_children()]
        for number, pid, seconds in ((signal.SIGSTOP, workers[0], 0), (signal.SIGSTOP, workers[1], 8),
                                     (signal.SIGCONT, workers[0], 2), (signal.SIGCONT, workers[1], 0)):
            os.kill(pid, number)
            time.sleep(seconds)  # hosts do not wake up together
    sender = send_when_ready(tmp_path, stop_for_a_while)
    assert launch(count_together, 2, tmp_path) == "counted"
    sender.join()


def sleeping_parent(folder):
    launch(fall_asleep, 2, folder)


def test_workers_end_with_the_process_that_started_them(tmp_path):
    parent = multiprocessing.get_context("spawn").Process(target=sleeping_parent, args=(tmp_path,))
    parent.start()
    sender = send_when_ready(tmp_path, lambda: None)
    sender.join()
    workers = [int(pid) for pid in subprocess.run(["pgrep", "-P", str(parent.pid), "-f", "spawn_main"],
                                                  capture_output=True, text=True).stdout.split()]
    assert len(workers) == 2
    parent.kill()
    parent.join()
    deadline = time.monotonic() + 30
    while alive := [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)


def test_a_process_that_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr(groups, "JOIN_SECONDS", 0.3)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for rank_, message in ((0, "process 1 of 2 did not come"), (1, "process 0 of 2 did not come")):
        with pytest.raises(ValueError, match=message) as error:
            groups.join(store, rank_, 2, None)
        assert error.value.spoken is False


def test_what_an_earlier_meeting_left_in_the_store_misleads_nobody():
    """As when torchrun starts its processes again: their tokens are new, the store is the old one."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    names = []
    for _ in range(2):
        with concurrent.futures.ThreadPoolExecutor() as threads:
            found = [threads.submit(groups._meet, store.clone(), rank_, 3) for rank_ in range(3)]
            names.append({name.result() for name in found})
    assert [len(name) for name in names] == [1, 1] and names[0] != names[1]


def refused_on_one(folder):
    agree(lambda: int("x" * rank() or "1"))


def test_a_refusal_of_one_is_that_of_all(tmp_path):
    with pytest.raises(ValueError, match="invalid literal for int.*'x'"):
        launch(refused_on_one, 2, tmp_path)
