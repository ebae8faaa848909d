"""Files are written whole or not at all (parallel/files.py); tests/test_results_store.py has many writers."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from parallel import files
from parallel.files import remove_drafts, replacing, write_whole

ROOT = Path(__file__).resolve().parent.parent


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_block_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "older")
    for error in (KeyboardInterrupt, OSError):
        with pytest.raises(error), replacing(path) as draft:
            draft.write_text("half")
            assert len(names(tmp_path)) == 2
            raise error
    assert names(tmp_path) == ["file"] and path.read_text() == "older"


@pytest.mark.parametrize("links", [True, False], ids=["", "no hard links"])
def test_without_overwrite_an_older_file_stays(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: os.truncate(tmp_path / "absent", 0))
    write_whole(tmp_path / "a" / "file", "é", overwrite=False)
    assert (tmp_path / "a" / "file").read_bytes() == "é".encode()
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "a" / "file", b"newer", overwrite=False)
    assert names(tmp_path / "a") == ["file"] and (tmp_path / "a" / "file").read_bytes() == "é".encode()
    write_whole(tmp_path / "a" / "file", b"newer")
    assert (tmp_path / "a" / "file").read_bytes() == b"newer"


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "file").symlink_to("victim")
    write_whole(tmp_path / "file", "ours")
    assert (tmp_path / "victim").read_text() == "mine" and not (tmp_path / "file").is_symlink()


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    write_whole(tmp_path / "file", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_folder_must_exist_for_a_block(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent does not exist; create it"), \
            replacing(tmp_path / "absent" / "file"):
        pass


def test_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "file"
    writers = [threading.Thread(target=write_whole, args=(path, letter * 100_000)) for letter in "abcd" * 5]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    content = path.read_text()
    assert names(tmp_path) == ["file"] and len(content) == 100_000 and len(set(content)) == 1


WRITER = """
import sys, time
from parallel.files import replacing
with replacing(sys.argv[1]) as draft:
    draft.write_bytes(b"half")
    print(draft.name, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_writer_left_is_removed_by_the_next_and_a_living_one_s_is_not(tmp_path):
    path = tmp_path / "file.bin"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, text=True,
                                stdout=subprocess.PIPE) for _ in range(2)]
    drafts = [writer.stdout.readline().strip() for writer in writers]
    try:
        write_whole(path, "first")
        assert names(tmp_path) == sorted([*drafts, "file.bin"]), "both live"
        writers[0].kill()
        writers[0].wait()
        write_whole(tmp_path / "other.bin", "")
        assert drafts[0] in names(tmp_path), "another file's are another's"
        write_whole(path, "second")
        assert names(tmp_path) == sorted([drafts[1], "file.bin", "other.bin"])
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    remove_drafts(path)
    assert names(tmp_path) == ["file.bin", "other.bin"] and path.read_text() == "second"


def test_drafts_of_another_machine_and_of_file_systems_without_locks_stay(tmp_path, monkeypatch):
    other = tmp_path / ".file.0123456789abcdef.part"
    other.touch()
    write_whole(tmp_path / "file", "")
    assert names(tmp_path) == [other.name, "file"]
    monkeypatch.setattr(files, "HERE", "012345")
    monkeypatch.setattr(fcntl, "flock", lambda *_: os.truncate(tmp_path / "absent", 0))
    write_whole(tmp_path / "file", "new")
    assert names(tmp_path) == [other.name, "file"] and (tmp_path / "file").read_text() == "new"
    monkeypatch.undo()
    monkeypatch.setattr(files, "HERE", "012345")
    write_whole(tmp_path / "file", "")
    assert names(tmp_path) == ["file"]


def test_a_draft_that_another_writer_took_for_abandoned_is_begun_again(tmp_path, monkeypatch):
    """Between its making and its lock."""
    lock, taken = fcntl.flock, []

    def late(handle, how):
        if len(taken) < 2:
            (draft,) = tmp_path.glob(".file.*")
            taken.append(draft)
            draft.unlink()
            if len(taken) == 2:
                raise BlockingIOError
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    write_whole(tmp_path / "file", "x")
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "x" and len(taken) == 2


def test_only_drafts_of_the_file_are_removed(tmp_path):
    kept = [".a[1].part.pth", ".a1.0123456789abcdef.part.pth", "a[1].pth"]
    for name in (*kept, ".a[1].0123456789abcdef.part.pth"):
        (tmp_path / name).touch()
    remove_drafts(tmp_path / "a[1].pth")
    assert names(tmp_path) == sorted(kept)
