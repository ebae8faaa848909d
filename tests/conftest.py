"""Fixtures for all tests: the embedded data, written once, and the real images beside the project, if any."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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
