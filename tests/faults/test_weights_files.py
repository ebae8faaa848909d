"""Strange, foreign, damaged and hostile weights files: each is read, or refused in one line that helps."""
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from faults.weights_files import CASES, HOSTILE, RAN
from transfer import convert, describe
from transfer.weights.readers import read

pytestmark = pytest.mark.filterwarnings("ignore")
GIBIBYTE = 2**30
TESTS = Path(__file__).resolve().parent.parent


def outcome(builder, folder):
    """What `read` says, "read" or its message; and, of a file that it refuses, describe.py's exit status and
    last line."""
    folder.mkdir()
    given = builder(folder)
    try:
        backbone = read(given)
    except (ValueError, FileNotFoundError) as error:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as printed:
            return str(error), describe.main([str(given)]), printed.getvalue()
    assert backbone.arch.name == "resnet18" and len(backbone.state) == 120
    return "read", 0, ""


def check(name, promise, found, folder):
    message, status, described = found
    assert promise == message if promise == "read" else promise in message, name
    assert len(message) < 800 and message.isprintable(), name
    if promise != "read":
        assert (status, described) == (2, f"error: {message}\n"), name
    assert not list(folder.rglob(RAN)), f"{name}: code of the file ran"


def test_there_are_many_and_each_has_a_name_of_its_own():
    assert len({name for name, _, _ in CASES}) == len(CASES) > 150


@pytest.mark.parametrize("name, builder, promise", [case for case in CASES if case[0] not in HOSTILE],
                         ids=lambda value: value if isinstance(value, str) else "")
def test_a_file_keeps_its_promise(name, builder, promise, tmp_path, record_property):
    found = outcome(builder, tmp_path / "case")
    record_property("seen", found[0].replace(str(tmp_path), ""))
    check(name, promise, found, tmp_path)


def test_hostile_files_take_no_more_time_and_memory_than_they_are_worth(tmp_path):
    """All in one process, which has 2 GiB more than it starts with, and 100 seconds of a processor."""
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], text=True, capture_output=True,
                          env=os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}, timeout=600)
    found = json.loads((tmp_path / "found.json").read_text()) if (tmp_path / "found.json").exists() else {}
    assert done.returncode == 0, (list(found)[-1:], done.stderr[-2000:])
    for number, (name, _, promise) in enumerate(CASES):
        if name in HOSTILE:
            check(name, promise, found[name], tmp_path / str(number))


def limited(folder):
    """In the process with limits: the outcome of each hostile case, noted before the next begins."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    for kind, most in ((resource.RLIMIT_AS, pages * resource.getpagesize() + 2 * GIBIBYTE),
                       (resource.RLIMIT_CPU, 100)):
        resource.setrlimit(kind, (most, most))
    found = {}
    for number, (name, builder, _) in enumerate(CASES):
        if name in HOSTILE:
            found[name] = None
            (folder / "found.json").write_text(json.dumps(found))
            found[name] = outcome(builder, folder / str(number))
    (folder / "found.json").write_text(json.dumps(found))


COMMANDS = {name: builder for name, builder, promise in CASES if name in (
    "two networks", "TorchScript", "a tensor of 400 GB on one number", "lists doubled 60 times in a zip",
    "a pipe", "int8 by zipped", "a folder of two files")}


@pytest.mark.parametrize("builder", COMMANDS.values(), ids=COMMANDS)
def test_the_converter_refuses_in_one_line_and_writes_nothing(builder, tmp_path, capsys):
    given = builder(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert convert.main([str(given), str(tmp_path / "out.pkl")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and not printed.out
    assert sorted(tmp_path.rglob("*")) == before


if __name__ == "__main__":
    limited(Path(sys.argv[1]))
