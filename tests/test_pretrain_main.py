"""The command line: flags, refusals, several processes, interruption."""
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from pretrain import main
from pretrain.methods import METHODS
from pretrain.methods import recipe as make_recipe

SCRIPT = Path(main.__file__)
SMALL = ["--arch", "resnet18", "--projector", "16-16", "--batch-size", "4", "--image-size", "32",
         "--device", "cpu", "--workers", "1", "--print-freq", "1", "--warmup-epochs", "0", "--no-tensorboard"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "train" / "a").mkdir(parents=True)
    for number in range(9):
        cut = load_sample_images().images[0][number * 20:number * 20 + 80, number * 30:number * 30 + 80]
        Image.fromarray(cut).save(folder / "train" / "a" / f"{number}.jpg")
    return folder


@pytest.fixture
def call(monkeypatch, capfd, tmp_path):
    """call(arguments) -> exit status, standard output, standard error of main in this process."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the handlers are for a process of its own
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main.main([str(argument) for argument in arguments])
        return status, *capfd.readouterr()
    return run


def test_defaults_are_the_official_ones():
    """facebookresearch/barlowtwins main.py:25-47."""
    recipe, args = make_recipe(), main.parse(["DATA"])
    assert (args.workers, args.print_freq, args.checkpoint_dir) == (8, 100, Path("checkpoint"))
    assert (recipe.epochs, recipe.batch_size, recipe.projector) == (1000, 2048, "8192-8192-8192")
    assert (recipe.learning_rate_weights, recipe.learning_rate_biases) == (0.2, 0.0048)
    assert (recipe.weight_decay, recipe.lambd, recipe.reference_world_size) == (1e-6, 0.0051, 32)


def test_official_flags_and_presets_reach_the_recipe(pictures):
    flags = ("--workers 3 --epochs 5 --batch-size 4 --learning-rate-weights 0.4 --learning-rate-biases 0.01 "
             "--weight-decay 0 --lambd 0.1 --projector 4-4 --print-freq 7 --checkpoint-dir x --device cpu")
    folder = ["--checkpoint-dir", str(pictures / "x")]
    recipe, run, processes, dry = main.prepare([str(pictures), *flags.split(), *folder])
    assert (run.workers, run.print_freq, run.checkpoint_dir) == (3, 7, pictures / "x")
    assert (processes, dry) == (1, False)
    assert recipe == make_recipe(epochs=5, batch_size=4, learning_rate_weights=0.4, weight_decay=0.0,
                                 lambd=0.1, learning_rate_biases=0.01, projector="4-4", precision="fp32")
    flags = ["--preset", "paper", "--reference-world-size", "actual"]
    paper = main.prepare([str(pictures), *SMALL, *flags, *folder])[0]
    assert (paper.weight_decay, paper.lambd, paper.reference_world_size) == (1.5e-6, 5e-3, "actual")


def test_a_method_has_its_own_flags_and_presets(pictures, call, capfd):
    flags = ["--method", "vicreg", "--preset", "paper", "--cov-coeff", "2"]
    found = main.prepare([str(pictures), *SMALL, *flags, "--checkpoint-dir", str(pictures / "x")])[0]
    assert (found.method, found.sim_coeff, found.std_coeff, found.cov_coeff) == ("vicreg", 25.0, 50.0, 2.0)
    with pytest.raises(SystemExit):
        main.parse([str(pictures), "--method", "vicreg", "--lambd", "1"])
    assert "--lambd" in capfd.readouterr().err
    assert call(pictures, *SMALL, "--method", "nomethod")[0] == 2


@pytest.mark.parametrize("arguments, message", [
    (["--batch-size", 5, "--processes", 2], "--batch-size 5 does not divide by 2 processes; choose"),
    (["--batch-size", 64], "--batch-size 64 is more than the 9 pictures"),
    (["--batch-size", 1], "--batch-size expected at least 2"),
    (["--projector", "8x"], "--projector expected widths joined by dashes, such as 8192-8192-8192, found"),
    (["--arch", "vgg16"], "--arch expected one of resnet18"),
    (["--preset", "papers"], "--preset expected one of code, paper, ablation300, imagenet100, cifar10, "
     "cifar100, "
     "stl10, tiny-imagenet, batch128, batch256, batch512, batch1024, batch2048, batch4096, found 'papers'"),
    (["--accumulate", "2", "--processes", "4"], "--accumulate 2: the batch of 4 does not divide by 4 "),
    (["--keep", "0"], "--keep expected 1 to 1000000, found 0"),
    (["--knn-data", "/dev/null"], "/dev/null: unknown kind of data"),
    (["--online-probe", "/dev/null"], "/dev/null: unknown kind of data"),
    (["--precision", "fp8"], "--precision expected one of fp32, bf16, fp16, found 'fp8'"),
    (["--reference-world-size", "0"], "--reference-world-size expected actual or a number of processes"),
    (["--workers", "-1"], "--workers expected 0 to 1024, found -1"),
    (["--checkpoint-dir", "/dev/null/x"], "--checkpoint-dir /dev/null/x cannot be made"),
], ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "")
def test_mistakes_are_one_line_and_status_2(call, pictures, arguments, message):
    status, out, err = call(pictures, *SMALL, *arguments)
    assert status == 2 and out == "" and err.startswith(f"error: {message}") and err.count("\n") == 1, err


def suggested(err):
    """The words of the command line in an error, without python and its script."""
    (line,) = err.splitlines()
    words = shlex.split(re.search(r"what fits: (.*) \(\d+ steps an epoch", line)[1])
    assert words[:2] == ["python", "pretrain/main.py"]
    return words[2:]


def test_what_fits_a_small_set_is_a_command_that_runs(call, pictures):
    flags = [word for word in SMALL if word not in ("--batch-size", "4")]
    status, _, err = call(pictures, *flags, "--epochs", 1)
    words = suggested(err)
    assert status == 2 and words[-2:] == ["--batch-size", "2"] and "0.0015625 and 3.75e-05 after" in err
    status, out, _ = call(*words)
    assert status == 0 and out.splitlines()[-1].startswith("written: ")


@pytest.mark.parametrize("count, size, flags, words", [
    (1000, 100, "", "--batch-size 128 --epochs 4114 --warmup-epochs 41"),
    (1000, 100, "--processes 6", "--batch-size 192 --epochs 5760 --warmup-epochs 58"),
    (1000, 32, "", "--batch-size 128 --preset cifar10 --epochs 4114 --warmup-epochs 41"),
    (1000, 32, "--preset paper --accumulate 8",
     "--batch-size 128 --accumulate 1 --epochs 4114 --warmup-epochs 41"),
    (2000, 100, "--method simsiam --batch-size 2001 --epochs 9", "--batch-size 256"),
    (100, 100, "--method moco", "--batch-size 16 --group 16 --epochs 4800 --warmup-epochs 0"),
    (3, 100, "--batch-size 4", "--batch-size 2 --epochs 28800 --warmup-epochs 288"),
])
def test_batch_and_epochs_fit_the_number_of_pictures(tmp_path, call, count, size, flags, words):
    np.savez(tmp_path / "own.npz", images=np.zeros((count, size, size, 3), np.uint8))
    start = [str(tmp_path / "own.npz"), *flags.split(), "--device", "cpu"]
    status, _, err = call(*start)
    assert status == 2 and suggested(err) == [*start, *words.split()]
    assert main.prepare([*suggested(err), "--dry-run"])[3]


@pytest.mark.parametrize("name, start", [
    ("/usr/bin/barlow-pretrain", "barlow-pretrain "), ("/usr/bin/pytest", "python pretrain/main.py "),
    ("../suite/pretrain/main.py", "python ../suite/pretrain/main.py ")])
def test_what_fits_is_called_as_the_program_was(pictures, call, monkeypatch, name, start):
    monkeypatch.setattr(sys, "argv", [name])
    assert f"what fits: {start}{pictures}" in call(pictures, "--device", "cpu")[2]


def test_where_no_batch_fits_more_pictures_are_asked_for(tmp_path, call):
    np.savez(tmp_path / "own.npz", images=np.zeros((1, 8, 8, 3), np.uint8))
    assert "the 1 pictures of the data set; give more pictures" in call(tmp_path / "own.npz")[2]


def test_a_missing_data_folder_is_one_line(call, tmp_path):
    status, _, err = call(tmp_path / "nowhere", *SMALL)
    assert status == 2
    assert err.startswith(f"error: {tmp_path}/nowhere: no such file or folder; expected")
    assert err.count("\n") == 1


def test_one_and_two_processes_give_the_same_run(call, pictures, tmp_path):
    """Weights, statistics and figures agree to float32 rounding after two steps; files are as promised."""
    models = []
    for processes in (1, 2):
        folder = tmp_path / f"of-{processes}"
        flags = ["--epochs", 1, "--processes", processes, "--checkpoint-dir", folder]
        status, out, _ = call(pictures, *SMALL, *flags)
        names = ("checkpoint.pth", "resnet18.pth", "stats.txt")
        assert status == 0
        assert out.splitlines()[-1] == "written: " + ", ".join(f"{folder}/{name}" for name in names)
        models.append(torch.load(folder / "checkpoint.pth", weights_only=True)["model"])
    one, two = models
    for name, value in one.items():
        assert torch.allclose(value.double(), two[name].double(), rtol=1e-3, atol=1e-4), name
    lines = [(tmp_path / f"of-{n}" / "stats.txt").read_text().splitlines() for n in (1, 2)]
    assert lines[0][0].startswith(f"pretrain/main.py {pictures} --arch resnet18")
    for a, b in zip(lines[0][1:], lines[1][1:], strict=True):
        a, b = json.loads(a), json.loads(b)
        assert set(a) == set(b) and {"epoch", "step", "lr_weights", "lr_biases", "loss", "time"} <= set(a)
        assert a["step"] == b["step"] and a["loss"] == pytest.approx(b["loss"], rel=1e-3)


def test_a_dry_run_dies_of_a_stop_signal(pictures, tmp_path, monkeypatch):
    """It has nothing to save, so nobody would look at a signal that is only noted."""
    seen = []
    monkeypatch.setattr(main.dryrun, "report", lambda *_: seen.append(signal.getsignal(signal.SIGTERM)))
    before = signal.getsignal(signal.SIGTERM)
    assert main.main([str(pictures), *SMALL, "--dry-run"]) == 0
    assert seen == [signal.SIG_DFL] and signal.getsignal(signal.SIGTERM) == before


def test_dry_run_tells_what_a_run_costs_and_writes_nothing(call, pictures, tmp_path):
    folder = tmp_path / "nothing"
    flags = ["--dry-run", "--checkpoint-dir", folder, "--epochs", "100", "--accumulate", "2",
             "--weight-decay", "0.5", "--learning-rate-weights", "64"]
    status, out, err = call(pictures, *SMALL, *flags)
    assert status == 0 and not folder.exists() and not list(tmp_path.iterdir()), err
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    assert "weight_decay 0.5" in lines["recipe"] and "blur 1.0,0.1" in lines["recipe"]
    assert lines["learning rates after 0 epochs of warm-up"].startswith("weights 1, biases 7.5e-05 on 1/32")
    assert lines["network"].startswith("11.18 million parameters")
    assert lines["data"].startswith("9 images, 2 steps an epoch of 4 images, 4 in each of 1 processes, 2 mic")
    assert list(lines).index("measured now") == 5 and len(lines) == 8  # what is known comes before
    assert "GiB at most in each process" in lines["forecast for 1 processes"]
    assert float(lines["memory"].split()[0]) > 0.1
    seconds = float(lines["time"].split()[0])
    assert seconds > 0 and "for all 100" in lines["time"]


@pytest.mark.parametrize("number, processes, status, word", [
    (signal.SIGINT, 1, 130, "interrupted"),
    (signal.SIGTERM, 2, 75, "stopped by SIGTERM"),
], ids=["ctrl-c", "sigterm, two processes"])
def test_interrupted_leaves_a_checkpoint_and_says_so(pictures, tmp_path, number, processes, status, word):
    command = [sys.executable, SCRIPT, pictures, *SMALL, "--epochs", "500", "--processes", processes,
               "--checkpoint-dir", tmp_path]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    # A shell's background job, such as a test run may be, ignores Ctrl-C and hands that on.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    run = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                           text=True, start_new_session=True, cwd=tmp_path, env=environment, preexec_fn=heed)
    try:
        path, deadline = tmp_path / "checkpoint.pth", time.monotonic() + 90
        while not path.exists() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(run.pid, number)  # as a terminal and SLURM do: to every process, loader workers, too
        _, err = run.communicate(timeout=60)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == status, err
    assert err.count("\n") == 1, err
    assert err.startswith(f"{word}; the last good checkpoint is {path} with"), err
    state = torch.load(path, weights_only=True)
    assert state["epoch"] >= 1
    if number != signal.SIGINT:
        lines = (tmp_path / "stats.txt").read_text().splitlines()
        assert json.loads(lines[-1])["step"] == state["step"] - 1  # every step that was done is saved
    with pytest.raises(ProcessLookupError):  # nobody is left; loader workers look for their parent every 5 s
        for _ in range(150):
            os.killpg(run.pid, 0)
            time.sleep(0.1)


def test_a_job_script_is_planned_and_nothing_written(pictures, call, tmp_path):
    status, out, err = call(pictures, *SMALL, "--launcher", "slurm", "--nodes", "2", "--gpus-per-node", "0",
                            "--time", "1:00:00", "--checkpoint-dir", "bt", "--device-memory", "0.1",
                            "--plan")
    assert (status, err) == (0, "")
    assert re.match(r"# forecast for 2 processes: \S+ TFLOP a step, 0.\d\d GiB .* 0.1 GiB has no safe", out)
    assert "#SBATCH --nodes=2\n" in out and "#SBATCH --job-name=pretrain-bt\n" in out
    assert f"--output {tmp_path}/bt/slurm/%j_%t_log.out --cpus-per-task=2 " in out
    assert out.splitlines()[-1].startswith(f"# task becomes: python {SCRIPT} --device cpu {pictures} --arch")
    assert "--plan" not in out and "--launcher" not in out and not list(tmp_path.iterdir())


@pytest.mark.parametrize("words, message", [
    (["--plan"], "--plan: expected --launcher slurm with it, found none; --dry-run measures a run"),
    (["--launcher", "slurm", "--gpus-per-node", "3"], "--batch-size 4 does not divide by 3 processes"),
    (["--launcher", "slurm", "--gpus-per-node", "0"], "sbatch"),
], ids=["plan", "batch", "sbatch"])
def test_what_cannot_be_submitted_is_refused_here(pictures, call, words, message):
    """The last reaches the command sbatch of the tests, which fails."""
    status, _, err = call(pictures, *SMALL, *words)
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_the_list_has_every_method_and_preset(capsys):
    with pytest.raises(SystemExit) as end:
        main.main(["--list"])
    out = capsys.readouterr().out
    shown = {tuple(line.split()[:2]) for line in out.splitlines()}
    assert end.value.code == 0
    assert shown >= {(name, preset) for name, method in METHODS.items() for preset in method.PRESETS}
    # two ResNet-50 of 23.51 million, predictor, and projectors and batch norms' statistics in both
    assert re.search(r"^byol +code .* 35\.1 +68\.2 +74\.4 \(.*byol/README.md\)$", out, re.M)
    assert re.search(r"^hsic +code .* -$", out, re.M)


def test_the_list_of_one_method_has_its_cost(capsys):
    with pytest.raises(SystemExit):
        main.main(["--list", "supervised"])
    out = capsys.readouterr().out
    assert re.search(r"^supervised +code .* 8\.18 +76\.1 ", out, re.M) and "byol" not in out
