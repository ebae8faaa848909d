"""transfer/run.py with a toy task: records, overrides, refusals; and one real task end to end."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from results import protocols, store
from tools.write_protocols import stated
from transfer import execution, tasks, workspace
from transfer import run as command
from transfer.settings import TaskConfig
from transfer.tasks import TASKS, Task
from transfer.weights.backbone import Backbone

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Config(TaskConfig):
    epochs: int = 100
    learning_rate: float = 0.3


def toy_data(config, context):
    if not context.data.is_dir():
        raise FileNotFoundError(f"{context.data}: no such folder")
    return {"name": "toy", "counts": {"train": 4, "val": 2}, "fingerprint": "0123456789abcdef"}


def toy_run(backbone, config, context):
    (context.out / "log.txt").write_text("ran\n")
    if config.learning_rate > 1:
        os.kill(os.getpid(), signal.SIGINT)
    return {"top1": 10.0 * config.learning_rate + context.seed, "top5": 50.0}


def toy_task(monkeypatch, name="toy_linear", data=toy_data, run=toy_run, **changes):
    """A task whose protocol is a module of these functions."""
    monkeypatch.setitem(sys.modules, f"{name}_protocol", SimpleNamespace(Config=Config, data=data, run=run))
    plain = Task(name=name, module=f"{name}_protocol", default=lambda toy: toy.Config(),
                 metrics=("top1", "top5"), paper="Table 0", counts={"train": 4, "val": 2}, version=1,
                 smoke=("epochs", "2"))
    return dataclasses.replace(plain, **changes)


def catalogue(monkeypatch, *found):
    """Let these tasks be all there are, their protocols known to the tables."""
    monkeypatch.setattr(tasks, "TASKS", {task.name: task for task in found})
    known = {task.name: {str(task.version): stated(task)} for task in found}
    monkeypatch.setattr(protocols, "protocols", lambda: {"architectures": {}, "tasks": known})


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Return run(*words) -> exit status, on a toy catalogue and a toy backbone."""
    catalogue(monkeypatch, toy_task(monkeypatch), toy_task(monkeypatch, "toy_other"))
    backbone = Backbone("bt", "torchvision", {"conv1.weight": torch.zeros(1)}, "ab" * 32, "bt.pth")
    monkeypatch.setattr(execution, "read", lambda path, *words, **named: backbone)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()

    def run(*words):
        places = ["--data", "data", "--results", "runs", "--device", "cpu"]
        return command.main(["--weights", "bt.pth", *places, *words])

    return run


def records(root="runs"):
    return store.load(Path(root))[0]


def test_a_paper_run_is_stored_and_skipped_the_second_time(toy, capsys):
    assert toy("--task", "toy_linear") == 0
    (result,) = records()
    assert result.metrics == {"top1": 3.0, "top5": 50.0} and result.scaled == {} and result.seed == 0
    assert result.device["type"] == "cpu" and result.packages["torch"] == version("torch")
    capsys.readouterr()
    assert toy("--task", "toy_linear") == 0
    assert "stored already" in capsys.readouterr().out
    assert len(records()) == 1


def test_an_override_or_another_data_set_makes_it_scaled(toy, monkeypatch):
    assert toy("--task", "toy_linear", "learning_rate", "0.2") == 0
    assert [result.scaled for result in records()] == [{"learning_rate": [0.3, 0.2]}]
    catalogue(monkeypatch, toy_task(monkeypatch, counts={"train": 1_281_167, "val": 50_000}))
    assert toy("--task", "toy_linear", "--smoke") == 0
    assert {"epochs": [100, 2], "data.train": [1_281_167, 4], "data.val": [50_000, 2]} in [
        result.scaled for result in records()]


def test_seeds_write_one_record_each(toy):
    assert toy("--task", "toy_linear", "--seeds", "3") == 0
    found = sorted((result.seed, result.metrics["top1"]) for result in records())
    assert found == [(0, 3.0), (1, 4.0), (2, 5.0)]


def test_interrupted_needs_resume_or_rerun(toy, capsys):
    assert toy("--task", "toy_linear", "--output", "out", "learning_rate", "2") == 130
    assert records() == []
    assert toy("--task", "toy_linear", "--output", "out", "learning_rate", "2") == 2
    assert "--resume continues it, --rerun starts over" in capsys.readouterr().err
    assert toy("--task", "toy_linear", "--output", "out", "--resume") == 2
    assert "run with another config (learning_rate 2.0, here 0.3);" in capsys.readouterr().err
    assert toy("--task", "toy_linear", "--output", "out", "--resume", "learning_rate", "2") == 130


def test_rerun_replaces_the_record_only_when_it_succeeds(toy, monkeypatch):
    assert toy("--task", "toy_linear") == 0
    (before,) = records()

    def failing(backbone, config, context):
        raise ValueError("diverged")

    catalogue(monkeypatch, toy_task(monkeypatch, run=failing))
    assert toy("--task", "toy_linear", "--rerun") == 2
    assert records() == [before]


def test_all_runs_what_it_can_and_names_the_rest(toy, monkeypatch, capsys):
    def no_data(config, context):
        raise FileNotFoundError("data/imagenet: no such folder")

    catalogue(monkeypatch, toy_task(monkeypatch, "toy_other", data=no_data), toy_task(monkeypatch))
    assert toy("--task", "all") == 1
    assert "toy_other: not run: data/imagenet: no such folder\n" == capsys.readouterr().err
    assert [result.task for result in records()] == ["toy_linear"]


def test_check_runs_and_writes_nothing(toy, capsys, tmp_path):
    assert toy("--task", "toy_linear", "--check", "epochs", "7") == 0
    text = capsys.readouterr().out
    assert "scaled  epochs: default 100, here 7" in text and "learning_rate" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize("words, message", [
    (("--task", "toy_linaer"), "unknown task 'toy_linaer'; did you mean toy_linear"),
    (("--task", "toy_linear", "epoch", "3"), "unknown key 'epoch'; did you mean epochs"),
    (("--task", "toy_linear", "--data", "nowhere"), "nowhere: no such folder"),
    (("--task", "all", "epochs", "3"), "belong to one task"),
    (("--task", "toy_linear,voc_dat", "--weights", "random"), "unknown task 'voc_dat'"),
    (("--task", "toy_linear", "--rescale"), "--rescale is for detection"),
    (("--task", "toy_linear", "--eval-only"), "--eval-only is for detection"),
    (("--task", "toy_linear", "--split-file", "x"), "--split-file is for the semi-supervised tasks"),
    (("--task", "all", "--split-file", "x"), "belong to one task"),
    ((), "expected --task NAME and --weights FILE"),
    (("--task", "toy_linear", "--seeds", "0"), "--seeds: expected 1 to 10000, found 0"),
    (("--task", "toy_linear", "--seed", "-1"), "--seed: expected 0 to 2147483647, found -1"),
    (("--task", "toy_linear", "--num-gpus", "0"), "--num-gpus: expected 1 to 4096, found 0"),
    (("--task", "toy_linear", "--workers", "-1"), "--workers: expected 0 to 1024, found -1"),
    (("--task", "toy_linear", "--seed", "3000000000"), "--seed: expected 0 to 2147483647, found 3000000000"),
    (("--task", "toy_linear", "--device", "cuda", "--num-gpus", "99"), "expected 99 GPUs (--num-gpus), "),
])
def test_bad_input_is_one_line_and_status_2(toy, capsys, words, message):
    assert toy(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("words, message", [
    (["--smok"], "unrecognized arguments: --smok; --help shows the flags"),
    (["--seeds", "x"], "argument --seeds: invalid int value: 'x'; --help"),
    (["--seed", "1", "--seeds", "2"], "not allowed with argument --seed"),
])
def test_a_wrong_flag_is_one_line_and_status_2(toy, capsys, words, message):
    with pytest.raises(SystemExit) as end:
        toy("--task", "toy_linear", *words)
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.startswith("error: ") and message in error and error.count("\n") == 1


def test_flags_may_stand_between_the_pairs(toy):
    assert toy("epochs", "7", "--task", "toy_linear", "learning_rate", "0.2", "--seed", "1") == 0
    (result,) = records()
    assert result.config == {"epochs": 7, "learning_rate": 0.2} and result.seed == 1


@pytest.mark.parametrize("variables", [{"RANK": "1"}, {"WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}],
                         ids=str)
def test_half_an_environment_of_processes_is_refused(toy, monkeypatch, capsys, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert toy("--task", "toy_linear") == 2 and records() == []
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "RANK" in error and "WORLD_SIZE" in error


def requeued(monkeypatch, job, restarts):
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))


def test_a_requeued_job_continues_by_itself(toy, monkeypatch, capsys):
    """The same command: whether it continues is known by the job, not by a flag."""
    words = ["--task", "toy_linear", "--output", "out", "learning_rate", "2"]
    requeued(monkeypatch, "7", 0)
    assert toy(*words) == 130 and toy(*words) == 2
    for job, restarts, status in (("8", 1, 2), ("7", 1, 130)):  # another job's folder is not this one's
        requeued(monkeypatch, job, restarts)
        capsys.readouterr()
        assert toy(*words) == status
    assert "started again" in capsys.readouterr().out


@pytest.mark.parametrize("restarts, left", [(0, False), (1, True)], ids=["first start", "requeued"])
def test_a_requeued_rerun_continues_what_it_began(toy, tmp_path, monkeypatch, restarts, left):
    words = ["--task", "toy_linear", "--output", "out", "--rerun"]
    requeued(monkeypatch, "7", 0)
    assert toy(*words) == 0
    (tmp_path / "out" / "checkpoint.pth").touch()
    requeued(monkeypatch, "7", restarts)
    assert toy(*words) == 0
    assert (tmp_path / "out" / "checkpoint.pth").exists() == left


TWO_TASKS = ["--task", "imagenet_linear,imagenet_knn", "--weights", "random", "--smoke", "--device", "cpu",
             "--workers", "0", "--cache", "", "--output", "out", "--results", "runs"]


def test_ranks_refuse_one_task_alike_and_go_on_to_the_next(demo_root, tmp_path):
    """Only rank 0 sees the foreign file; the line is said once, and no rank trains what the other refused."""
    folder = tmp_path / "out" / "imagenet_linear-s0"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("precious")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone",
                           "--nproc-per-node=2", ROOT / "transfer" / "run.py", *TWO_TASKS, "--data",
                           demo_root], cwd=tmp_path, capture_output=True, text=True, timeout=300,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.stderr.count("expected an empty folder") == 1, done.stderr
    assert "imagenet_linear: not run" in done.stderr and done.returncode == 1
    assert [result.task for result in records(tmp_path / "runs")] == ["imagenet_knn"]
    assert (folder / "thesis.tex").read_text() == "precious"


def test_foreign_output_folder_is_left_alone(toy, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    assert toy("--task", "toy_linear", "--output", "mine", "--rerun") == 2
    assert "expected an empty folder" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize("text", ["{", "[]"])
def test_damaged_mark_of_a_folder_is_one_clear_line(toy, tmp_path, capsys, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(text)
    (tmp_path / "out" / "log.txt").write_text("ran\n")
    assert toy("--task", "toy_linear", "--output", "out", "--rerun") == 2
    assert "expected the identity of a run, found it damaged" in capsys.readouterr().err
    assert (tmp_path / "out" / "log.txt").exists()


def test_a_run_refused_before_it_began_leaves_its_folder_free(toy, monkeypatch):
    def refuse(backbone, config, context):
        raise ValueError("batch_size 3 does not divide")

    catalogue(monkeypatch, toy_task(monkeypatch, run=refuse))
    assert toy("--task", "toy_linear", "--output", "out", "epochs", "3") == 2
    catalogue(monkeypatch, toy_task(monkeypatch))
    assert toy("--task", "toy_linear", "--output", "out") == 0


def test_records_that_cannot_be_written_stop_the_run_before_it_begins(toy, tmp_path, capsys):
    (tmp_path / "runs").write_text("a file")
    assert toy("--task", "toy_linear", "--output", "out") == 2
    assert "choose another --results" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["--plan"], []])
def test_records_that_cannot_be_read_do_not_count_as_none(toy, tmp_path, capsys, monkeypatch, words):
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(workspace.os, "access", lambda path, mode: False)
    assert toy("--task", "all", *words) == 2
    assert "runs: expected a folder that can be read, found one without permission" in capsys.readouterr().err


def test_every_task_keeps_the_contract():
    assert list(TASKS) == [task.name for task in TASKS.values()]
    for task in TASKS.values():
        assert callable(task.protocol.run) and callable(task.protocol.data) and task.metrics and task.paper
        paper, smoke = task.config.resolved(), task.config.override(task.smoke).resolved()
        assert json.loads(json.dumps(paper)) == paper, task.name
        assert paper != smoke and set(paper) == set(smoke), task.name
        assert task.own or {"train"} < set(task.counts), task.name


@pytest.mark.parametrize("split, workers", [("trainval", "1"), ("test", "0")])
def test_a_picture_that_cannot_be_read_is_named(demo_root, tmp_path, split, workers):
    shutil.copytree(demo_root / "VOC2007", tmp_path / "data" / "VOC2007")
    shutil.copytree(demo_root / "VOC2012", tmp_path / "data" / "VOC2012")
    names = (tmp_path / "data/VOC2007/ImageSets/Main" / f"{split}.txt").read_text().split()
    for name in names:
        path = tmp_path / "data/VOC2007/JPEGImages" / f"{name}.jpg"
        path.write_bytes(path.read_bytes()[:-300])  # its head, with the size, is there: the check passes
    words = ["--task", "voc_det", "--smoke", "--weights", "random", "--data", str(tmp_path / "data"),
             "--output", str(tmp_path / "out"), "--results", str(tmp_path / "runs"), "--workers", workers,
             "--device", "cpu", "SOLVER.MAX_ITER", "1", "TEST.PRECISE_BN.ENABLED", "False"]
    answer = subprocess.run([sys.executable, str(ROOT / "transfer" / "run.py"), *words], capture_output=True,
                            text=True, cwd=tmp_path)
    assert answer.returncode == 2
    assert "JPEGImages" in answer.stderr and "unreadable image" in answer.stderr, answer.stderr
    assert answer.stderr.count("\n") == 1, answer.stderr


def test_knn_end_to_end_as_a_user_types_it(demo_root, tmp_path):
    words = ["--task", "imagenet_knn", "--smoke", "--weights", "random", "--data", str(demo_root),
             "--output", str(tmp_path / "out"), "--results", str(tmp_path / "runs"), "--workers", "0"]
    answer = subprocess.run([sys.executable, str(ROOT / "transfer" / "run.py"), *words], capture_output=True,
                            text=True, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    (result,) = records(tmp_path / "runs")
    assert result.task == "imagenet_knn" and "data.train" in result.scaled
    assert str(tmp_path / "runs") in answer.stdout
