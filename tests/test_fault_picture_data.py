"""Every case of tests/faults/picture_data.py keeps its promise."""
import pytest

from pretrain.pictures.sources import open_source
from tests.faults.picture_data import CASES
from transfer.classification.layouts import split_pair

READERS = {"pretrain": lambda place: len(open_source(place)),
           "transfer": lambda place: tuple(len(one) for one in split_pair(place))}


@pytest.mark.parametrize("name, build, promise", CASES, ids=[name for name, _, _ in CASES])
def test_case(tmp_path, monkeypatch, name, build, promise):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    built = build(tmp_path / "data")
    place, read = tmp_path / "data" if not hasattr(built, "is_dir") else built, READERS[name.split()[0]]
    if not isinstance(promise, str):
        assert read(place) == promise
        return
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read(place)
    assert promise in str(caught.value) and "\n" not in str(caught.value)


def test_there_are_enough_and_each_is_named_once():
    assert len({name for name, _, _ in CASES}) == len(CASES) >= 70
