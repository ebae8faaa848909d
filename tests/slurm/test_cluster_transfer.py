"""Transfer tasks on two hosts of a SLURM: after a pretraining, in arrays, started again, refused."""
import json
import os
import shlex
import subprocess
import sys

import pytest
import torch

from tests.classification_toys import backbone
from tests.slurm.jobs import ROOT, Job, assert_same_tensors, pretrain, wait_until


@pytest.fixture
def command(demo_root, tmp_path):
    """command(task, weights, folder name, ...) -> its words, without `python`."""
    def words(task, weights, name, *more):
        folder = tmp_path / name
        return [str(word) for word in (
            "transfer/run.py", "--task", task, "--smoke", "--weights", weights, "--device", "cpu",
            "--data", demo_root, "--workers", 0, "--output", folder / "output" / task,
            "--results", folder / "runs", "--cache", folder / "features", *more)]
    return words


def on_one_machine(words):
    """Run a command in two processes of this machine."""
    subprocess.run([sys.executable, *words, "--num-gpus", "2"], cwd=ROOT, check=True,
                   env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def figures(folder):
    """The metrics of the records in a folder, by task."""
    records = [json.loads(path.read_text()) for path in (folder / "runs").glob("*/*/*.json")]
    return {record["task"]: record["metrics"] for record in records}


def test_an_array_of_tasks_after_a_pretraining_one_of_them_requeued(cluster, pictures, command, tmp_path):
    """The figures are those of one machine, and the task that was stopped goes on by itself."""
    for name in ("before", "array"):
        (tmp_path / name).mkdir()
    before = Job(cluster, tmp_path / "before", ["srun", "python", *pretrain(
        pictures, tmp_path / "before", "--arch", "resnet50", "--epochs", 1, main="pretrain/main.py")])
    weights = tmp_path / "before" / "resnet50.pth"
    # A rate at which this network's features, hardly trained, do not diverge.
    tasks = {"imagenet_linear": ("learning_rate", 0.001, "epochs", 4), "imagenet_knn": ()}
    cases = [shlex.join(["srun", "python", *command(task, weights, "array", *more)])
             for task, more in tasks.items()]
    script = f"case $SLURM_ARRAY_TASK_ID in 0) {cases[0]};; 1) {cases[1]};; esac"
    array = Job(cluster, tmp_path / "array", script, "--array=0-1", f"--dependency=afterok:{before.number}",
                "--requeue")
    assert array.shows("Dependency") == f"afterok:{before.number}(unfulfilled)"
    wait_until(lambda: '"epoch": 1' in array.prints(), array.prints)
    cluster.run("scontrol", "requeue", f"{array.number}_0")
    for element in ("_0", "_1"):
        array.wait(element=element)
    assert before.shows("JobState") == "COMPLETED"
    assert "imagenet_linear seed 0: the job was started again" in array.says(), array.says()
    assert array.prints().count('"epoch": 1') == 1  # it went on after it
    for task, more in tasks.items():
        on_one_machine(command(task, weights, "alone", *more))
    assert figures(tmp_path / "array") == figures(tmp_path / "alone")


def test_detectron2_counts_processes_by_host(cluster, tmp_path):
    """Its local rank is that of the GPU to use."""
    code = """
from parallel.groups import joined
from transfer.detection import d2
from detectron2.utils import comm
with joined():
    d2.join_processes()
    print(f"rank {comm.get_rank()} is local {comm.get_local_rank()} of {comm.get_local_size()}", flush=True)
"""
    job = Job(cluster, tmp_path, ["srun", "python", "-c", code], "--ntasks-per-node=2")
    job.wait()
    found = sorted(line for line in job.says().splitlines() if line.startswith("rank"))
    assert found == [f"rank {rank} is local {rank % 2} of 2" for rank in range(4)]


def test_a_detector_on_two_hosts(cluster, command, tmp_path):
    weights = tmp_path / "toy.pth"
    torch.save(backbone().state, weights)
    Job(cluster, tmp_path, ["srun", "python", *command("voc_det", weights, "hosts")]).wait()
    on_one_machine(command("voc_det", weights, "alone"))
    assert figures(tmp_path / "hosts") == figures(tmp_path / "alone")
    assert_same_tensors(*(tmp_path / name / "output" / "voc_det" / "model_final.pth"
                          for name in ("hosts", "alone")))


def test_a_refusal_is_said_once_and_ends_all_processes(cluster, command, tmp_path, noticed):
    """A file that is not ours in the output folder."""
    words = command("imagenet_knn", "random", "hosts")
    foreign = tmp_path / "hosts" / "output" / "imagenet_knn" / "thesis.txt"
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    job = Job(cluster, tmp_path, ["srun", "python", *words])
    wait_until(lambda: "error: " in job.says(), job.says)
    seconds = wait_until(lambda: job.shows("JobState") not in ("RUNNING", "COMPLETING"), job.says)
    noticed(f"all processes had left {seconds:.0f} s after the refusal")
    job.wait("FAILED")
    assert job.shows("ExitCode") == "2:0" and seconds < 10
    said = [line for line in job.says().splitlines() if line.startswith("error:")]
    assert len(said) == 1 and str(foreign.parent) in said[0], job.says()
    assert foreign.exists()
