"""transfer/run.py --launcher slurm: which cells are submitted, as which commands; no scheduler is called."""
from pathlib import Path

import pytest

from parallel import jobs
from tests.test_run import catalogue, toy, toy_task  # noqa: F401 (a fixture)
from transfer import execution
from transfer import run as command

SCRIPT = str(Path(command.__file__).resolve())
SLURM = ("--launcher", "slurm", "--gpus-per-node", "0")


@pytest.fixture
def submitted(monkeypatch):
    """What reached parallel/jobs.py: its arguments, a dict of one call."""
    seen = {}

    def run(cells, cluster, folder, name, workers, plan):
        seen.update(cells=cells, cluster=cluster, folder=folder, name=name, workers=workers, plan=plan)
        return 0
    monkeypatch.setattr(jobs, "run", run)
    return seen


def test_every_task_and_seed_without_a_record_is_a_cell(toy, submitted, capsys):  # noqa: F811
    assert toy("--task", "toy_linear", "--seeds", "2") == 0
    assert toy("--task", "all", "--seeds", "3", "--partition", "gpu", *SLURM) == 0
    assert [cell.name for cell in submitted["cells"]] == ["toy_linear seed 2", *(f"toy_other seed {seed}"
                                                                             for seed in range(3))]
    assert submitted["cells"][0].command == [
        SCRIPT, "--task", "toy_linear", "--seed", "2", "--device", "cpu", "--weights", "bt.pth",
        "--data", "data", "--results", "runs"]
    assert submitted["cells"][0].again == [*submitted["cells"][0].command[:7], "--resume",
                                          *submitted["cells"][0].command[7:]]
    assert (submitted["folder"], submitted["name"], submitted["plan"]) == (Path("output"), "transfer", False)
    assert "toy_linear           2 stored, 1 to run" in capsys.readouterr().out


def test_the_rest_of_the_command_line_reaches_the_job(toy, submitted):  # noqa: F811
    assert toy("--task", "toy_linear", "learning_rate", "0.1", "--rerun", "--output", "out/mine", "--smoke",
               "--plan", "--seed", "4", *SLURM) == 0
    (cell,) = submitted["cells"]
    assert cell.command[1:9] == ["--task", "toy_linear", "--seed", "4", "--device", "cpu",
                                 "--output", "out/mine"]
    assert [word for word in cell.command if word in ("learning_rate", "0.1", "--rerun", "--smoke", "--plan",
                                                      "--launcher")] == [
        "learning_rate", "0.1", "--rerun", "--smoke"]
    assert cell.again == cell.command  # which starts over by itself
    assert submitted["plan"] and submitted["folder"] == Path("out")  # no run's folder holds a job's files


def test_cells_of_several_seeds_have_folders_of_their_own(toy, submitted):  # noqa: F811
    assert toy("--task", "toy_linear", "--seeds", "2", "--output", "out", *SLURM) == 0
    assert [cell.command[8] for cell in submitted["cells"]] == ["out/toy_linear-s0", "out/toy_linear-s1"]
    assert submitted["folder"] == Path("out")


def test_weights_that_another_job_makes_need_not_be_there(toy, submitted, monkeypatch):  # noqa: F811
    assert toy("--task", "toy_linear", "--seeds", "2") == 0

    def no_file(*_):
        raise FileNotFoundError("bt.pth: no such file")
    monkeypatch.setattr(execution, "read", no_file)
    assert toy("--task", "toy_linear", "--seeds", "2", *SLURM) == 2
    assert toy("--task", "toy_linear", "--seeds", "2", "--after", "12", *SLURM) == 0
    assert len(submitted["cells"]) == 2 and submitted["cluster"].after == "12"


def test_nothing_is_submitted_when_all_is_stored(toy, submitted, capsys):  # noqa: F811
    assert toy("--task", "toy_linear") == 0
    capsys.readouterr()
    assert toy("--task", "toy_linear", *SLURM) == 0
    assert not submitted and "without a published figure here" in capsys.readouterr().out
    assert toy("--task", "toy_linear", "--rerun", *SLURM) == 0 and len(submitted["cells"]) == 1


def test_a_task_that_cannot_run_is_named_and_the_others_go(toy, submitted, monkeypatch, capsys):  # noqa: F811
    def no_data(config, context):
        raise FileNotFoundError("data/imagenet: no such folder")
    catalogue(monkeypatch, toy_task(monkeypatch), toy_task(monkeypatch, "toy_other", data=no_data))
    assert toy("--task", "all", *SLURM) == 1
    assert "toy_other: not submitted: data/imagenet: no such folder" in capsys.readouterr().err
    assert [cell.name for cell in submitted["cells"]] == ["toy_linear seed 0"]


@pytest.mark.parametrize("words, message", [
    (("--partition", "gpu"), "error: --partition: expected --launcher slurm with it, found none\n"),
    ((*SLURM, "--num-gpus", "4"), "error: --num-gpus 4: --launcher slurm starts 1 processes (--nodes times "
     "--gpus-per-node or --tasks-per-node); leave it out\n"),
    ((*SLURM, "--time", "soon"), "error: argument --time: expected minutes, HH:MM:SS or D-HH:MM, found "
     "'soon'; --help shows the flags\n")])
def test_refusals_are_one_line(toy, submitted, words, message, capsys):  # noqa: F811
    try:
        status = toy("--task", "toy_linear", *words)
    except SystemExit as stop:
        status = stop.code
    assert status == 2 and capsys.readouterr().err == message and not submitted


def test_a_check_stays_here(toy, submitted, capsys):  # noqa: F811
    assert toy("--task", "toy_linear", "--check", *SLURM) == 0
    assert not submitted and "toy_linear seed 0" in capsys.readouterr().out


def test_gpus_of_the_job_are_not_looked_for_here(toy, submitted, monkeypatch):  # noqa: F811
    words = "--task toy_linear --weights bt.pth --data data --results runs --launcher slurm --gpus-per-node 8"
    assert command.main(words.split()) == 0
    (cell,) = submitted["cells"]
    assert cell.command[5:7] == ["--device", "cuda"]


def test_the_tables_end_a_run_that_was_waited_for(toy, submitted, monkeypatch, capsys):  # noqa: F811
    Path("bt.pth").touch()
    assert toy("--task", "toy_linear", "--seed", "0") == 0
    capsys.readouterr()
    for words, wanted in (((), False), (("--wait",), True), (("--wait", "--after", "3"), True),
                          (("--wait", "--plan"), False)):
        assert toy("--task", "toy_linear", "--seed", "1", *words, *SLURM) == 0
        assert ("without a published figure here" in capsys.readouterr().out) == wanted, words
