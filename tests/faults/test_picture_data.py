"""Every case of tests/faults/picture_data.py keeps its promise."""
import signal

import pytest

from pretrain import main as pretraining
from pretrain.pictures.sources import open_source
from tests.faults.picture_data import CASES
from transfer import run as transfer
from transfer.classification.layouts import split_pair

READERS = {"pretrain": lambda place: len(open_source(place)),
           "transfer": lambda place: tuple(len(one) for one in split_pair(place))}


@pytest.mark.parametrize("name, build, promise", CASES, ids=[name for name, _, _ in CASES])
def test_data(tmp_path, monkeypatch, record_property, name, build, promise):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    built = build(tmp_path / "data")
    place, read = tmp_path / "data" if not hasattr(built, "is_dir") else built, READERS[name.split()[0]]
    try:
        seen = read(place)
    except (ValueError, FileNotFoundError) as error:
        seen = str(error)
    record_property("seen", str(seen).replace(str(tmp_path), ""))
    if isinstance(promise, str):
        assert isinstance(seen, str) and promise in seen and "\n" not in seen
    else:
        assert seen == promise


def test_there_are_enough_and_each_is_named_once():
    assert len({name for name, _, _ in CASES}) == len(CASES) >= 70


DRY = ("--dry-run --arch resnet18 --projector 8-8 --batch-size 2 --image-size 32 --device cpu "
       "--workers 0").split()
CHECK = "--task imagenet_linear --weights random --check --smoke --device cpu".split()


@pytest.mark.parametrize("name, status, said", [
    ("pretrain kaggle root", 0, "data: 3 images, 1 steps an epoch of 2 images, 2 in each of 1 processes; "
     "from data/ILSVRC/Data/CLS-LOC/train (without test, val)"),
    ("pretrain wds", 0, "from data, shards: 2 (without imagenet1k-validation-00.tar)"),
    ("pretrain stl10", 2, "error: data: expected one folder to train on, found test, "),
    ("pretrain a fifo", 2, "error: data/train/cat/x.jpg: expected a file, found a pipe; remove it"),
    ("transfer flat val, kaggle's list", 0, "data.val: default 50000, here 3"),
    ("transfer flat val", 2, "error: data/imagenet/val: expected folders of classes, found 3 pictures"),
    ("transfer inat, two annotations", 2, "found two; remove one")])
def test_commands(tmp_path, monkeypatch, capfd, name, status, said):
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the handlers are for a process of its own
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build = next(build for one, build, _ in CASES if one == name)
    root = tmp_path / "data" / ("imagenet" if name.startswith("transfer") else "")
    root.mkdir(parents=True)
    build(root)
    command = pretraining if name.startswith("pretrain") else transfer
    assert command.main(["data", *DRY] if command is pretraining else [*CHECK, "--data", "data"]) == status
    text = "\n".join(capfd.readouterr())
    assert said in text and "Traceback" not in text
