"""The Makefile's set-up: what it says when a machine cannot do it, and that a second call does nothing."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
INPUTS = ("Makefile", "pyproject.toml", "constraints.txt", "tools/detectron2_wheel.py")

OLD = f"""#!/bin/sh
case "$1" in
    --version) echo Python 3.8.1;;
    -c) exec {sys.executable} -c "import sys; sys.version_info = (3, 8, 1); $2";;
esac
"""
WITHOUT_VENV = """#!/bin/sh
case "$1" in -c) exit 0;; --version) echo Python 3.11.2;; *) echo "No module named venv" >&2; exit 1;; esac
"""
# Makes a .venv whose python does what $PIP says to installing, and claims to have installed Detectron2.
TOY = """#!/bin/sh
case "$*" in
    *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python;;
    --version) echo Python 3.11.2;;
    *"pip --version"*) test "$0" = .venv/bin/python;;
    *"pip install"*) echo "$*" >> installed; seq 99 >&2; echo "ERROR: no route" >&2; exit ${PIP:-0};;
    *detectron2_wheel*) echo wheel; exit ${WHEEL:-0};;
esac
"""


@pytest.fixture
def machine(tmp_path):
    """Returns a function that calls make in a copy of the set-up's inputs with a python made of `script`."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    for name in INPUTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)

    def make(script, *words, command="./python", **environment):
        python = tmp_path / "python"
        python.write_text(script)
        python.chmod(0o755)
        return subprocess.run(["make", "-s", *words, f"PYTHON={command}"], cwd=tmp_path, capture_output=True,
                              text=True, env={**os.environ, "MAKEFLAGS": "", **environment})
    return make


@pytest.mark.parametrize("script, environment, message", [
    (OLD, {}, "error: expected Python 3.10 or newer, found Python 3.8.1; name another: make PYTHON="),
    (WITHOUT_VENV, {}, "error: expected Python's modules venv and ensurepip"),
    (TOY, {"PIP": "1"}, "error: expected pip to install them; it failed (network? index? disk space?)"),
    (TOY, {"WHEEL": "2"}, "error: expected tools/detectron2_wheel.py to install it; it failed; see .venv/"),
], ids=["old python", "no venv", "no network", "no detectron2"])
def test_set_up_that_cannot_work_says_so_and_can_be_repeated(machine, tmp_path, script, environment, message):
    result = machine(script, "setup", **environment)
    assert result.returncode != 0 and message in result.stderr
    assert not (tmp_path / ".venv/.ready").exists()
    again = machine(TOY, "setup")
    assert again.returncode == 0, again.stderr
    assert again.stdout.endswith("set-up done; log: .venv/setup.log\n")


def test_each_phase_is_a_line_with_its_time_and_a_failure_a_few(machine):
    result = machine(TOY, "setup", PIP="1")
    assert re.fullmatch(r"set-up 1/3: .venv with Python 3.11.2 ... \d+ s\n"
                        r"set-up 2/3: the tested versions \(.*\) ... failed\n", result.stdout)
    assert result.stderr.startswith("ERROR: no route\nerror: expected pip") and result.stderr.count("\n") == 3
    result = machine(TOY, "setup")
    assert not result.stderr and re.fullmatch(
        r"set-up 2/3: the tested versions \(.*\) ... \d+ s\nset-up 3/3: Detectron2 ... \d+ s\n"
        r"set-up done; log: .venv/setup.log\n", result.stdout)


def test_missing_python_is_named(machine):
    result = machine(TOY, "setup", command="./nopython")
    assert result.returncode != 0
    assert "error: expected Python 3.10 or newer, found no command './nopython'; name one" in result.stderr


def test_second_call_does_nothing_until_what_is_installed_changes(machine, tmp_path):
    assert machine(TOY, "setup").returncode == 0
    second = machine(TOY, "setup")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert (tmp_path / "installed").read_text().count("-e .[test]") == 1
    os.utime(tmp_path / "constraints.txt")
    assert machine(TOY, "setup").returncode == 0
    calls = (tmp_path / "installed").read_text().splitlines()
    assert sum("-e .[test]" in call for call in calls) == 2
    assert all("-c constraints.txt" in call for call in calls)


@pytest.mark.parametrize("verb, message", [
    ("pretrain", "error: expected DATA, the folder of train/: make pretrain DATA=/data/imagenet"),
    ("transfer", "error: expected WEIGHTS, a ResNet: make transfer WEIGHTS=resnet50.pth"),
])
def test_verb_without_its_argument(machine, verb, message):
    result = machine(TOY, verb)
    assert result.returncode != 0 and message in result.stderr


def test_every_dependency_has_a_tested_version_inside_its_range():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    tested = dict(re.fullmatch(r"(\S+)==([^;\s]+)(?:; .*)?", line).groups() for line in lines)
    assert len(tested) == len(lines) and not [name for name in tested if name.startswith("nvidia")]
    project = (ROOT / "pyproject.toml").read_text().partition("[project]")[2]
    ranges = re.findall(r'"([\w-]+)(>=[\d.,<]+)"', project)
    assert len(ranges) >= 20
    for name, versions in ranges:
        assert SpecifierSet(versions).contains(tested[name]), name
