"""The folder of records: nothing is overwritten, torn or guessed (results/store.py)."""

import dataclasses
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from results import store
from results.record import to_json
from tests.test_results_record import toy

ROOT = Path(__file__).resolve().parent.parent

# Stores runs of its own and runs that all writers want; prints the path of each that it stored.
WRITER = """
import sys
from results import store
from tests.test_results_record import toy

root, writer, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for seed in range(count):
    for name in (f"writer{writer}", "everybody"):
        try:
            print(store.save(toy(seed=seed, name=name, source=f"writer {writer}"), root), flush=True)
        except ValueError as error:
            assert "--rerun" in str(error) and name == "everybody", error
"""


def writers(root, count, runs):
    return [subprocess.Popen([sys.executable, "-c", WRITER, root, str(number), str(runs)], cwd=ROOT,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for number in range(count)]


def test_saved_records_are_loaded_in_order_of_path(tmp_path):
    results = [toy(seed=seed, name=name) for name in ("b", "a") for seed in (1, 0)]
    paths = [store.save(result, tmp_path / "runs") for result in results]
    assert all(path == store.path_of(result, tmp_path / "runs") for path, result in zip(paths, results))
    loaded, problems = store.load(tmp_path / "runs")
    assert not problems
    assert [(run.backbone["name"], run.seed) for run in loaded] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert loaded[-1] == results[0]


def test_path_rule(tmp_path):
    place = store.path_of(toy(seed=3), tmp_path).relative_to(tmp_path)
    assert place.parts[:2] == ("voc_det", "bt-1a2b3c4d")
    assert place.name == f"{toy().config_hash}-s3.json"


def test_a_missing_folder_holds_no_records(tmp_path):
    assert store.load(tmp_path / "none") == ([], [])
    assert store.find(toy(), tmp_path / "none") is None


def test_overwriting_needs_rerun(tmp_path):
    first, second = toy(metrics={"AP": 1.0}), toy(metrics={"AP": 2.0})
    path = store.save(first, tmp_path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="--rerun replaces it"):
        store.save(second, tmp_path)
    assert path.read_bytes() == before
    assert store.save(second, tmp_path, rerun=True) == path
    assert store.find(first, tmp_path) == second
    assert os.listdir(path.parent) == [path.name]  # no hidden file is left


def test_a_draft_is_not_stored(tmp_path):
    with pytest.raises(ValueError, match="draft"):
        store.save(dataclasses.replace(toy(), metrics={}), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spoil, message", [
    (lambda path: path.write_text(path.read_text().replace("56.0", "65.0")), "edited or damaged"),
    (lambda path: path.write_text(path.read_text()[:100]), "not JSON"),
    (lambda path: path.write_bytes(b"\xff\xfe"), "expected UTF-8"),
    (lambda path: path.write_text(path.read_text().replace('"schema": 1', '"schema": 2')), "schema 1"),
    (lambda path: shutil.copy(path, path.with_name("copy.json")), "move it there or delete"),
    (lambda path: path.rename(path.with_name("renamed.json")), "move it there or delete"),
    (lambda path: path.with_name("fake.json").mkdir(), None),
    (lambda path: path.with_name("._hidden.json").write_text("{"), None),
], ids=["edited", "torn", "binary", "newer", "copied", "renamed", "folder", "hidden"])
def test_what_cannot_be_trusted_is_named_and_left_out(tmp_path, spoil, message):
    store.save(toy(seed=1), tmp_path)
    path = store.save(toy(seed=0), tmp_path)
    spoil(path)
    loaded, problems = store.load(tmp_path)
    assert toy(seed=1) in loaded
    if message is None:
        assert len(loaded) == 2 and not problems
    else:
        assert len(problems) == 1 and message in problems[0] and str(path.parent) in problems[0]
        assert len(loaded) == (2 if path.exists() and "delete" in message else 1)


def test_find_refuses_a_damaged_record(tmp_path):
    store.save(toy(), tmp_path).write_text("{")
    with pytest.raises(ValueError, match="s0.json: damaged"):
        store.find(toy(), tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = store.save(toy(metrics={"AP": 1.0}), tmp_path)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        store.save(toy(metrics={"AP": 2.0}), tmp_path, rerun=True)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(store.os, "link", refuse)
    path = store.save(toy(), tmp_path)
    assert path.read_text() == to_json(toy()) and os.listdir(path.parent) == [path.name]
    with pytest.raises(ValueError, match="--rerun"):
        store.save(toy(), tmp_path)


def test_a_reader_never_sees_half_a_rerun(tmp_path):
    code = ("import sys; from results import store; from tests.test_results_record import toy\n"
            "for n in range(300):\n"
            "    store.save(toy(config={'pad': ['x' * 100] * 500}), sys.argv[1], rerun=True)")
    writer = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT)
    seen = 0
    while writer.poll() is None:
        loaded, problems = store.load(tmp_path)
        assert not problems
        seen += len(loaded)
    assert writer.returncode == 0 and seen > 10


def test_many_writers_store_each_run_once(tmp_path):
    processes = writers(tmp_path, 4, 25)
    stored = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        stored += out.split()
    assert len(stored) == len(set(stored)) == 4 * 25 + 25  # "everybody" was stored by one writer each
    loaded, problems = store.load(tmp_path)
    assert len(loaded) == len(stored) and not problems
    assert {str(store.path_of(result, tmp_path)) for result in loaded} == set(stored)


def test_killed_writers_tear_nothing(tmp_path):
    chance = random.Random(0)
    count, runs = 8, 200
    processes = writers(tmp_path, count, runs)
    doomed = chance.sample(processes, count // 2)
    while len(list(tmp_path.glob("*/*/*.json"))) < 100:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    for process in doomed:
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
    said = set()
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process in doomed or process.returncode == 0, err
        said |= {line.strip() for line in out.splitlines(keepends=True) if line.endswith(".json\n")}
    loaded, problems = store.load(tmp_path)
    assert not problems and (count // 2) * runs <= len(loaded) < (count + 1) * runs
    assert said <= {str(store.path_of(result, tmp_path)) for result in loaded}


# Files kept beside a record


def kept(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != store.INDEX}


def test_files_are_kept_beside_the_record_and_are_no_records(tmp_path):
    out, runs = tmp_path / "record", tmp_path / "runs"
    (out / "deeper").mkdir(parents=True)
    (out / "curve.json").write_text("[]")
    (out / "picture.jpg").write_bytes(b"jpeg")
    path = store.save(toy(), runs)
    store.keep(toy(), runs, out)
    place = store.files_of(toy(), runs)
    assert place == path.with_suffix(".files")
    assert kept(place) == {"curve.json": b"[]", "picture.jpg": b"jpeg"}
    assert store.read_kept(toy(), runs) == (kept(place), [])
    assert store.load(runs) == ([toy()], [])
    assert sorted(os.listdir(path.parent)) == sorted([path.name, place.name])


def test_a_rerun_replaces_the_kept_files_and_one_without_any_removes_them(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.json").write_text(name)
    runs = tmp_path / "runs"
    store.save(toy(), runs)
    for name in ("first", "second"):
        store.keep(toy(), runs, tmp_path / name)
        assert kept(store.files_of(toy(), runs)) == {f"{name}.json": name.encode()}
    store.keep(toy(), runs, tmp_path / "none")
    assert not store.files_of(toy(), runs).exists()


def test_files_on_their_way_are_no_records_and_those_of_a_replaced_one_are_gone(tmp_path):
    """Also where a process is killed between storing a record and keeping its files, or while it keeps."""
    out, runs = tmp_path / "record", tmp_path / "runs"
    out.mkdir()
    (out / "curve.json").write_text("[]")
    path = store.save(toy(), runs)
    store.keep(toy(), runs, out)
    shutil.copytree(out, path.parent / f".{path.stem}.files.x1y2")
    assert store.load(runs) == ([toy()], [])
    store.save(toy(), runs, rerun=True)
    assert not store.files_of(toy(), runs).exists()


def exchanged(one, other):
    """Exchange what two records keep."""
    one.rename(one.with_name("x")), other.rename(one), one.with_name("x").rename(other)


@pytest.mark.parametrize("spoil, left, message", [
    (lambda one, other: exchanged(one, other), {}, "found those of"),
    (lambda one, other: exchanged(one / "curve.json", other / "curve.json"), {"more.json"}, "found another"),
    (lambda one, other: (one / "curve.json").write_text("[1]"), {"more.json"}, "found another"),
    (lambda one, other: (one / "curve.json").rename(one / "else.json"), {"more.json"}, "else.json"),
    (lambda one, other: (one / "curve.json").unlink(), {"more.json"}, "curve.json"),
    (lambda one, other: (one / store.INDEX).unlink(), {}, "missing or damaged"),
    (lambda one, other: (one / store.INDEX).write_text("[]"), {}, "missing or damaged"),
], ids=["folders", "files", "edited", "renamed", "deleted", "no index", "another index"])
def test_kept_files_are_bound_to_their_record(tmp_path, spoil, left, message):
    (tmp_path / "record").mkdir()
    for seed in (0, 1):
        (tmp_path / "record" / "curve.json").write_text(f"[{seed}]" if seed else "[]")
        (tmp_path / "record" / "more.json").write_text("[]")
        store.save(toy(seed=seed), tmp_path / "runs")
        store.keep(toy(seed=seed), tmp_path / "runs", tmp_path / "record")
    one, other = (store.files_of(toy(seed=seed), tmp_path / "runs") for seed in (0, 1))
    spoil(one, other)
    contents, problems = store.read_kept(toy(), tmp_path / "runs")
    assert set(contents) == set(left) and message in " ".join(problems)


def test_white_space_of_a_record_says_nothing_and_is_accepted(tmp_path):
    path = store.save(toy(), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7) + "\n\n")
    assert store.load(tmp_path) == ([toy()], [])
