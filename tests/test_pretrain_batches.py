"""Image folders, the order of an epoch, that workers change nothing, and pictures that cannot be used."""
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DistributedSampler
from torchvision.datasets import ImageFolder

from pretrain.pictures import batches
from pretrain.pictures.augment import make_backend, sized
from pretrain.pictures.batches import EpochBatches, build_loader, one_line
from pretrain.pictures.sources import open_source

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two classes of six cuts each of scikit-learn's photographs, one grey, one with transparency."""
    root = tmp_path_factory.mktemp("pictures") / "train"
    for name, photograph in zip(("china", "flower"), load_sample_images().images):
        (root / name / "more").mkdir(parents=True)
        for number in range(6):
            cut = Image.fromarray(photograph[number * 40:number * 40 + 80, number * 60:number * 60 + 100])
            cut.save(root / name / ("more" if number == 5 else ".") / f"{number}.jpg")
    Image.open(root / "china" / "0.jpg").convert("L").save(root / "china" / "0.jpg")
    Image.open(root / "china" / "1.jpg").convert("RGBA").save(root / "china" / "1.png")
    (root / "china" / "1.jpg").unlink()
    (root / "china" / "notes.txt").write_text("not a picture")
    return root


def test_files_and_labels_are_those_of_torchvisions_image_folder(root):
    source, samples = open_source(root), ImageFolder(root).samples
    assert [(source.name(index), source.labels(index)) for index in range(len(source))] == samples


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_order_is_distributed_samplers(processes):
    for rank in range(processes):
        batches = EpochBatches(51, 8, processes, rank, seed=7)
        batches.epoch = 3
        sampler = DistributedSampler(range(51), processes, rank, shuffle=True, seed=7)
        sampler.set_epoch(3)
        steps = list(batches)
        assert len(steps) == len(batches) == 6 and all(len(step) == 8 // processes for step in steps)
        assert [item for step in steps for item in step] == [(3, i) for i in sampler][:6 * 8 // processes]


@pytest.mark.parametrize("images, batch, processes, message", [
    (100, 9, 2, "--batch-size 9 does not divide by 2 processes; choose a multiple of 2"),
    (7, 8, 1, "--batch-size 8 is more than the 7 pictures"),
], ids=["processes", "pictures"])
def test_batches_that_cannot_be_dealt_out_are_refused(images, batch, processes, message):
    with pytest.raises(ValueError, match=message):
        EpochBatches(images, batch, processes, 0, 0)


def loader_of(root, workers, record=None):
    settings = SimpleNamespace(batch_size=4, seed=5, accumulate=1, labelled=False)
    return build_loader(open_source(root), make_backend("pil", sized(32)), settings, workers,
                        processes=1, rank=0, pin_memory=False, record=record)


def batches_of(root, workers, epochs, start=0):
    loader = loader_of(root, workers)
    found = []
    for epoch in epochs:
        loader.batch_sampler.epoch, loader.batch_sampler.start = epoch, start
        found += [torch.stack(list(views)) for views in loader]
    return found


def test_workers_change_nothing_and_epochs_differ(root):
    wanted, found = batches_of(root, 0, [0, 1]), batches_of(root, 2, [0, 1])
    assert len(wanted) == len(found) == 6 and wanted[0].shape == (2, 4, 3, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(wanted, found))
    assert torch.equal(batches_of(root, 2, [1])[0], wanted[3])  # as after a resume
    assert not torch.equal(wanted[0], wanted[3])


@pytest.mark.parametrize("start", [1, 2, 3])
def test_an_epoch_goes_on_where_it_was_left(root, start):
    rest = batches_of(root, 1, [1], start)
    assert len(rest) == 3 - start
    assert all(torch.equal(a, b) for a, b in zip(rest, batches_of(root, 0, [1])[start:], strict=True))


def test_length_is_that_of_a_whole_epoch(root):
    loader = loader_of(root, 0)
    loader.batch_sampler.start = 2
    assert len(loader) == 3  # the learning rate's schedule counts with it


@pytest.fixture
def damaged(root, tmp_path):
    """The pictures, one of them cut short, one foreign, one gone after the start; and their names."""
    folder = shutil.copytree(root.parent, tmp_path / "damaged") / "train"
    names = [str(folder / name) for name in ("china/2.jpg", "flower/1.jpg", "flower/more/5.jpg")]
    data = Path(names[0]).read_bytes()
    Path(names[0]).write_bytes(data[:len(data) // 2])
    Path(names[1]).write_text("<html>404 not found</html>")
    return folder, names


def run_through(damaged, workers, record=None):
    folder, names = damaged
    loader = loader_of(folder, workers, record)
    gone = Path(names[2])
    if gone.exists():
        gone.unlink()
    found = []
    for loader.batch_sampler.epoch in (0, 1):
        found += [torch.stack(list(views)) for views in loader]
    return loader, found


def restore(root, damaged):
    shutil.copy(root / "flower/more/5.jpg", damaged[1][2])


def test_unusable_pictures_are_replaced_named_and_counted(root, damaged, tmp_path):
    record = tmp_path / "bad_pictures.txt"
    loader, found = run_through(damaged, 2, record)
    assert all(batch.shape == (2, 4, 3, 32, 32) for batch in found) and len(found) == 6
    assert set(loader.bad_pictures) == set(damaged[1]) and loader.replaced == 6  # three in each epoch
    lines = dict(line.split("\t") for line in record.read_text().splitlines())
    assert lines == loader.bad_pictures and len(record.read_text().splitlines()) == 3
    reasons = [lines[name] for name in damaged[1]]
    assert "truncated" in reasons[0] and "unknown format" in reasons[1]
    assert reasons[2] == "No such file or directory"
    restore(root, damaged)
    again, same = run_through(damaged, 0, record)  # as after a restart, with other workers
    assert all(torch.equal(a, b) for a, b in zip(found, same, strict=True))
    assert again.replaced == 6 and len(record.read_text().splitlines()) == 3


def test_other_samples_stay_as_they_are(root, damaged):
    found, sound = run_through(damaged, 0)[1], batches_of(root.parent, 0, [0, 1])
    equal = [torch.equal(a[:, i], b[:, i]) for a, b in zip(found, sound, strict=True) for i in range(4)]
    assert equal.count(False) == 6


def test_data_without_usable_pictures_ends_the_run_through_a_worker(tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(4):
        (tmp_path / "a" / f"{number}.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError) as caught:
        batches_of(tmp_path, 1, [0])
    message = str(one_line(caught.value))
    assert message.startswith(str(tmp_path / "a")) and "unknown format" in message and "\n" not in message
    assert "none of 19 other pictures" in message


def test_a_read_that_fails_for_a_moment_is_tried_again(monkeypatch):
    calls, pauses = [], []

    class Moody:
        def read(self, index):
            calls.append(index)
            if len(calls) < 3:
                raise OSError(5, "Input/output error")
            return b"data"
    monkeypatch.setattr(batches.time, "sleep", pauses.append)
    assert batches.patiently(Moody(), 7) == b"data"
    assert calls == [7, 7, 7] and pauses == [1.0, 5.0]


def test_a_worker_says_nothing_of_a_trainer_that_left():
    """Its thread that hands batches over meets a closed connection, now and then, after Ctrl-C."""
    code = ("import sys; from parallel import signals; signals.loader_worker(0)\n"
            "for error in (ConnectionResetError('left'), EOFError('left'), KeyError('seen')):\n"
            "    sys.excepthook(type(error), error, None)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines() == ["KeyError: 'seen'"]
