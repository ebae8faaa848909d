"""The flags of --launcher slurm, and the job script that follows from them."""
import argparse

import pytest

from parallel import jobs, launcher


@pytest.mark.parametrize("text, wanted", [
    ("90", 90), ("90:30", 91), ("1:30:00", 90), ("0:00:01", 1), ("2-0", 2880), ("1-02:03", 1563),
    ("1-02:03:00", 1563), ("0-0:0:61", 2)])
def test_times_are_read_as_sbatch_reads_them(text, wanted):
    """man sbatch, --time."""
    assert launcher.minutes(text) == wanted


@pytest.mark.parametrize("text", ["", "soon", "1h", "1-", "1:2:3:4", "-5"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected minutes, HH:MM:SS or D-HH:MM"):
        launcher.minutes(text)


def test_everything_else_stays_in_its_order():
    words = "--weights bt.pth --nodes 2 --launcher slurm learning_rate 0.1 --sbatch mem=8G --seeds 3".split()
    cluster, rest = launcher.split([*words, "--time", "7"])
    assert rest == "--weights bt.pth learning_rate 0.1 --seeds 3".split()
    assert (cluster.nodes, cluster.tasks, cluster.device, cluster.sbatch) == (2, 2, "cuda", ["mem=8G"])


@pytest.mark.parametrize("words, tasks, device", [
    ("", 1, "cuda"), ("--nodes 4 --gpus-per-node 8", 32, "cuda"), ("--gpus-per-node 0", 1, "cpu"),
    ("--gpus-per-node 0 --nodes 2 --tasks-per-node 3", 6, "cpu")])
def test_processes_and_device_follow_from_the_gpus(words, tasks, device):
    cluster, _ = launcher.split(["--launcher", "slurm", *words.split()])
    assert (cluster.tasks, cluster.device) == (tasks, device)


@pytest.mark.parametrize("words, message", [
    ("--partition gpu", "--partition: expected --launcher slurm with it, found none"),
    ("--no-requeue", "--requeue: expected --launcher slurm with it, found none"),
    ("--launcher slurm --time 6", "--time: expected at least 7 min, so that a run gets somewhere before it "
     "is told to save itself (--signal-seconds 300), found 6")])
def test_flags_that_do_not_fit_are_refused(words, message):
    with pytest.raises(ValueError) as error:
        launcher.split(words.split())
    assert str(error.value) == message


def test_one_process_submits(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    launcher.split([])
    with pytest.raises(ValueError, match="call it without torchrun and srun"):
        launcher.split(["--launcher", "slurm"])


def script(words, tmp_path, cells=1):
    cluster, _ = launcher.split(["--launcher", "slurm", *words.split()])
    executor = jobs.make_executor(cluster, tmp_path, "pretrain-bt", workers=4)
    text = jobs.script([jobs.Cell(f"cell {number}", ["main.py", str(number)], []) for number in range(cells)],
                       executor)
    return [line for line in text.splitlines() if line and "output" not in line]


def test_the_script_of_a_job(tmp_path):
    assert script("--partition gpu --account vision --qos long --constraint h100 --nodes 4 --gpus-per-node 8 "
                  "--time 2-00:00 --after 12,13 --sbatch mem=64G --sbatch exclusive", tmp_path) == [
        "#!/bin/bash", "# Parameters", "#SBATCH --account=vision", "#SBATCH --constraint=h100",
        "#SBATCH --cpus-per-task=5", "#SBATCH --dependency=afterok:12:13", "#SBATCH --exclusive",
        "#SBATCH --gpus-per-node=8", "#SBATCH --job-name=pretrain-bt", "#SBATCH --kill-on-invalid-dep=yes",
        "#SBATCH --mem=64G", "#SBATCH --nodes=4", "#SBATCH --ntasks-per-node=8", "#SBATCH --open-mode=append",
        "#SBATCH --partition=gpu", "#SBATCH --qos=long", "#SBATCH --requeue", "#SBATCH --signal=USR1@300",
        "#SBATCH --time=2880", "#SBATCH --wckey=submitit", "# command", "export SUBMITIT_EXECUTOR=slurm",
        "# task becomes: python main.py 0"]


def test_the_script_of_an_array_on_cpus(tmp_path):
    lines = script("--gpus-per-node 0 --tasks-per-node 2 --cpus-per-task 3 --signal-seconds 60 --no-requeue "
                   "--sbatch mem=4G", tmp_path, cells=2)
    assert "#SBATCH --mem=4G" in lines and "#SBATCH --no-requeue" in lines
    assert "#SBATCH --ntasks-per-node=2" in lines and "#SBATCH --cpus-per-task=3" in lines
    assert "#SBATCH --signal=USR1@60" in lines and not any("gpus" in line or "time" in line for line in lines)
    assert lines[-2:] == ["# task 0 of the array becomes: python main.py 0",
                          "# task 1 of the array becomes: python main.py 1"]


def test_the_logs_and_the_tasks_cpus_are_in_the_script(tmp_path):
    cluster, _ = launcher.split(["--launcher", "slurm"])
    executor = jobs.make_executor(cluster, tmp_path / "run", "name", workers=4)
    text = jobs.script([jobs.Cell("cell", ["main.py"], [])], executor)
    assert f"#SBATCH --output={tmp_path}/run/slurm/%j_0_log.out" in text
    assert f"srun --unbuffered --output {tmp_path}/run/slurm/%j_%t_log.out --cpus-per-task=5 " in text
