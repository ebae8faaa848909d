"""Stop signals are noted, not died of."""
import os
import signal
import time

import pytest

from parallel import signals


def test_listening_ends_with_the_block():
    before = signal.getsignal(signal.SIGTERM)
    with signals.listening():
        with signals.listening():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        assert signals.received() == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    with signals.listening():
        assert signals.received() == 0


@pytest.mark.parametrize("number, environment, scontrol, said, called", [
    (signal.SIGUSR1, {}, "exit 0", "", ""),
    (signal.SIGUSR1, {"SLURM_JOB_ID": "12"}, "exit 0", "SLURM job 12 was requeued", "requeue 12"),
    (signal.SIGUSR1, {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "4"}, "exit 0",
     "SLURM job 11_4 was requeued", "requeue 11_4"),
    (signal.SIGUSR1, {"SLURM_JOB_ID": "12"}, "echo not allowed >&2; exit 1",
     "scontrol requeue 12 failed: not allowed", "requeue 12"),
    (signal.SIGUSR1, {"SLURM_JOB_ID": "12"}, None,
     "no scontrol here, so job 12 comes back only where RequeueExit has 75", ""),
    (signal.SIGTERM, {"SLURM_JOB_ID": "12"}, "exit 0",
     "SLURM itself requeues job 12 if this was a preemption", ""),
], ids=["no job", "job", "array", "refused", "no scontrol", "preempted"])
def test_requeue_asks_slurm_for_the_job(tmp_path, monkeypatch, number, environment, scontrol, said, called):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if scontrol:
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/called\n{scontrol}\n")
        (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert signals.requeue(number) == said
    assert (tmp_path / "called").exists() == bool(called)
    if called:
        assert (tmp_path / "called").read_text().strip() == called
