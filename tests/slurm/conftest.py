"""One cluster for all tests of this folder, and the run that theirs are held against."""
import os
import tempfile
from pathlib import Path

import pytest

from tests.pretrain_toys import write_pictures
from tests.slurm import cluster as slurm
from tests.slurm.jobs import in_two_processes, pretrain

NOTICED = pytest.StashKey[list]()


@pytest.fixture
def noticed(request):
    """noticed(line) shows what became of a fault, and how soon, at the end of the tests' output."""
    found = request.config.stash.setdefault(NOTICED, [])
    return lambda line: found.append(f"{request.node.name}: {line}")


def pytest_terminal_summary(terminalreporter, config):
    if config.stash.get(NOTICED, []):
        terminalreporter.section("noticed")
        terminalreporter.write_line("\n".join(config.stash[NOTICED]))


@pytest.fixture(scope="session")
def cluster(request):
    """A running Cluster. Skips unless asked for by --cluster or in CI, and in CI where it cannot be had."""
    asked, ci = request.config.getoption("--cluster"), os.environ.get("CI") == "true"
    if not (asked or ci):
        pytest.skip("needs root, slurm-wlm and munge: make cluster-test")
    if reason := slurm.why_not():
        (pytest.fail if asked else pytest.skip)(f"a cluster {reason}")
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder, slurm.Cluster(Path(folder)) as running:
        yield running


@pytest.fixture(autouse=True)
def no_job_is_left(cluster):
    """A test that failed leaves no job to the next one, and no host that is down."""
    yield
    cluster.run("scancel", "--user=root")
    cluster.wait_until_idle()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """18 pictures: four steps of four to an epoch."""
    root = tmp_path_factory.mktemp("pictures")
    write_pictures(root, 18)
    return root


@pytest.fixture(scope="session")
def alone(cluster, pictures, tmp_path_factory):
    """The folder of the run left alone, in two processes on this machine."""
    folder = tmp_path_factory.mktemp("alone")
    in_two_processes(*pretrain(pictures, folder))
    return folder
