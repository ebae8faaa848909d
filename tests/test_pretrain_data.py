"""Image folders, the order of an epoch, and that workers change nothing."""
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DistributedSampler
from torchvision.datasets import ImageFolder

from pretrain.data import EpochBatches, build_loader, image_files, one_line


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


def test_files_are_those_of_torchvisions_image_folder(root):
    assert image_files(root) == [path for path, _ in ImageFolder(root).samples]


@pytest.mark.parametrize("prepare, message", [
    (lambda root: None, "train: no such folder; expected DATA/train/<class>/<picture>"),
    (lambda root: root.mkdir(), "train: no class folders in it"),
    (lambda root: [(root / name).mkdir(parents=True) for name in "ab"],
     "train: 2 of 2 class folders hold no picture, first a; complete the data or remove the folder"),
], ids=["missing", "empty", "classes without pictures"])
def test_incomplete_folders_are_refused(tmp_path, prepare, message):
    prepare(tmp_path / "train")
    with pytest.raises(FileNotFoundError, match=message):
        image_files(tmp_path / "train")


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


def batches_of(root, workers, epochs):
    settings = SimpleNamespace(batch_size=4, seed=5, image_size=32)
    loader = build_loader(image_files(root), settings, workers, processes=1, rank=0, pin_memory=False)
    found = []
    for epoch in epochs:
        loader.batch_sampler.epoch = epoch
        found += [torch.stack(views) for views in loader]
    return found


def test_workers_change_nothing_and_epochs_differ(root):
    wanted, found = batches_of(root, 0, [0, 1]), batches_of(root, 2, [0, 1])
    assert len(wanted) == len(found) == 6 and wanted[0].shape == (2, 4, 3, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(wanted, found))
    assert torch.equal(batches_of(root, 2, [1])[0], wanted[3])  # as after a resume
    assert not torch.equal(wanted[0], wanted[3])


def test_unreadable_pictures_are_named_through_a_worker(tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(4):
        (tmp_path / "a" / f"{number}.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError) as caught:
        batches_of(tmp_path, 1, [0])
    message = str(one_line(caught.value))
    assert message.startswith(str(tmp_path / "a")) and "not a readable picture" in message
    assert "\n" not in message
