"""Fixtures for all tests: the embedded data, written once, and the real images beside the project, if any.

No test sees the job that the tests themselves may run in, nor reaches a scheduler: its commands are hidden
behind ones that fail.
"""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SCHEDULER = ("sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun", "salloc", "sacct")
OF_A_JOB = ("SLURM_", "SBATCH_", "TORCHELASTIC_", "GROUP_", "ROLE_")
OF_A_PROCESS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def pytest_addoption(parser):
    parser.addoption("--cluster", action="store_true", help="run the tests on a SLURM of their own")
    parser.addoption("--gpu-device", choices=("cuda", "cpu"), help="of the tests marked gpu (default: cuda, "
                     "without which they skip); cpu: the same in miniature, where it means something there")


    parser.addoption("--long", action="store_true", help="run the long faults, too: kills, limits of memory "
                     "and of file size")
    parser.addoption("--faults-table", type=Path, metavar="FILE",
                     help="write every case of tests/faults into a table: promise, what was seen, whether it "
                     "held")


def pytest_ignore_collect(collection_path, config):
    """With `-m gpu` leave all other files alone: a borrowed machine may lack what they import, and time."""
    if config.option.markexpr == "gpu" and collection_path.suffix == ".py":
        return collection_path.parent.name != "gpu" or None


@pytest.fixture(scope="session", autouse=True)
def no_scheduler(tmp_path_factory):
    """Take the job's variables out of the environment, and let the scheduler's commands fail."""
    folder = tmp_path_factory.mktemp("no_scheduler")
    for command in SCHEDULER:
        (folder / command).write_text(f"#!/bin/sh\necho 'a test called {command}' >&2\nexit 99\n")
        (folder / command).chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(OF_A_JOB) or name in OF_A_PROCESS:
                patch.delenv(name)
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory):
    """Data root with every embedded data set (seed 0); read only, copy what you change."""
    from tools import demo_data

    root = tmp_path_factory.mktemp("demo_data")
    demo_data.write(root, seed=0)
    return root


@pytest.fixture(scope="session")
def shared_data():
    """The folder of small real data sets beside the project; skips where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real images in ../shared/data, which are not here")
    return folder
