"""What SLURM says of a process."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from parallel.slurm import adopt_slurm, first_node, started_again, this_job

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("nodes, first", [
    ("gpu7", "gpu7"), ("gpu[003-010,12],cpu7", "gpu003"), ("n[1,5]", "n1"), ("a-b.c,d", "a-b.c"),
    ("rack[1-2]-gpu[04-07]", "rack1-gpu04"), ("localhost", "localhost"),
])
def test_first_node_of_slurms_list(nodes, first):
    assert first_node(nodes) == first


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
    adopt_slurm()
    found = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    assert found == wanted


def test_a_step_of_slurm_joins_without_torchrun():
    code = "import sys; sys.path[0] = '.'; import tests.test_parallel_launch as t; t.say()"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2",
                    "SLURM_STEP_NODELIST": "localhost"}
    tasks = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                              env=environment | {"SLURM_PROCID": number, "SLURM_LOCALID": number})
             for number in "01"]
    assert [task.communicate(timeout=120)[0].strip() for task in tasks] == ["rank 0 of 2", "rank 1 of 2"]


@pytest.mark.parametrize("first, then, again", [
    ({}, {}, False),
    ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "7"}, False),  # the same command twice in one allocation
    ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}, True),
    ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "8", "SLURM_RESTART_COUNT": "1"}, False),
    ({"TORCHELASTIC_RUN_ID": "bt"}, {"TORCHELASTIC_RUN_ID": "bt"}, True),  # a lost agent, given again
    ({"TORCHELASTIC_RUN_ID": "none"}, {"TORCHELASTIC_RUN_ID": "none"}, True),  # the same agent
    ({"TORCHELASTIC_RUN_ID": "none"}, {"TORCHELASTIC_RUN_ID": "none", "agent": "2"}, False),
    ({}, {"TORCHELASTIC_RUN_ID": "bt"}, False),
], ids=["no job", "twice in a job", "requeued", "another job", "run id", "agent", "another agent", "new"])
def test_a_job_knows_its_earlier_start(monkeypatch, first, then, again):
    found = []
    for variables in (first, then):
        with monkeypatch.context() as patch:
            patch.setattr(os, "getppid", lambda: int(variables.get("agent", 1)))
            for name, value in variables.items():
                patch.setenv(name, value)
            found.append((this_job(), started_again(found[0][0]) if found else None))
    assert found[1][1] == again and not started_again(None)
