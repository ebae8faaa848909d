"""Runs over two hosts that are stopped, killed or cut off, and end as the run left alone, bit for bit."""
import os
import re
import signal
import time

import pytest
import torch

from tests.slurm.jobs import Job, assert_same_run, pretrain, processes, steps, wait_until

SRUN = ["srun", "--kill-on-bad-exit", "python"]
TIMEOUT = 10  # seconds without a sign of life


def started(cluster, pictures, folder, *options):
    """A job that pretrains on both hosts and has made some steps; the rest of it takes ten seconds."""
    job = Job(cluster, folder, [*SRUN, *pretrain(pictures, folder)], *options, TOY_SECONDS=0.2,
              BARLOW_TIMEOUT_SECONDS=TIMEOUT)
    wait_until(lambda: len(steps(folder)) > 10, job.says)
    return job


def go_on(cluster, pictures, folder, *options):
    """The same command a second time."""
    Job(cluster, folder, [*SRUN, *pretrain(pictures, folder)], *options).wait()


def rank(cluster, job, number):
    """The process of a rank that srun started."""
    [pid] = processes(cluster, "toy_main.py", f"SLURM_JOB_ID={job.number}", "SLURM_STEP_ID=0",
                      f"SLURM_PROCID={number}")
    return pid


def seconds_until(job, pattern, noticed):
    """Wait until a job says something, and keep when and what for the end of the tests' output."""
    seconds = wait_until(lambda: re.search(pattern, job.says()), job.says)
    noticed(f"after {seconds:.0f} s: {re.search(f'.*{pattern}.*', job.says())[0]}")
    return seconds


def test_requeued(cluster, pictures, alone, tmp_path):
    job = started(cluster, pictures, tmp_path, "--requeue")
    cluster.run("scontrol", "requeue", job.number)
    job.wait()
    assert job.shows("Restarts") == "1"
    assert_same_run(tmp_path, alone)


def test_the_time_limit_comes_near(cluster, pictures, alone, tmp_path):
    """SLURM looks at limits twice a minute and sends early: here after 20 to 50 seconds."""
    job = Job(cluster, tmp_path, [*SRUN, *pretrain(pictures, tmp_path)], "--requeue", "--time=1",
              "--signal=USR1@10", TOY_SECONDS=1)
    job.wait()
    assert f"asking SLURM to requeue job {job.number}" in job.says(), job.says()
    assert job.shows("Restarts") == "1"
    assert_same_run(tmp_path, alone)


@pytest.mark.parametrize("number", [0, 1])
def test_one_rank_is_killed(cluster, pictures, alone, tmp_path, noticed, number):
    job = started(cluster, pictures, tmp_path)
    os.kill(rank(cluster, job, number), signal.SIGKILL)
    seconds = seconds_until(job, f"task {number}: Killed", noticed)
    job.wait("FAILED")
    assert seconds < 30
    go_on(cluster, pictures, tmp_path)
    assert_same_run(tmp_path, alone)


def test_one_rank_stops_answering(cluster, pictures, alone, tmp_path, noticed):
    job = started(cluster, pictures, tmp_path)
    os.kill(rank(cluster, job, 1), signal.SIGSTOP)
    seconds = seconds_until(job, r"process 1 of 2 \(host node2\) has not answered", noticed)
    assert TIMEOUT <= seconds < TIMEOUT + 20
    job.wait("FAILED")
    go_on(cluster, pictures, tmp_path)
    assert_same_run(tmp_path, alone)


def test_one_host_is_cut_off_and_comes_back(cluster, pictures, alone, tmp_path, noticed):
    """SLURM takes a silent host for down and gives the job a new start, for which the host is there again."""
    job = started(cluster, pictures, tmp_path, "--requeue")
    cluster.cable("node2", "down")
    begun = time.monotonic()
    try:
        seconds_until(job, r"process 1 of 2 \(host node2\) has not answered", noticed)
        wait_until(lambda: "down" in cluster.run("sinfo", "--nodes=node2", "--format=%T").stdout, job.says)
        noticed(f"SLURM took the host for down after {time.monotonic() - begun:.0f} s")
    finally:
        cluster.cable("node2", "up")
    job.wait()
    assert_same_run(tmp_path, alone)


def test_one_host_is_lost_and_the_other_goes_on(cluster, pictures, alone, tmp_path, noticed):
    """Another number of processes: equal to rounding."""
    job = started(cluster, pictures, tmp_path, "--no-requeue")
    cluster.signal_host("node2", "KILL")
    try:
        seconds_until(job, r"process 1 of 2 \(host node2\)", noticed)
        cluster.run("scancel", job.number)
        go_on(cluster, pictures, tmp_path, "--nodes=1")
    finally:
        cluster.start_host("node2")
    ours, theirs = (torch.load(folder / "checkpoint.pth")["model"] for folder in (tmp_path, alone))
    for name, value in theirs.items():
        assert torch.allclose(value.double(), ours[name].double(), rtol=1e-3, atol=1e-4), name


def test_torchrun_loses_a_worker_and_then_an_agent(cluster, pictures, alone, tmp_path, noticed):
    """--max-restarts brings workers back; a lost agent comes back when its command is given again.

    Not with torchrun's default, a store that lasts for all rounds, whose address a new agent is not told
    (docs/cluster.md).
    """
    def agent(host):
        torchrun = """torchrun --nnodes=2 --nproc-per-node=1 --max-restarts=3 --rdzv-backend=c10d
            --rdzv-endpoint=node1:29500 --rdzv-id=toy""".split()
        (tmp_path / host).mkdir(exist_ok=True)
        return Job(cluster, tmp_path / host, [*torchrun, *pretrain(pictures, tmp_path)], "--nodes=1",
                   f"--nodelist={host}", TOY_SECONDS=0.2, BARLOW_TIMEOUT_SECONDS=TIMEOUT,
                   TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1)

    def worker(rank, *before):
        """The process of a rank, when it is not one of those and the run is going on."""
        wait_until(lambda: set(processes(cluster, "toy_main.py", f"RANK={rank}")) - set(before), one.says)
        wait_until(lambda: len(steps(tmp_path)) > 10 * (1 + len(before)), one.says)
        return processes(cluster, "toy_main.py", f"RANK={rank}")[0]
    one, two = agent("node1"), agent("node2")
    first = worker(1)
    os.kill(first, signal.SIGKILL)
    begun = time.monotonic()
    worker(1, first)
    noticed(f"new workers had made ten steps {time.monotonic() - begun:.0f} s after one was killed")
    [lost] = processes(cluster, "--max-restarts", f"SLURM_JOB_ID={two.number}")
    os.kill(lost, signal.SIGKILL)
    two.wait("FAILED")
    agent("node2").wait()
    one.wait()
    assert_same_run(tmp_path, alone)
