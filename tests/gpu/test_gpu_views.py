"""The device views: Pillow's levels within the table of tests/test_pretrain_views.py, and those of a CPU.

On a GPU only hue and blur may differ from a CPU, by a level where a fused multiply-add or another order of a
sum falls on the other side of a rounding; all other operations are exact in float32.
"""

import numpy as np
import pytest
import test_pretrain_views as table
import torch
from torch.utils.data import default_collate

from pretrain.pictures.augment import VIEWS, draws, make_backend, sized
from pretrain.pictures.feed import Feed
from pretrain.pictures.resident import resized
from pretrain.pictures.views_device import finish_views, pack, planes
from pretrain.pictures.views_pil import apply
from pretrain.trainer import Run
from tests.pretrain_toys import toy_recipe

LEVEL = 1 / 255 / 0.225  # the widest of the normalised views


def view_on(device, picture, one, size):
    cropped = table.cropped(picture, one, size)[None].to(device)
    return finish_views(planes(cropped), torch.tensor([pack(one)])).cpu()


@pytest.mark.parametrize("operation, parameters, bounds", table.DISTANCES,
                         ids=[row[0] for row in table.DISTANCES])
def test_distance_from_pillow_and_from_a_cpu(operation, parameters, bounds, device):
    apart, moved = [], []
    for picture, one, size in table.cases(operation, parameters):
        found = view_on(device, picture, one, size)
        apart.append((found - table.levels(apply(picture, one, size))).abs().flatten())
        moved.append((found - table.by_device(picture, one, size)).abs().flatten())
    apart, moved = torch.cat(apart), torch.cat(moved)
    found = apart.max().item(), apart.mean().item(), 100 * (apart > 1).float().mean().item()
    print(f"{operation:14} max {found[0]:2.0f} mean {found[1]:.4f} over 1: {found[2]:.4f} %; "
          f"from a CPU {moved.max().item():.0f}, {100 * (moved > 0).float().mean().item():.4f} %")
    assert all(a <= b for a, b in zip(found, bounds))
    rounded = operation == "hue" or operation.startswith("blur")
    assert moved.max() <= rounded and (moved > 0).float().mean() <= 1e-3


@pytest.mark.parametrize("size", [32, 224])
def test_a_batch_is_that_of_a_cpu(size, device):
    """Each sample with its own parameters and order. A level at solarise's threshold may become another."""
    backend = make_backend("device", sized(size))
    pictures = [backend.decode(table.np.asarray(photograph)) for photograph in table.PHOTOGRAPHS]
    batch = default_collate([backend.views(pictures[index % 2], 5, 2, index) for index in range(24)])
    pinned = [part.pin_memory() for part in batch] if device.type == "cuda" else batch
    alone = default_collate([backend.views(pictures[7 % 2], 5, 2, 7)])
    for found, wanted, one in zip(backend.finish(pinned, device), backend.finish(batch, table.CPU),
                                  backend.finish(alone, device), strict=True):
        assert found.device == device and found.dtype == torch.float32 and found.shape == (24, 3, size, size)
        apart = (found.cpu() - wanted).abs()
        assert apart.mean() < 1e-4 and (apart > 1.01 * LEVEL).float().mean() < 1e-4
        assert (found[7] - one[0]).abs().mean() < 1e-4


@pytest.mark.parametrize("size", [32, 48])
def test_the_crop_of_pictures_kept_there_is_that_of_a_cpu(size, device):
    """Bit for bit: its sums are of whole numbers."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (20, 32, 3, 40), dtype=torch.uint8, generator=draw)
    boxes = [draws(VIEWS, 40, 32, 0, 0, index)[0].box for index in range(20)]
    where = torch.tensor([[index, *box] for index, box in enumerate(boxes)])
    found = resized(pixels.to(device), where.to(device), size)
    assert found.device == device
    assert torch.equal(found.cpu(), resized(pixels, where, size))


def test_a_feed_of_pictures_kept_there_is_that_of_a_cpu(device, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "set.npz", images=images)
    recipe = toy_recipe(views="device", image_size=32, batch_size=16)

    def batches(place):
        run = Run(tmp_path / "set.npz", tmp_path, device=place.type, workers=2, data_on="device")
        return [torch.stack(views).cpu() for views in Feed(recipe, run, place).batches(0, 0)]

    for found, wanted in zip(batches(device), batches(table.CPU), strict=True):
        apart = (found - wanted).abs()
        assert apart.mean() < 1e-4 and (apart > 1.01 * LEVEL).float().mean() < 1e-4
