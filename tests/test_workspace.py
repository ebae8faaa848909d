"""Which run a folder belongs to: what binds it to its data."""
import importlib
import json
import subprocess
import sys

import pytest

from transfer import workspace

IDENTITY = {"task": "voc_det", "config": {"rate": 1}, "data": {"fingerprint": "a"}, "seed": 0,
            workspace.TRAINING: "t"}


def run_in(folder, **changes):
    """Make a folder that holds a run, whose identity has changes; None takes a key out."""
    folder.mkdir(parents=True)
    found = {key: value for key, value in {**IDENTITY, **changes}.items() if value is not None}
    (folder / workspace.MARK).write_text(json.dumps(found))
    (folder / "last_checkpoint").touch()
    return folder


@pytest.mark.parametrize("changes, continues", [
    ({}, True),
    ({"data": {"fingerprint": "b"}}, True),                        # the test pictures were repaired
    ({workspace.TRAINING: "u"}, False),
    ({workspace.TRAINING: None}, True),                            # written before that was known
    ({workspace.TRAINING: None, "data": {"fingerprint": "b"}}, False),
    ({"seed": 1}, False),
], ids=str)
def test_a_run_is_bound_to_what_it_was_trained_on(tmp_path, changes, continues):
    out = run_in(tmp_path / "out", **changes)
    if continues:
        assert workspace.claim(out, IDENTITY, resume=True, rerun=False)
        assert IDENTITY.items() <= json.loads((out / workspace.MARK).read_text()).items()
    else:
        with pytest.raises(ValueError, match="is a run with another (training data|data|seed)"):
            workspace.claim(out, IDENTITY, resume=True, rerun=False)


def test_a_task_without_training_data_of_its_own_is_bound_to_all_of_it(tmp_path):
    identity = {key: value for key, value in IDENTITY.items() if key != workspace.TRAINING}
    out = run_in(tmp_path / "out", data={"fingerprint": "b"}, **{workspace.TRAINING: None})
    with pytest.raises(ValueError, match="is a run with another data"):
        workspace.claim(out, identity, resume=True, rerun=False)


def test_a_run_is_found_after_its_test_data_has_changed(tmp_path):
    """The name of its folder follows from all data, as that of its record."""
    wanted, other = tmp_path / "new-s0", {"data": {"fingerprint": "b"}}
    assert workspace.continued(wanted, IDENTITY) == wanted
    run_in(tmp_path / "seed-s1", seed=1)
    run_in(tmp_path / "trained-s0", **{workspace.TRAINING: "u"})
    run_in(tmp_path / "damaged-s0").joinpath(workspace.MARK).write_text("{")
    assert workspace.continued(wanted, IDENTITY) == wanted
    before = run_in(tmp_path / "old-s0", **other)
    assert workspace.continued(wanted, IDENTITY) == before
    run_in(tmp_path / "older-s0", **other)
    with pytest.raises(ValueError, match="old-s0, .*older-s0; name one with --output"):
        workspace.continued(wanted, IDENTITY)
    run_in(wanted)
    assert workspace.continued(wanted, IDENTITY) == wanted


def lay(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def origin(commit):
    return json.dumps({"url": "https://example.org/a.git", "vcs_info": {"vcs": "git", "commit_id": commit}})


PACKAGE = {"detectron2/__init__.py": '__version__ = "0.6"\n'}
METADATA = "Metadata-Version: 2.1\nName: {}\nVersion: {}\n"
BUILT = {"detectron2/_C.cpython-311.so": "",
         "detectron2/_C.py": 'def get_cuda_version():\n    return "CUDA 13.0"'}


@pytest.mark.parametrize("files, found", [
    (PACKAGE, "0.6, pure Python"),
    (PACKAGE | {"detectron2-0.6.dist-info/METADATA": METADATA.format("detectron2", "0.6+pure2")},
     "0.6+pure2, pure Python"),
    (PACKAGE | BUILT | {"detectron2-0.6.dist-info/METADATA": METADATA.format("detectron2", "0.6"),
                        "detectron2-0.6.dist-info/direct_url.json": origin("02b5c4e295e990042a71")},
     "0.6 at 02b5c4e295e9, compiled (CUDA 13.0)"),
    (PACKAGE | BUILT | {"detectron2/_C.py": 'raise ImportError("undefined symbol: a")'},
     "0.6, compiled, does not load: undefined symbol: a; build it again for this torch"),
], ids=["source tree", "our wheel", "from a repository", "for another torch"])
def test_which_detectron2_is_there(tmp_path, monkeypatch, files, found):
    lay(tmp_path, files)
    for name in [name for name in sys.modules if name.partition(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert workspace.detectron2() == found
    for name in ("detectron2", "detectron2._C"):
        sys.modules.pop(name, None)


def test_a_source_tree_of_detectron2_says_its_commit(tmp_path, monkeypatch):
    lay(tmp_path, PACKAGE)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *words], check=True)
    for name in [name for name in sys.modules if name.partition(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert workspace.detectron2() == f"0.6 at {commit[:12]}, pure Python"
    assert workspace.packages()["detectron2"] == f"0.6 at {commit[:12]}"  # not the version that pip installed


def test_an_installed_suite_says_the_commit_it_was_installed_from_and_no_other(tmp_path, monkeypatch):
    """Though site-packages may lie in the checkout of another project."""
    subprocess.run(["git", "-C", tmp_path, "init", "-q"], check=True)
    monkeypatch.setattr(workspace, "CHECKOUT", False)
    monkeypatch.setattr(workspace, "ROOT", tmp_path)
    assert workspace.code_version() == {"commit": "", "dirty": False}
    lay(tmp_path, {"barlow_transfer-1.dist-info/METADATA": METADATA.format("barlow-transfer", "1"),
                   "barlow_transfer-1.dist-info/direct_url.json": origin("ab" * 20)})
    assert workspace.code_version() == {"commit": "ab" * 20, "dirty": False}
