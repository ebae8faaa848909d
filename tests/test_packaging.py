"""The wheel and the source archive: what is in them, and that the commands work from them in any folder."""

import configparser
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
BUILD = "import sys, setuptools.build_meta as backend; backend.build_{}(sys.argv[1])"
COMMAND = ("import sys; from importlib.metadata import EntryPoint; sys.argv = sys.argv[1:]\n"
           "sys.exit(EntryPoint(sys.argv[0], sys.argv.pop(1), 'console_scripts').load()())")


def tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


def build(kind, source, folder):
    """Build as pip does, but without a network, and return the file."""
    folder.mkdir()
    done = subprocess.run([sys.executable, "-c", BUILD.format(kind), str(folder)], cwd=source,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The checkout's files without what git does not track, the wheel and the source archive of them."""
    folder = tmp_path_factory.mktemp("packaging")
    for name in tracked():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    return build("sdist", folder / "source", folder / "sdist"), build(
        "wheel", folder / "source", folder / "wheel")


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A folder of packages, as pip would make it of the wheel."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(built[1]) as wheel:
        wheel.extractall(folder)
    return folder


def test_the_source_archive_has_all_that_is_tracked(built):
    with tarfile.open(built[0]) as archive:
        found = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert set(tracked()) - found == set()
    assert not [name for name in found - set(tracked())
                if not name.startswith("barlow_transfer.egg-info/") and name not in ("PKG-INFO", "setup.cfg")]


def test_a_wheel_of_the_source_archive_is_that_of_the_checkout(built, tmp_path):
    with tarfile.open(built[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build("wheel", next(tmp_path.glob("barlow_transfer-*")), tmp_path / "wheel")
    with zipfile.ZipFile(built[1]) as one, zipfile.ZipFile(again) as other:
        assert {entry.filename: entry.CRC for entry in one.infolist()} == {
            entry.filename: entry.CRC for entry in other.infolist()}


def test_the_wheel_has_the_code_what_it_reads_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as wheel:
        found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    code = {name for name in tracked() if name.endswith(".py")
            and name.startswith(("parallel/", "pretrain/", "results/", "transfer/"))}
    assert found - code == {"results/published.json", "results/protocols.json",
                            "transfer/detection/expected.json",
                            *(name for name in tracked() if name.startswith("detection_configs/"))}
    assert code <= found


def run(installed, folder, name, *words):
    """Run an installed command in a folder, with nothing of this checkout on its path."""
    entries = configparser.ConfigParser()
    entries.read(next(installed.glob("*.dist-info")) / "entry_points.txt")
    return python(installed, folder, COMMAND, name, entries["console_scripts"][name], *words)


def python(installed, folder, program, *words):
    return subprocess.run([sys.executable, "-c", program, *words], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(installed)})


def files(folder):
    return {path for path in folder.rglob("*") if path.suffix != ".pyc" and path.name != "__pycache__"}


def test_installed_commands_keep_what_they_write_below_the_current_folder(installed, tmp_path):
    before = files(installed)
    done = run(installed, tmp_path, "barlow-transfer", "--show-config", "--task", "voc_det")
    assert done.returncode == 0 and "SOLVER.MAX_ITER = 24000" in done.stdout, done.stderr
    done = run(installed, tmp_path, "barlow-tables")
    assert done.returncode == 0 and done.stdout.startswith("0 records"), done.stdout + done.stderr
    done = run(installed, tmp_path, "barlow-show", "none")
    assert done.returncode == 2 and done.stderr.endswith("barlow-tables --list shows them\n"), done.stderr
    assert (tmp_path / "results" / "tables" / "linear.md").exists()
    assert os.listdir(tmp_path) == ["results"]
    program = ("from transfer import request, workspace; from results import report; "
               "print(request.__file__, request.RUNS, workspace.code_version())")
    done = python(installed, tmp_path, program)
    assert done.stdout == f"{installed}/transfer/request.py results/runs {{'commit': '', 'dirty': False}}\n"
    assert files(installed) == before


def test_the_citation_and_the_hooks_are_of_this_version():
    project = (ROOT / "pyproject.toml").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert f'version = "{citation["version"]}"' in project and f'license = "{citation["license"]}"' in project
    assert citation["version"] in (ROOT / "CHANGELOG.md").read_text()
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["id"] for hook in hooks] == ["ruff", "mypy"]
