"""Pictures kept on the device: Pillow's crop, and the order, draws and replacements of the other backends."""
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from pretrain.pictures import resident
from pretrain.pictures.augment import VIEWS, draws
from pretrain.pictures.feed import Feed
from pretrain.pictures.resident import Misfit, ResidentViews, load, resized
from pretrain.pictures.sources import open_source
from pretrain.trainer import Run
from tests.pretrain_toys import lines, start, toy_recipe, toy_run, write_pictures

CPU = torch.device("cpu")


def pictures(count=12, height=32, width=32):
    """Smooth levels with sharp spots, (count, H, W, 3) uint8."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (count, 4, 5, 3), np.uint8)
    images = np.stack([np.asarray(Image.fromarray(one).resize((width, height), 2)) for one in coarse]).copy()
    images[draw.random(images.shape) < 0.1] = 255
    return images


def npz(folder, images):
    np.savez(folder / "set.npz", images=images)
    return folder / "set.npz"


def held_at(path, workers=0):
    return load(open_source(path), workers, CPU, float("inf"))


@pytest.mark.parametrize("height, width, size", [(32, 32, 32), (64, 64, 64), (40, 56, 24), (20, 30, 48)])
def test_the_crop_is_pillows(height, width, size):
    """Two calls of Pillow, since newer ones choose which direction comes first."""
    images = pictures(40, height, width)
    stored = torch.from_numpy(images).permute(0, 1, 3, 2).contiguous()
    boxes = [draws(VIEWS, width, height, 0, 0, index)[0].box for index in range(38)]
    boxes += [(0, 0, width, height), (width - 1, height - 1, 1, 1)]
    found = resized(stored, torch.tensor([[index, *box] for index, box in enumerate(boxes)]), size)
    for image, (left, top, wide, high), own in zip(images, boxes, found):
        box = Image.fromarray(image).crop((left, top, left + wide, top + high))
        wanted = box.resize((size, high), Image.Resampling.BICUBIC)
        wanted = wanted.resize((size, size), Image.Resampling.BICUBIC)
        assert torch.equal(own, functional.pil_to_tensor(wanted).float())


def feed_of(root, data, recipe=None, **changes):
    run = Run(data, root / "run", **(dict(workers=0) | changes))
    return Feed(recipe or toy_recipe(views="device", image_size=32, batch_size=4), run, CPU)


def all_batches(feed, epoch=1, start=0):
    return [torch.stack(views) for views in feed.batches(epoch, start)]


@pytest.mark.parametrize("workers", [0, 2])
def test_order_and_draws_are_those_of_the_host(tmp_path, workers):
    """The crops of the host differ from Pillow's by two levels at most; the colours can double that."""
    data = npz(tmp_path, pictures())
    held = all_batches(feed_of(tmp_path, data, data_on="device", workers=workers))
    host = all_batches(feed_of(tmp_path, data, data_on="host"))
    assert len(held) == len(host) == 3
    level = 1 / 255 / 0.225
    for one, other in zip(held, host):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert (one - other).abs().mean() < 0.2 * level
        assert not torch.equal(one[0], one[1])


def test_views_of_several_sizes_are_those_of_the_host(tmp_path):
    recipe = toy_recipe(method="swav", views="device", image_size=32, small_size=20, prototypes=5)
    data, level = npz(tmp_path, pictures()), 1 / 255 / 0.225
    held, host = (next(feed_of(tmp_path, data, recipe, data_on=place).batches(1, 0)) for place in
                  ("device", "host"))
    assert [view.shape for view in held] == [(4, 3, size, size) for size in [32] * 2 + [20] * 6]
    for one, other in zip(held, host, strict=True):
        assert one.shape == other.shape and (one - other).abs().mean() < 0.2 * level


def test_a_feed_goes_on_within_an_epoch(tmp_path):
    data = npz(tmp_path, pictures())
    feed = feed_of(tmp_path, data, data_on="device", workers=1)
    assert torch.equal(all_batches(feed, 1, 2)[0], all_batches(feed, 1)[2])
    assert not torch.equal(all_batches(feed, 0)[0], all_batches(feed, 1)[0])


def test_a_damaged_picture_is_replaced_as_on_the_host(tmp_path):
    write_pictures(tmp_path, 8)
    (tmp_path / "train" / "a" / "3.png").write_bytes(b"no picture")
    found = {}
    for place in ("host", "device"):
        changes = dict(views="device", epochs=1)
        start(tmp_path, place, run=dict(data_on=place), **changes)
        found[place] = lines(tmp_path / place)
        record = (tmp_path / place / "bad_pictures.txt").read_text()
        assert "3.png" in record and "unknown format" in record
    replaced = [[line["replaced_pictures"] for line in found[place]] for place in found]
    assert replaced[0] == replaced[1] and replaced[0][-1] > 0


def test_workers_get_no_pixels(tmp_path):
    backend = ResidentViews(held_at(npz(tmp_path, pictures())))
    copy = pickle.loads(pickle.dumps(backend))
    assert copy.held.pixels is None and (copy.height, copy.width) == (32, 32)


def test_grey_pictures_and_workers(tmp_path):
    images = pictures()[..., 0]
    held = held_at(npz(tmp_path, images), workers=2)
    assert torch.equal(held.pixels[:, :, 1], torch.from_numpy(images))


def test_what_does_not_fit_is_refused_or_stays_on_the_host(tmp_path):
    write_pictures(tmp_path, 8)
    with pytest.raises(ValueError, match="--views device, found --views pil"):
        start(tmp_path, "pil", run=dict(data_on="device"))
    with pytest.raises(Misfit, match="8 pictures of 60 x 60"):
        load(open_source(tmp_path), 0, CPU, 8 * 60 * 60 * 3 - 1)
    Image.new("RGB", (61, 60)).save(tmp_path / "train" / "a" / "5.png")
    with pytest.raises(ValueError, match="one size, found 60 x 60 and, in .*5.png, 61 x 60"):
        start(tmp_path, "sizes", run=dict(data_on="device"), views="device")
    with pytest.raises(ValueError, match="--data-on expected one of auto, device, host"):
        toy_run(tmp_path, "run", data_on="disk")


def test_auto_keeps_what_fits_on_a_gpu(tmp_path, monkeypatch):
    """The CPU plays the GPU."""
    class Gpu:
        type = "cuda"

    recipe, run = toy_recipe(views="device"), toy_run(tmp_path, "run", data_on="auto")
    source = open_source(npz(tmp_path, pictures()))
    monkeypatch.setattr(resident, "load", lambda source, workers, _, room: load(source, workers, CPU, room))
    size = 12 * 32 * 32 * 3
    monkeypatch.setattr(resident, "memory_of", lambda device: 5 * size)
    assert resident.hold(source, recipe, run, Gpu)
    assert not resident.hold(source, recipe, run, CPU)
    assert not resident.hold(source, toy_recipe(views="pil"), run, Gpu)
    monkeypatch.setattr(resident, "memory_of", lambda device: 5 * size - 5)
    assert not resident.hold(source, recipe, run, Gpu)
