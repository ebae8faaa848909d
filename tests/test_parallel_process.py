"""What a process says of itself (parallel/process.py)."""

import os
import socket
import sys

import pytest

from parallel.process import bar, lives, this_process


def test_whether_a_process_lives():
    gone = {"host": socket.gethostname(), "pid": 2 ** 22 + 1}
    assert lives(this_process()) and lives(gone) is False
    assert lives({**this_process(), "start": 1}) is False  # its number has gone to another
    assert lives({"host": socket.gethostname(), "pid": os.getpid()})  # of a file without the start
    assert lives({"host": "elsewhere", "pid": os.getpid()}) is None and lives("x") is None


@pytest.mark.parametrize("terminal, rank, shown", [
    (True, "0", True), (False, "0", False), (True, "1", False)])
def test_a_bar_is_for_the_main_process_on_a_terminal(monkeypatch, capsys, terminal, rank, shown):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setenv("RANK", rank)
    assert list(bar(range(3), "fits", total=9, done=6)) == [0, 1, 2]
    said = capsys.readouterr()
    assert said.out == "" and ("fits:  67%" in said.err) == shown == bool(said.err)
