"""Processes, collectives and joint batch normalisation (pretrain/distributed.py)."""
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

from pretrain import distributed

ROOT = Path(__file__).parent.parent


def collectives():
    mine = torch.full((distributed.rank() + 1, 2), float(distributed.rank()), dtype=torch.float64)
    distributed.barrier()
    return (distributed.world_size(), distributed.all_gather_rows(mine), distributed.row_counts(len(mine)),
            distributed.all_reduce_sum(torch.tensor([1.0 + distributed.rank()])))


@pytest.mark.parametrize("processes", [1, 3])
def test_collectives_allow_unequal_rows(processes):
    size, rows, counts, total = distributed.launch(collectives, processes)
    assert size == processes
    assert rows[:, 0].tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 2.0][:sum(range(1, processes + 1))]
    assert counts == list(range(1, processes + 1))
    assert total.item() == sum(range(1, processes + 1))


def layers():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 6, bias=False),
                         nn.BatchNorm1d(6, momentum=None), nn.BatchNorm1d(6, affine=False)).double()


def joint_statistics(images, sizes):
    """Outputs, gradients and buffers of this process's share; gradients of parameters summed over ranks."""
    net = distributed.convert_sync_batchnorm(layers())
    start = sum(sizes[:distributed.rank()])
    mine = images[start:start + sizes[distributed.rank()]].clone().requires_grad_()
    for _ in range(2):  # twice, so that running averages are more than their first value
        y = net(mine)
    (y.sin() * torch.arange(1, 7)).sum().backward()
    gradients = [distributed.all_reduce_sum(p.grad.clone()) for p in net.parameters()]
    return (distributed.all_gather_rows(y), distributed.all_gather_rows(mine.grad), gradients,
            list(net.buffers()), list(net.state_dict()))


@pytest.mark.parametrize("sizes", [(5, 5), (1, 9), (2, 3, 1, 4)], ids=str)
def test_sync_batchnorm_equals_one_process_on_the_joint_batch(sizes):
    images = torch.randn(10, 2, 5, 5, dtype=torch.float64) * 3 + 10
    wanted = joint_statistics(images, (10,))
    found = distributed.launch(joint_statistics, len(sizes), images, sizes)
    assert found[4] == wanted[4]
    for a, b in zip([*found[:2], *found[2], *found[3]], [*wanted[:2], *wanted[2], *wanted[3]]):
        a, b = a.double(), b.double()
        assert (a - b).abs().max() <= 1e-12 * max(1.0, b.abs().max())


def refuse_one_value():
    distributed.convert_sync_batchnorm(nn.BatchNorm1d(3))(torch.zeros(1 - distributed.rank(), 3))


def fail(kind, message):
    if distributed.rank() == 1:
        raise kind(message)
    distributed.barrier()


def die_of(number):
    if distributed.rank() == 1:
        os.kill(os.getpid(), number)
    distributed.barrier()


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
        distributed.launch(function, 2, *arguments)
    assert time.monotonic() - start < 60


def test_inside_torchrun_the_group_is_joined():
    code = ("from pretrain import distributed as d; import tests.test_distributed as t; "
            "v = d.launch(t.collectives, 7); has = v is not None and v[0]; "
            "sys.stdout.write(f'rank {d.rank()} {has} {d.world_size()}\\n')")
    script = "import runpy, sys; sys.path[0] = '.'; exec(sys.argv[1])"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*torchrun, "--no-python", sys.executable, "-c", script, code], cwd=ROOT,
                          capture_output=True, text=True, timeout=120)
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("rank")) == [
        "rank 0 2 1", "rank 1 False 1"], done.stderr


@pytest.mark.parametrize("nodes, first", [
    ("gpu7", "gpu7"), ("gpu[003-010,12],cpu7", "gpu003"), ("n[1,5]", "n1"), ("a-b.c,d", "a-b.c"),
    ("rack[1-2]-gpu[04-07]", "rack1-gpu04"), ("localhost", "localhost"),
])
def test_first_node_of_slurms_list(nodes, first):
    assert distributed.first_node(nodes) == first


SRUN = {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "8",
        "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[07-08]"}
WANTED = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu07", "MASTER_PORT": "22112"}


@pytest.mark.parametrize("changes, wanted", [
    ({}, WANTED),
    ({"SLURM_STEP_NUM_TASKS": None, "SLURM_NTASKS": "4"}, WANTED),
    ({"MASTER_ADDR": "head", "MASTER_PORT": "5"}, WANTED | {"MASTER_ADDR": "head", "MASTER_PORT": "5"}),
    ({"SLURM_STEP_NUM_TASKS": "1"}, {}),
    ({"SLURM_STEP_NUM_TASKS": None, "SLURM_STEP_ID": None}, {}),
    ({"RANK": "0", "WORLD_SIZE": "2"}, {"RANK": "0", "WORLD_SIZE": "2"}),
], ids=["srun", "old srun", "meeting point given", "one task", "batch script", "torchrun"])
def test_slurm_is_recognised(monkeypatch, changes, wanted):
    environment = {name: value for name, value in (SRUN | changes).items() if value is not None}
    monkeypatch.setattr(os, "environ", environment)
    distributed.adopt_slurm()
    found = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    assert found == wanted


def test_a_step_of_slurm_joins_without_torchrun():
    code = ("import sys; sys.path[0] = '.'; from pretrain import distributed as d; "
            "import tests.test_distributed as t; v = d.launch(t.collectives, 7); "
            "print('rank', d.rank(), v is not None and v[0])")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2",
                    "SLURM_STEP_NODELIST": "localhost"}
    tasks = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                              env=environment | {"SLURM_PROCID": number, "SLURM_LOCALID": number})
             for number in "01"]
    assert [task.communicate(timeout=120)[0].strip() for task in tasks] == ["rank 0 2", "rank 1 False"]


def wait_for_a_signal(folder):
    """Each process tells that it is there, then which signal it got."""
    got = []
    signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
    (folder / f"ready-{distributed.rank()}").touch()
    deadline = time.monotonic() + 60
    while not got and time.monotonic() < deadline:
        time.sleep(0.02)
    return distributed.all_reduce_sum(torch.tensor(len(got))).item()


def test_signals_are_passed_on_to_started_processes(tmp_path):
    def send():
        while len(list(tmp_path.glob("ready-*"))) < 2:
            time.sleep(0.02)
        distributed.pass_on(signal.SIGUSR1)
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    assert distributed.launch(wait_for_a_signal, 2, tmp_path) == 2
    sender.join()


@pytest.mark.parametrize("device, message", [("tpu", "must be cuda or cpu")])
def test_unknown_devices_are_refused(device, message):
    with pytest.raises(ValueError, match=message):
        distributed.local_device(device)
