"""Jobs: submitted through submitit, waited for, tried again, reported; with a toy scheduler's commands."""
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from parallel import jobs, launcher, signals
from parallel.jobs import Cell, State
from tests.scheduler_toys import write_scheduler


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """The folder of commands that run jobs on this machine."""
    folder = tmp_path / "scheduler"
    folder.mkdir()
    write_scheduler(folder)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def call(tmp_path, capfd):
    """call(words, cells) -> exit status, standard output, standard error of jobs.run."""
    def run(words, *cells):
        cluster, _ = launcher.split(["--launcher", "slurm", "--gpus-per-node", "0", *words.split()])
        return jobs.run(cells, cluster, tmp_path / "run", "name", workers=0), *capfd.readouterr()
    return run


def cell(tmp_path, name, code, again=None):
    scripts = []
    for number, text in enumerate((code, again or code)):
        script = tmp_path / f"{name}-{number}.py"
        script.write_text(text)
        scripts.append([str(script), "word", "two words"])
    return Cell(name, *scripts)


SAY = "import sys, os; print(sys.argv[1:], os.environ.get('SLURM_NTASKS'))\n"


def test_jobs_run_the_command_and_failures_are_tried_again(scheduler, tmp_path, monkeypatch, call):
    monkeypatch.setenv("SLURM_NTASKS", "7")  # of the job that this may be called from
    status, out, err = call("--wait", cell(tmp_path, "good", SAY),
                            cell(tmp_path, "second", "raise SystemExit(1)", SAY),
                            cell(tmp_path, "bad", "".join(f"print({number})\n" for number in range(30))
                                 + "raise SystemExit(9)"),
                            cell(tmp_path, "refused", "raise SystemExit(2)"))
    folder = tmp_path / "run" / "slurm"
    assert status == 1
    assert "good: COMPLETED (job 0_0)\n" in out and "second: FAILED with exit status 1 (job 0_1)\n" in out
    assert "second: COMPLETED" in out and "try 2 of 2 is job" in out and "refused: try" not in out
    again = next(line.split()[-1] for line in out.splitlines() if "second: try" in line)
    for name in ("0_0_0_log.out", again):
        assert (folder / name).read_text().splitlines()[-1] == "['word', 'two words'] None"
    assert "refused: failed, FAILED with exit status 2, job 0_3; the end of " in err
    bad = err[err.index("bad: failed"):].splitlines()
    assert bad[0].startswith("bad: failed, FAILED with exit status 9, job ")
    assert bad[1:21] == [f"  | {number}" for number in range(10, 30)]


def test_without_wait_it_says_where_the_jobs_are(scheduler, tmp_path, call):
    status, out, _ = call("", cell(tmp_path, "one", SAY))
    assert status == 0
    assert out.splitlines() == [
        f"one: job 0, log {tmp_path}/run/slurm/0_0_log.out",
        "squeue --me shows how they stand; scancel 0 ends them; --after 0 makes others wait"]


def test_a_signal_ends_the_waiting_and_not_the_jobs(scheduler, tmp_path, monkeypatch, call):
    def stop(*_):
        raise signals.Stopped(signal.SIGINT)
    monkeypatch.setattr(jobs, "wait", stop)
    status, _, err = call("--wait", cell(tmp_path, "one", SAY))
    assert (status, err) == (130, "interrupted: the jobs go on without this command; scancel 0 ends them\n")


def test_a_missing_log_is_said(tmp_path):
    paths = SimpleNamespace(stdout=tmp_path / "3.out")
    job = SimpleNamespace(job_id="3", task=lambda _: SimpleNamespace(paths=paths))
    assert jobs.report(Cell("one", [], []), job, FAILED).splitlines() == [
        f"one: failed, FAILED with exit status 1, job 3; the end of {tmp_path}/3.out:",
        "  | (there is none: the job never began, or its node does not share this folder)"]


def test_sbatchs_own_message_is_the_error(scheduler, tmp_path, call):
    with pytest.raises(ValueError) as error:
        call("--partition nowhere", cell(tmp_path, "one", SAY))
    assert str(error.value) == ("sbatch: error: invalid partition specified: nowhere sbatch: error: Batch "
                                "job submission failed")


def test_a_machine_without_slurm_is_named(monkeypatch, tmp_path, call):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError) as error:
        call("")
    assert str(error.value) == ("--launcher slurm: expected SLURM's command sbatch, found none; call this on "
                                "a login node of the cluster")


def follow(monkeypatch, answers, retries):
    """jobs.wait for one cell, whose job number n SLURM shows with the n-th list of states, one an answer;
    None is no answer. Returns the states that it failed with and the number of tries."""
    numbers, queue = iter(range(len(answers))), []

    def submit(cell):
        number = next(numbers)
        queue[:] = [(number, word) for word in answers[number]]
        return SimpleNamespace(job_id=str(number), task=lambda _: SimpleNamespace(
            paths=SimpleNamespace(stdout=Path("log"))))

    def states():
        number, state = queue.pop(0)
        return state and ({str(number): state} if state.word != "FORGOTTEN" else {})

    monkeypatch.setattr(jobs.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(jobs, "states", states)
    failed = jobs.wait({cell: submit(cell) for cell in [Cell("cell", [], [])]}, submit, retries)
    return [state for _, state in failed.values()], len(answers) - len(list(numbers))


DONE, RUNNING, PENDING = State("COMPLETED"), State("RUNNING"), State("PENDING")
FAILED, REFUSED, CANCELLED = State("FAILED", 1), State("FAILED", 2), State("CANCELLED")


@pytest.mark.parametrize("answers, retries, wanted", [
    ([[PENDING, RUNNING, None, RUNNING, DONE]], 1, ([], 1)),
    ([[RUNNING, State("COMPLETING"), State("REQUEUED"), PENDING, RUNNING, DONE]], 0, ([], 1)),
    ([[FAILED], [RUNNING, DONE], []], 1, ([], 2)),
    ([[FAILED], [State("NODE_FAIL")], []], 1, ([State("NODE_FAIL")], 2)),
    ([[FAILED], [State("TIMEOUT")], [State("FORGOTTEN")], [DONE], []], 3, ([], 4)),
    ([[FAILED], []], 0, ([FAILED], 1)),
    ([[REFUSED], []], 3, ([REFUSED], 1)),
    ([[PENDING, CANCELLED], []], 3, ([CANCELLED], 1)),
], ids=["well", "requeued", "second try", "bound", "any failure", "no retries", "refusal", "cancelled"])
def test_what_is_tried_again(monkeypatch, answers, retries, wanted):
    assert follow(monkeypatch, answers, retries) == wanted


@pytest.mark.parametrize("code, wanted", [
    ("0", 0), ("512", 2), ("9", 137), ("139", 139), ("2:0", 2), ("0:9", 137)])
def test_exit_statuses_of_squeue(code, wanted):
    """512 and 15 are what SLURM 22.05 shows for exit status 2 and after SIGTERM."""
    assert jobs.exit_status(code) == wanted
