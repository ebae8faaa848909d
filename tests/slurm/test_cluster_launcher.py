"""--launcher slurm: pretraining over two hosts, requeued once, and then tasks and seeds as an array."""
import os
import re
import shutil
import signal
import subprocess

import pytest
import torch

from tests.slurm.jobs import in_two_processes, processes, steps, wait_until

TWO_HOSTS = ("--launcher", "slurm", "--gpus-per-node", "0", "--nodes", "2")
ONE_HOST = ("--launcher", "slurm", "--gpus-per-node", "0", "--cpus-per-task", "1")


@pytest.fixture(scope="module")
def data(demo_root, tmp_path_factory):
    """A data root with 200 training and 20 validation pictures in imagenet/."""
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 20), ("val", 2)):
        for category in (demo_root / "imagenet" / split).iterdir():
            (root / "imagenet" / split / category.name).mkdir(parents=True)
            for picture in sorted(category.iterdir())[:count]:
                shutil.copy(picture, root / "imagenet" / split / category.name)
    return root


def pretraining(pictures, folder):
    flags = f"""--arch resnet50 --projector 8-8 --image-size 32 --batch-size 4 --epochs 3 --warmup-epochs 1
        --workers 0 --print-freq 1 --no-tensorboard --checkpoint-dir {folder}"""
    return ["pretrain/main.py", str(pictures), *flags.split()]


def transfer(folder, data, *more):
    flags = f"""--task imagenet_knn,imagenet_linear --seeds 2 --weights {folder}/run/resnet50.pth
        --data {data} --output {folder}/out --results {folder}/records --cache {folder}/features
        --workers 0 --smoke"""
    return ["transfer/run.py", *flags.split(), *ONE_HOST, *more]


def test_pretraining_and_the_tasks_that_wait_for_it(cluster, pictures, data, tmp_path):
    """The first job is told to stop, as before its time limit, and ends as if it had been left alone. Of the
    four that depend on it one is killed and tried again, and one finds a folder that is not its own."""
    def says():
        return "\n".join(path.read_text() for path in [*tmp_path.glob("*.txt"), *tmp_path.rglob("*log.out")])

    submitted = cluster.run("python", *pretraining(pictures, tmp_path / "run"), *TWO_HOSTS).stdout
    job = re.search(r": job (\d+), log (\S+)", submitted)
    wait_until(lambda: len(steps(tmp_path / "run")) > 1, says)
    cluster.run("scancel", "--signal=USR1", job[1])
    foreign = tmp_path / "out" / "imagenet_knn-s1" / "mine.txt"
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    with open(tmp_path / "waiting.txt", "w") as file:
        command = transfer(tmp_path, data, "--after", job[1], "--wait")
        waiting = subprocess.Popen(cluster.enter("python", "-u", *command), stdout=file, stderr=file)
    third = ("transfer/run.py", "SLURM_ARRAY_TASK_ID=2")  # imagenet_linear with seed 0
    wait_until(lambda: processes(cluster, *third), says)
    os.kill(*processes(cluster, *third), signal.SIGKILL)

    assert waiting.wait(240) == 1, says()
    text = (tmp_path / "waiting.txt").read_text()
    assert f"asking SLURM to requeue job {job[1]}" in says()
    in_two_processes(*pretraining(pictures, tmp_path / "alone"))
    one, two = (torch.load(tmp_path / name / "resnet50.pth", weights_only=True) for name in ("run", "alone"))
    assert all(torch.equal(one[name], two[name]) for name in two)

    assert "imagenet_linear seed 0: FAILED with exit status 137" in text
    assert "imagenet_linear seed 0: try 2 of 2 is job" in text
    assert re.search(r"imagenet_knn seed 1: failed, FAILED with exit status 2, job \S+; the end of \S+:\n"
                     r"(  \| .*\n)*  \| error: \S+-s1: expected an empty folder or our own run", text), text
    assert text.count(": failed, ") == 1 and "imagenet_linear" in text.partition("Rehearsals")[2]

    foreign.unlink()
    done = cluster.run("python", *transfer(tmp_path, data, "--wait")).stdout
    assert "imagenet_knn         1 stored, 1 to run" in done and "imagenet_linear      2 stored" in done
    assert "imagenet_knn seed 1: COMPLETED" in done and done.count(": job ") == 1
    assert len(list((tmp_path / "records").rglob("*.json"))) >= 4


def test_what_sbatch_says_is_the_error(cluster, pictures, tmp_path):
    command = [*pretraining(pictures, tmp_path / "run"), *TWO_HOSTS, "--partition", "nowhere"]
    done = cluster.run("python", *command, check=False)
    assert (done.returncode, done.stderr) == (
        2, "error: sbatch: error: invalid partition specified: nowhere sbatch: error: Batch job submission "
        "failed: Invalid partition name specified\n")
