"""Stop signals are noted, not died of."""
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from parallel import signals

ROOT = Path(__file__).parent.parent


def test_a_signal_is_noted_where_work_can_be_saved_and_ends_other_work():
    before = signal.getsignal(signal.SIGTERM)
    with signals.listening():
        with signals.listening(), signals.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        assert signals.received() == signals.wish() == signal.SIGTERM
    assert signals.received() == 0
    assert signal.getsignal(signal.SIGTERM) is before
    with signals.listening():
        assert signals.received() == 0
        with pytest.raises(signals.Stopped) as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.01)
    assert stop.value.number == signal.SIGUSR1


def test_a_signal_that_comes_too_early_is_not_lost():
    with signals.held_back():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        with pytest.raises(signals.Stopped), signals.listening():
            time.sleep(1)


def test_signals_are_heard_while_the_main_thread_cannot_answer():
    with signals.listening(), signals.deferred():
        assert signals.heard(0) == []
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        heard, deadline = [], time.monotonic() + 5
        while len(heard) < 2 and time.monotonic() < deadline:
            heard += signals.heard(0.1)
        assert sorted(heard) == sorted([signal.SIGTERM, signal.SIGINT])


@pytest.mark.parametrize("number, environment, scontrol, said, called", [
    (signal.SIGUSR1, {}, "exit 0", "", ""),
    (signal.SIGUSR1, {"SLURM_JOB_ID": "12"}, "exit 0", "asking SLURM to requeue job 12", "requeue 12"),
    (signal.SIGUSR1, {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "4"}, "exit 0",
     "asking SLURM to requeue job 11_4", "requeue 11_4"),
    (signal.SIGUSR1, {"SLURM_JOB_ID": "12"}, "echo not allowed >&2; exit 1",
     "asking SLURM to requeue job 12\nscontrol requeue 12 failed: not allowed", "requeue 12"),
    (signal.SIGUSR1, {"SLURM_JOB_ID": "12"}, None,
     "no scontrol here, so job 12 comes back only where RequeueExit has 75", ""),
    (signal.SIGTERM, {"SLURM_JOB_ID": "12"}, "exit 0",
     "SLURM itself requeues job 12 if this was a preemption", ""),
    (signal.SIGUSR1, {"SLURM_JOB_ID": "12"}, "kill -TERM $$", "asking SLURM to requeue job 12",
     "requeue 12"),
], ids=["no job", "job", "array", "refused", "no scontrol", "preempted", "ended with the job"])
def test_parting_asks_slurm_for_the_job(tmp_path, monkeypatch, capsys, number, environment, scontrol, said,
                                        called):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if scontrol:
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/called\n{scontrol}\n")
        (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert signals.part(number, "saved") == signals.status(number)
    word = f"stopped by {signal.Signals(number).name}; saved"
    assert capsys.readouterr().err == "; ".join(filter(None, (word, said))) + "\n"
    assert (tmp_path / "called").exists() == bool(called)
    if called:
        assert (tmp_path / "called").read_text().strip() == called


@pytest.mark.parametrize("command, status", [
    (["transfer/run.py", "--list"], 0), (["pretrain/main.py", "no/such/folder", "--device", "cpu"], 2)],
    ids=["transfer", "pretrain"])
def test_a_signal_after_the_end_changes_no_status(command, status):
    """As SLURM may send one before the time limit, while the interpreter ends."""
    code = ("import atexit, os, runpy, signal, sys; atexit.register(os.kill, os.getpid(), signal.SIGUSR1); "
            "runpy.run_path(sys.argv[0], run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.argv = {command}; {code}"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == status, done.stderr
