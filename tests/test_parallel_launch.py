"""Starting processes, and what is said when one of them dies."""
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from parallel.batchnorm import convert_sync_batchnorm
from parallel.collectives import all_gather_rows, all_reduce_sum, barrier, rank, row_counts, world_size
from parallel.launch import launch, pass_on

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
    (fail, (KeyError, "x"), RuntimeError, "^process 1 of 2 failed with KeyError: 'x'$"),
    (die_of, (signal.SIGKILL,), RuntimeError, "^process 1 of 2 was ended by SIGKILL"),
], ids=["one value", "user error", "missing file", "bug", "killed"])
def test_a_worker_that_dies_gives_one_error(function, arguments, error, message):
    start = time.monotonic()
    with pytest.raises(error, match=message):
        launch(function, 2, *arguments)
    assert time.monotonic() - start < 60


def test_inside_torchrun_the_group_is_joined():
    code = ("from parallel import collectives as c, launch as d; import tests.test_parallel_launch as t; "
            "v = d.launch(t.collectives, 7); has = v is not None and v[0]; "
            "sys.stdout.write(f'rank {c.rank()} {has} {c.world_size()}\\n')")
    script = "import runpy, sys; sys.path[0] = '.'; exec(sys.argv[1])"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*torchrun, "--no-python", sys.executable, "-c", script, code], cwd=ROOT,
                          capture_output=True, text=True, timeout=120)
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("rank")) == [
        "rank 0 2 1", "rank 1 False 1"], done.stderr


def wait_for_a_signal(folder):
    """Each process tells that it is there, then which signal it got."""
    got = []
    signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
    (folder / f"ready-{rank()}").touch()
    deadline = time.monotonic() + 60
    while not got and time.monotonic() < deadline:
        time.sleep(0.02)
    return all_reduce_sum(torch.tensor(len(got))).item()


def test_signals_are_passed_on_to_started_processes(tmp_path):
    def send():
        while len(list(tmp_path.glob("ready-*"))) < 2:
            time.sleep(0.02)
        pass_on(signal.SIGUSR1)
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    assert launch(wait_for_a_signal, 2, tmp_path) == 2
    sender.join()
