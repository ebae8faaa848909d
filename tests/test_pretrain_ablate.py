"""The papers' ablations: every declared run can be made, and a study runs, stops, goes on and skips."""

import json
import re
import shlex
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from pretrain import ablate
from pretrain import main as pretraining
from pretrain.experiments import EXPERIMENTS, SCALES

PAPERS = [(name, row) for name, experiment in EXPERIMENTS.items() for row in experiment.rows]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name, row", PAPERS, ids=lambda one: one if isinstance(one, str) else one.slug)
def test_each_row_is_a_recipe(name, row, scale):
    arguments = pretraining.parse(["DATA", *row.flags(SCALES[scale])])
    settings = {key: value for key, value in vars(arguments).items() if key in _fields(arguments)}
    pretraining.make_recipe(arguments.preset, **settings)


def _fields(arguments):
    return pretraining.method_named(getattr(arguments, "method", "barlow_twins")).Recipe.__dataclass_fields__


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_rows_differ_in_name_and_in_recipe(name):
    rows = EXPERIMENTS[name].rows
    assert len({row.slug for row in rows}) == len(rows)
    for scale in SCALES.values():
        assert len({tuple(row.flags(scale)) for row in rows}) == len(rows)
    numbers = [row.number for row in rows]
    assert all(number is None for number in numbers) or numbers == sorted(numbers)
    assert bool(EXPERIMENTS[name].varied) == (None not in numbers)


@pytest.mark.parametrize("name", [name for name, one in EXPERIMENTS.items()
                                  if any(row.published for row in one.rows)])
def test_published_rows_exist(name):
    published = json.loads((ablate.ROOT / "results" / "published.json").read_text("utf-8"))
    known = {(entry["row"], entry["metric"]) for entry in published
             if f"{entry['paper']}, {entry['table']}" == EXPERIMENTS[name].table}
    assert {row.published for row in EXPERIMENTS[name].rows} <= known


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Commands leave what the real ones do, and are noted; a training of a row in `bad` fails."""
    noted, bad = [], set()

    def command(script, words):
        noted.append((script, words))
        given = dict(zip(words, words[1:]))
        if script == "pretrain/main.py":
            folder = tmp_path / "output/fig5-cifar10" / given["--checkpoint-dir"].rpartition("/")[2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "stats.txt").write_text("a command\n")
            return 2 if folder.name in bad else 0
        record = tmp_path / "results/fig5-cifar10/records/cifar10_probe" / f"{given['--name']}-12345678"
        record.mkdir(parents=True)
        (record / "hash-s0.json").write_text("{}")
        return 0

    monkeypatch.setattr(ablate, "command", command)
    prepared = pretraining.make_recipe("cifar10"), SimpleNamespace(device="cpu"), 2, True
    monkeypatch.setattr(ablate.pretraining, "prepare", lambda words: prepared)
    return noted, bad


def ablation(tmp_path, *words):
    return ablate.main(["--experiment", "fig5", "--scale", "cifar10", "--results", str(tmp_path / "results"),
                        "--output", str(tmp_path / "output"), *words])


def test_a_study_runs_each_row_and_skips_what_is_done(tmp_path, commands, capsys):
    noted, bad = commands
    bad.add("lambda-0.01")
    assert ablation(tmp_path, "--epochs", "3") == 1  # the rows after the failed one ran
    assert "error: 1 of 5 rows failed, see above: lambda-0.01" in capsys.readouterr().err
    scripts = [script for script, _ in noted]
    assert scripts == ["pretrain/main.py", "transfer/run.py"] * 2 + ["pretrain/main.py"] + [
        "pretrain/main.py", "transfer/run.py"] * 2
    assert all(words[-2:] == ["--epochs", "3"] for script, words in noted if script == "pretrain/main.py")
    assert "resnet18.pth" in shlex.join(noted[1][1])
    assert "--device cpu --num-gpus 2" in shlex.join(noted[1][1])
    noted.clear()
    bad.clear()
    assert ablation(tmp_path, "--epochs", "3") == 0
    assert [script for script, _ in noted] == ["pretrain/main.py", "transfer/run.py"]
    declared = json.loads((tmp_path / "results/fig5-cifar10/experiment.json").read_text())
    assert declared["flags"] == "--epochs 3" and len(declared["rows"]) == 5
    assert len(list((tmp_path / "results/fig5-cifar10").glob("*/stats.txt"))) == 5


@pytest.mark.parametrize("words, message", [
    (["--epochs", "4"], "holds runs with the flags '', found '--epochs 4'"),
    (["--rows", "lambda-3"], "--rows expected some of lambda-0.002.* found 'lambda-3'"),
    (["--experiment", "fig9"], "--experiment expected one of table5.* found 'fig9'"),
    (["--launcher", "slurm"], "--launcher: expected a run on this machine"),
], ids=["other flags", "row", "experiment", "launcher"])
def test_what_cannot_be_run_is_one_line(tmp_path, commands, capsys, words, message):
    assert ablation(tmp_path, "--rows", "lambda-0.01") == 0
    assert ablation(tmp_path, *words) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


def test_a_plan_runs_nothing(tmp_path, commands, capsys):
    assert ablation(tmp_path, "--plan") == 0
    assert not commands[0] and not (tmp_path / "results").exists()
    assert "lambda-0.02: to do\n    python pretrain/main.py datasets/cifar10 --preset cifar10" in \
        capsys.readouterr().out


def test_a_signal_is_handed_to_the_command_that_runs(tmp_path):
    """The real program, whose commands wait for a signal and then end with status 75."""
    script = tmp_path / "program.py"
    script.write_text(f"""
import sys
sys.path.insert(0, {str(ablate.ROOT)!r})
from pretrain import ablate, main
main.prepare = lambda words: (main.make_recipe("cifar10"), None, 1, 1)
ablate.ROOT = ablate.Path({str(tmp_path)!r})
sys.exit(ablate.main(["--experiment", "fig5", "--scale", "cifar10", "--results", "results"]))
""")
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain/main.py").write_text("""
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(75)))
print("training", flush=True)
time.sleep(60)
""")
    program = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    guard = threading.Timer(60, program.kill)
    guard.start()
    for line in program.stdout:
        if line == "training\n":
            break
    program.send_signal(signal.SIGTERM)
    out, err = program.communicate()
    guard.cancel()
    assert (program.returncode, out, err) == (75, "saved\n", "the same command goes on from there\n")
