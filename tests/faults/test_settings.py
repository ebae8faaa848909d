"""Impossible settings are refused in one line, with nothing written (tests/faults/settings.py)."""

import os

import pytest

from pretrain import main as pretraining
from tests.faults.settings import CASES
from transfer import run as transfer


@pytest.mark.parametrize("command, words, promise", CASES,
                         ids=[f"{command} {' '.join(words)}" for command, words, _ in CASES])
def test_an_impossible_setting_is_refused(demo_root, tmp_path, monkeypatch, capsys, record_property, command,
                                          words, promise):
    monkeypatch.chdir(tmp_path)
    if command == "pretrain":
        main, given = pretraining.main, [str(demo_root / "imagenet"), "--dry-run", "--device", "cpu",
                                         "--batch-size", "16", "--checkpoint-dir", "run"]
    else:
        main, given = transfer.main, ["--task", command.split()[1], "--check", "--weights", "random",
                                      "--data", str(demo_root), "--device", "cpu", "--results", "runs"]
    try:
        status = main([*given, *words])
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    record_property("seen", error)
    assert status == 2 and error.count("\n") == 1 and error.startswith("error: ") and promise in error
    assert os.listdir(tmp_path) == []
