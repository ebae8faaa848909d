"""Runs over two hosts that are stopped, killed or cut off, and end as the run left alone, bit for bit."""
import os
import re
import signal

import pytest
import torch

from tests.slurm.jobs import Job, assert_same_run, pretrain, processes, steps, wait_until

SRUN = ["srun", "--kill-on-bad-exit", "python"]
SLOW = "TOY_SECONDS=0.2"  # 60 steps take 12 s
SOON = "BARLOW_TIMEOUT_SECONDS=10"


def started(cluster, pictures, folder, *options, seconds=0.2):
    """A job that pretrains on both hosts and has made some steps."""
    command = ["env", f"TOY_SECONDS={seconds}", SOON, *SRUN, *pretrain(pictures, folder)]
    job = Job(cluster, folder, command, *options)
    wait_until(lambda: len(steps(folder)) > 10, job.says)
    return job


def again(cluster, pictures, folder):
    """The same command a second time, without haste of ours."""
    Job(cluster, folder, [*SRUN, *pretrain(pictures, folder)]).wait()


def test_requeued(cluster, pictures, alone, tmp_path):
    job = started(cluster, pictures, tmp_path, "--requeue")
    cluster.run("scontrol", "requeue", job.number)
    job.wait()
    assert job.shows("Restarts") == "1"
    assert_same_run(tmp_path, alone)


def test_one_rank_is_killed(cluster, pictures, alone, tmp_path):
    job = started(cluster, pictures, tmp_path)
    [pid] = processes(cluster, "toy_main.py", "SLURM_PROCID=1")
    os.kill(pid, signal.SIGKILL)
    seconds = wait_until(lambda: job.shows("JobState") == "FAILED", job.says)
    assert seconds < 30, job.says()
    again(cluster, pictures, tmp_path)
    assert_same_run(tmp_path, alone)


def test_one_rank_stops_answering(cluster, pictures, alone, tmp_path):
    job = started(cluster, pictures, tmp_path)
    [pid] = processes(cluster, "toy_main.py", "SLURM_PROCID=1")
    os.kill(pid, signal.SIGSTOP)
    seconds = wait_until(lambda: "error" in job.says(), job.says)
    print(seconds, job.says())
    assert seconds < 30 and re.search(r"process 1 of 2 on node2", job.says()), job.says()
    wait_until(lambda: job.shows("JobState") == "FAILED", job.says)
    again(cluster, pictures, tmp_path)
    assert_same_run(tmp_path, alone)


def test_the_time_limit_comes_near(cluster, pictures, alone, tmp_path):
    """SLURM looks at limits twice a minute, so the signal comes within the first 40 seconds."""
    job = started(cluster, pictures, tmp_path, "--requeue", "--time=1", "--signal=USR1@50", seconds=1)
    job.wait()
    assert "was requeued" in job.says() and job.shows("Restarts") == "1", job.says()
    assert_same_run(tmp_path, alone)


def test_one_host_is_lost_and_comes_back(cluster, pictures, alone, tmp_path):
    job = started(cluster, pictures, tmp_path, "--requeue")
    cluster.signal_host("node2", "KILL")
    seconds = wait_until(lambda: "error" in job.says(), job.says)
    cluster.start_host("node2")
    print(seconds, job.says())
    job.wait()
    assert_same_run(tmp_path, alone)


def test_one_host_is_cut_off_and_comes_back(cluster, pictures, alone, tmp_path):
    job = started(cluster, pictures, tmp_path, "--requeue")
    cluster.cable("node2", "down")
    seconds = wait_until(lambda: "error" in job.says(), job.says)
    print(seconds, job.says())
    cluster.cable("node2", "up")
    job.wait()
    assert_same_run(tmp_path, alone)
