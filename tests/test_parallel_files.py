"""Files are written whole or not at all (parallel/files.py); tests/test_results_store.py has many writers."""

import os
import threading

import pytest

from parallel.files import remove_drafts, replacing, write_whole


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


def test_only_drafts_of_the_file_are_removed(tmp_path):
    kept = [".a[1].part.pth", ".a1.0123456789abcdef.part.pth", "a[1].pth"]
    for name in (*kept, ".a[1].0123456789abcdef.part.pth"):
        (tmp_path / name).touch()
    remove_drafts(tmp_path / "a[1].pth")
    assert names(tmp_path) == sorted(kept)
