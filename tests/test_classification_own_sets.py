"""A labelled set of one's own in each form, its default protocols, and what is refused."""
import dataclasses
import shutil

import classification_toys as toys
import numpy as np
import pytest

from results import protocols
from transfer import execution
from transfer.classification import own_sets
from transfer.classification.datasets import halves, stated
from transfer.request import Request
from transfer.tasks import TASKS

CLASSES = ("apple", "boat", "cat")


def classes(root, count=5):
    """root/CLASS/<n>.png"""
    for label, name in enumerate(CLASSES):
        for number in range(count):
            toys.picture(root / name / f"{number}.png", label, number)
    return root


def split(root, *names, count=2):
    for place, name in enumerate(names):
        classes(root / name, count if place else 5)


def listed(root, *names):
    """pictures/<n>.png and lists of them."""
    for place, name in enumerate(names):
        lines = []
        for number in range(9):
            toys.picture(root / "pictures" / f"{place}{number}.png", number % 3, 10 * place + number)
            lines.append(f"pictures/{place}{number}.png {number % 3}\n")
        (root / f"{name}.txt").write_text("".join(lines))


def packed(root, *names, first=0):
    for place, name in enumerate(names):
        pixels = np.random.default_rng(place).integers(0, 255, (9, 8, 8, 3)).astype(np.uint8)
        root.mkdir(exist_ok=True)
        np.savez(root / f"{name}.npz", images=pixels, labels=first + np.arange(9) % 3)


def vehicles(root):
    classes(root)
    (root / "boat").rename(root / "train")


@pytest.mark.parametrize("write, name, counts", [
    (classes, "cells (a fifth held out)", (12, 3)),
    (lambda root: split(root, "train"), "cells (a fifth held out)", (12, 3)),
    (lambda root: (classes(root), classes(root / "apple" / "more", 1)), "cells (a fifth held out)", (14, 4)),
    (lambda root: split(root, "train", "val"), "cells", (15, 6)),
    (lambda root: split(root, "train", "valid"), "cells", (15, 6)),
    (lambda root: split(root, "train", "test"), "cells", (15, 6)),
    (lambda root: (split(root, "train", "test"), classes(root / "val", 1)), "cells", (15, 6)),
    (lambda root: (split(root, "train", "test"), classes(root / "valid", 1)), "cells", (15, 6)),
    (lambda root: listed(root, "train", "val"), "cells", (9, 9)),
    (lambda root: listed(root, "train", "test"), "cells", (9, 9)),
    (lambda root: listed(root, "train"), "cells (a fifth held out)", (6, 3)),
    (lambda root: packed(root, "train", "test"), "cells", (9, 9)),
    (lambda root: packed(root, "train"), "cells (a fifth held out)", (6, 3)),
    (vehicles, "cells (a fifth held out)", (12, 3)),
], ids=["classes", "train alone", "folders in a class", "val", "valid", "test", "val and test",
        "valid and test", "lists", "a list of test", "one list", "npz", "one npz", "a class called train"])
def test_each_form(request, tmp_path, write, name, counts):
    write(tmp_path / "cells")
    parts = halves(tmp_path / "cells", "folder")
    found = stated("folder", parts)
    assert found["name"] == name and found["counts"] == dict(zip(("train", "test"), counts))
    train, test = parts.values()
    assert train.classes == test.classes and len(train.classes) == 3
    assert not {train.place(row) for row in range(len(train))} & {test.place(row) for row in range(len(test))}
    assert np.bincount(test.labels, minlength=3).min() > 0
    assert train.read(0) is not None and test.read(0) is not None
    assert (own_sets.read(tmp_path / "cells")[1] is not None) == request.node.callspec.id.endswith("and test")


@pytest.mark.parametrize("file, write", [("train.txt", listed), ("photos.npz", packed)])
def test_a_list_and_a_file_are_sets_too(tmp_path, file, write):
    write(tmp_path, file.partition(".")[0])
    found = stated("folder", halves(tmp_path / file, "folder"))
    assert found["name"] == f"{file.partition('.')[0]} (a fifth held out)"
    assert found["counts"] == {"train": 6, "test": 3}


def test_the_held_out_part_is_the_same_for_all_seeds_and_places(tmp_path):
    roots = [classes(tmp_path / place / "cells") for place in "ab"]
    first, second = (stated("folder", halves(root, "folder")) for root in roots)
    assert first == second and str(tmp_path) not in str(first)
    toys.picture(roots[1] / "cat" / "new.png", 2, 9)
    assert stated("folder", halves(roots[1], "folder"))["fingerprint"] != first["fingerprint"]


def test_packed_pictures_are_known_by_their_file(tmp_path):
    for place in "ab":
        packed(tmp_path / place, "train", "test")
    with np.load(tmp_path / "b" / "test.npz") as file:
        np.savez(tmp_path / "b" / "test.npz", images=255 - file["images"], labels=file["labels"])
    for name in ("folder_knn", "folder_probe", "folder_semi"):
        task = TASKS[name]
        prints = [task.protocol.data(task.config, toys.context(tmp_path / place, tmp_path))["fingerprint"]
                  for place in "ab"]
        assert prints[0] != prints[1]


@pytest.mark.parametrize("write, message", [
    (lambda root: None, "cells: no such folder; with this task --data is the folder of the pictures itself"),
    (lambda root: split(root, "Train", "Test"), "found Test, Train; call them so"),
    (lambda root: split(root, "cells_train", "cells_test"), "found cells_test, cells_train; call"),
    (lambda root: split(root, "train", "val", "unlabeled"), "found unlabeled beside them; rename it or"),
    (lambda root: split(root, "train", "val", "valid"), "found valid beside them; rename it or"),
    (lambda root: split(root, "val"), "found val; call them so"),
    (lambda root: toys.picture(root / "a.png", 0, 0), "found 1 pictures directly in it"),
    (lambda root: toys.picture(root / "one" / "a.png", 0, 0), "expects 2 images or more, found 1 of"),
    (lambda root: [toys.picture(root / "one" / f"{n}.png", 0, n) for n in (1, 2)],
     "expected two classes or more, found one alone"),
    (lambda root: (classes(root), (root / "empty").mkdir()), "1 of 4 class folders hold no picture"),
    (lambda root: (split(root, "train", "test"), shutil.rmtree(root / "test" / "cat")),
     "test: expected the 3 classes of .*train, found"),
    (lambda root: (listed(root, "train"), shutil.copy(root / "train.txt", root / "test.txt")),
     "test.txt: expected other images than in .*train.txt, found 9 of them"),
    (lambda root: packed(root, "test"), "expected npz or parquet files of train and of test or val"),
    (lambda root: packed(root, "train", "test", first=1), "all 4 classes, 1 have none, first 0; .* from 0"),
    (lambda root: packed(root, "train", first=1), "all 4 classes, 1 have none, first 0; .* from 0"),
], ids=["none", "Train", "cells_train", "unlabelled pictures", "val and valid", "val alone", "flat",
        "one picture", "one class", "an empty class", "a class missing",
        "lists of the same", "npz of test", "npz from 1", "one npz from 1"])
def test_what_is_refused(tmp_path, write, message):
    write(tmp_path / "cells")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        halves(tmp_path / "cells", "folder")
        own_sets.read(tmp_path / "cells")
    assert "\n" not in str(caught.value)


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "cells.csv").write_text("a.png,1\n")
    with pytest.raises(ValueError, match="expected a folder, a .txt list, .npz or .parquet, found"):
        own_sets.read(tmp_path / "cells.csv")


def request(name, root, tmp_path, *pairs, **changes):
    settings = {"task": name, "weights": "random:resnet18-cifar", "data": root, "pairs": pairs, "workers": 0,
                "results": tmp_path / "runs", "output": tmp_path / name, "device": "cpu", "cache": None}
    return Request(**settings | changes)


QUICK = {"folder_linear": ("epochs", "5"), "folder_probe": ("strengths", "3"), "folder_semi": ("epochs", "1"),
         "folder_knn": ()}


@pytest.mark.parametrize("name", QUICK)
def test_each_task_on_a_folder_of_classes(tmp_path, monkeypatch, capsys, name):
    """54 learn; a batch of 53 would leave a last one of one."""
    root = classes(tmp_path / "cells", 22)
    pairs = ("batch_size", "53", "learning_rate", "0.1") if name == "folder_linear" else ()
    result = execution.run(request(name, root, tmp_path, *QUICK[name], *pairs))
    share = " draw:10%" if name == "folder_semi" else ""
    assert result.data["name"] == f"cells (a fifth held out){share}"
    assert result.data["counts"] == {"train": 6 if share else 54, "test": 12}
    assert set(TASKS[name].metrics) <= result.metrics.keys()
    assert result.config["image_size"] == 32  # of the stem
    assert f"cells (a fifth held out){share}: train" in capsys.readouterr().out
    assert result.scaled.keys() == {*QUICK[name][::2], *pairs[::2]}
    assert result.scaled == protocols.departures(result)
    if name in ("folder_linear", "folder_knn"):
        assert result.metrics["top1"] > 80  # the colour says the class, but every fifth is grey


@pytest.mark.parametrize("weights, side", [("random:resnet18", 224), ("random:resnet18-small", 64)])
def test_pictures_are_as_large_as_the_stem_wants_and_that_is_no_departure(tmp_path, weights, side):
    root = classes(tmp_path / "cells")
    checked = {"weights": weights, "check": True}
    draft = execution.run(request("folder_knn", root, tmp_path, **checked))
    assert draft.config["image_size"] == side and draft.scaled == {} == protocols.departures(draft)
    other = execution.run(request("folder_knn", root, tmp_path, "image_size", "48", **checked))
    assert other.scaled == {"image_size": [side, 48]} == protocols.departures(other)


def test_neighbours_are_at_most_the_smallest_class(tmp_path):
    root = classes(tmp_path / "cells", 4)
    (root / "cat" / "3.png").unlink()  # of which one more is held out
    task, context = TASKS["folder_knn"], toys.context(root, tmp_path / "out")
    config = dataclasses.replace(task.config, image_size=32)
    figures = [task.protocol.run(toys.backbone("resnet18-cifar"), one, context)
               for one in (config, dataclasses.replace(config, k=(2,)))]
    assert figures[0] == figures[1] and '"k": [2]' in (context.out / "log.txt").read_text()


def test_a_list_of_ones_own_says_which_pictures_have_labels(tmp_path):
    root, few = classes(tmp_path / "cells"), tmp_path / "few.txt"
    for label, name in enumerate(CLASSES):
        toys.picture(root / name / f"{name}.png", label, 9)
    train = halves(root, "folder")["train"]
    chosen = [name for name in CLASSES if f"{name}/{name}.png".encode() in train.names]
    few.write_text("".join(f"{name}.png\n" for name in chosen))
    draft = execution.run(request("folder_semi", root, tmp_path, "split", str(few), check=True))
    assert draft.data["counts"] == {"train": len(chosen), "test": 3} and len(chosen) > 0
    assert draft.data["name"].startswith("cells (a fifth held out) list ")
    with pytest.raises(FileNotFoundError, match="draw:P% or the path of a list"):
        execution.run(request("folder_semi", root, tmp_path, "split", str(tmp_path / "none.txt"), check=True))


def test_the_usual_data_root_is_no_set_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(classes(tmp_path / "datasets")))
    with pytest.raises(ValueError, match="folder_knn: expected --data FOLDER, .* found none"):
        execution.run(request("folder_knn", None, tmp_path, check=True))


def test_there_is_no_preset(tmp_path):
    with pytest.raises(ValueError, match="unknown preset 'moco'; known are none"):
        TASKS["folder_linear"].config.override(["preset", "moco"])
