"""Small files: what hangs or never ends is refused at once (parallel/reading.py, results/store.py)."""

import os
import socket

import pytest

from parallel.reading import read_small, read_small_text, read_tail
from results import pretraining, store
from tests.test_results_record import toy


def pipe(path):
    os.mkfifo(path)


def bound(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket may have 107 letters
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(6 << 30)


SPECIAL = {"pipe": (pipe, "found a pipe"), "socket": (bound, ""), "sparse": (sparse, "found 6,442,450,944"),
           "zero": (lambda path: path.symlink_to("/dev/zero"), "found a device"),
           "folder": (lambda path: path.mkdir(), "found a folder"),
           "dangling": (lambda path: path.symlink_to("nowhere"), "No such file"),
           "circle": (lambda path: path.symlink_to(path), "symbolic links")}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_small_file_is_refused(tmp_path, kind):
    make, message = SPECIAL[kind]
    make(tmp_path / "x.json")
    with pytest.raises((ValueError, OSError), match=f"{message}|x.json"):
        read_small(tmp_path / "x.json")


def test_small_files_are_read(tmp_path):
    (tmp_path / "a").write_text("ä")
    assert read_small(tmp_path / "a") == "ä".encode() and read_small_text(tmp_path / "a", 2) == "ä"
    with pytest.raises(ValueError, match="at most 1 bytes"):
        read_small(tmp_path / "a", 1)
    (tmp_path / "a").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="a: expected UTF-8 text"):
        read_small_text(tmp_path / "a")


@pytest.mark.parametrize("kind", SPECIAL)
def test_among_the_records_it_is_named_and_the_others_are_read(tmp_path, kind):
    path = store.save(toy(), tmp_path)
    SPECIAL[kind][0](path.with_name("x.json"))
    results, problems = store.load(tmp_path)
    assert results == [toy()]
    assert kind == "folder" or len(problems) == 1 and "x.json" in problems[0]


@pytest.mark.parametrize("kind", SPECIAL)
def test_among_the_kept_files_it_is_named_and_the_others_are_read(tmp_path, kind):
    (tmp_path / "record").mkdir()
    (tmp_path / "record" / "curve.json").write_text("[]")
    store.save(toy(), tmp_path / "runs")
    store.keep(toy(), tmp_path / "runs", tmp_path / "record")
    SPECIAL[kind][0](store.files_of(toy(), tmp_path / "runs") / "x.json")
    contents, problems = store.read_kept(toy(), tmp_path / "runs")
    assert contents == {"curve.json": b"[]"} and len(problems) == 1 and "x.json" in problems[0]


@pytest.mark.parametrize("kind", ["pipe", "sparse", "zero"])
def test_a_pretraining_run_of_such_files_is_named(tmp_path, kind):
    (tmp_path / "run").mkdir()
    SPECIAL[kind][0](tmp_path / "run" / "stats.txt")
    runs, problems = pretraining.load(tmp_path)
    assert not runs and len(problems) == 1 and SPECIAL[kind][1] in problems[0]
    (tmp_path / "run" / "stats.txt").unlink()
    (tmp_path / "run" / "stats.txt").write_text('run\n{"step": 1}\n')
    SPECIAL[kind][0](tmp_path / "run" / "correlation.npz")
    runs, problems = pretraining.load(tmp_path)
    assert not runs and len(problems) == 1 and "correlation.npz" in problems[0]


def test_the_end_of_a_file_that_is_being_written(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"first\nsec\xffond\nthird\nhal")
    assert read_tail(path) == ["first", "sec\ufffdond", "third"]
    assert read_tail(path, 14) == ["third"]  # of the line before, a part is there
    os.truncate(path, 0)
    assert read_tail(path) == []
    pipe(tmp_path / "pipe")
    with pytest.raises(ValueError, match="found a pipe"):
        read_tail(tmp_path / "pipe")
