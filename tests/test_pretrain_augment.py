"""The reference views on real photographs: what is drawn, what is done, both by the seed alone."""
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from sklearn.datasets import load_sample_images
from torch.utils.data import default_collate
from torchvision.transforms import functional

from parallel.pixels import MEAN, STD
from pretrain.pictures.augment import VIEWS, ViewParameters, make_backend, sample, sized
from pretrain.pictures.augment import draws as draws_of
from pretrain.pictures.views_pil import apply

PHOTOGRAPH = Image.fromarray(load_sample_images().images[0])  # 640 x 427
WHOLE = ViewParameters(box=(0, 0, 640, 427), flip=False, jitter=(), grey=False, blur=None, solarise=False)


def changed(**values):
    return ViewParameters(**(vars(WHOLE) | values))


def draws(recipe, count=4000, size=(640, 427)):
    return [sample(recipe, *size, random.Random(f"test {number}")) for number in range(count)]


@pytest.mark.parametrize("view, blur, solarise", [(0, 1.0, 0.0), (1, 0.1, 0.2)])
def test_probabilities_and_ranges_are_the_official_ones(view, blur, solarise):
    """Table 1.2 of the protocols. 4000 draws: a frequency is off by less than 0.04 (five standard errors)."""
    all_draws = draws(VIEWS[view])
    for name, wanted in dict(flip=0.5, jitter=0.8, grey=0.2, blur=blur, solarise=solarise).items():
        found = np.mean([getattr(one, name) not in (None, False, ()) for one in all_draws])
        assert found == wanted if wanted in (0, 1) else abs(found - wanted) < 0.04, name
    factors = {name: [] for name in ("brightness", "contrast", "saturation", "hue")}
    orders = set()
    for one in all_draws:
        orders.add(tuple(name for name, _ in one.jitter))
        for name, factor in one.jitter:
            factors[name].append(factor)
    assert len(orders) == 25  # 24 orders and none
    for name, (low, high) in dict(brightness=(0.6, 1.4), contrast=(0.6, 1.4), saturation=(0.8, 1.2),
                                  hue=(-0.1, 0.1)).items():
        near = (high - low) * 0.01
        assert low <= min(factors[name]) < low + near and high - near < max(factors[name]) <= high, name
    radii = [one.blur for one in all_draws if one.blur is not None]
    assert 0.1 <= min(radii) < 0.15 and 1.95 < max(radii) <= 2.0


def test_boxes_lie_inside_and_have_the_official_areas():
    boxes = np.array([one.box for one in draws(VIEWS[0])])
    left, top, width, height = boxes.T
    assert left.min() >= 0 and top.min() >= 0
    assert (left + width).max() <= 640 and (top + height).max() <= 427
    area, ratio = width * height / (640 * 427), width / height
    assert 0.078 < area.min() < 0.09
    assert 0.85 < area.max() < 0.89  # no box of ratio 4/3 covers more of this picture
    assert 0.74 < ratio.min() < 0.76 and 1.32 < ratio.max() < 1.35
    assert left.min() == 0 and (left + width).max() == 640


@pytest.mark.parametrize("size, box", [
    ((1000, 10), (493, 0, 13, 10)), ((10, 1000), (0, 493, 10, 13))], ids=["wide", "tall"])
def test_pictures_too_narrow_get_the_central_box(size, box):
    assert {one.box for one in draws(VIEWS[0], 20, size)} == {box}


@pytest.mark.parametrize("parameters, wanted", [
    (WHOLE, lambda image: image),
    (changed(flip=True), ImageOps.mirror),
    (changed(grey=True), lambda image: image.convert("L").convert("RGB")),
    (changed(blur=1.5), lambda image: image.filter(ImageFilter.GaussianBlur(1.5))),
    (changed(solarise=True), lambda image: image.point(lambda level: 255 - level if level >= 128 else level)),
    (changed(jitter=(("brightness", 0.7),)), lambda image: image.point(lambda level: int(level * 0.7))),
    (changed(flip=True, solarise=True, grey=True), lambda image: ImageOps.solarize(
        ImageOps.mirror(image).convert("L").convert("RGB"))),
], ids=["crop", "flip", "grey", "blur", "solarise", "brightness", "order"])
def test_operations_are_pillows(parameters, wanted):
    found = np.asarray(apply(PHOTOGRAPH, parameters, 96)).astype(int)
    resized = PHOTOGRAPH.resize((96, 96), Image.Resampling.BICUBIC)
    assert found.shape == (96, 96, 3)
    assert abs(found - np.asarray(wanted(resized)).astype(int)).max() <= (1 if parameters.jitter else 0)


def test_jitter_is_done_in_the_drawn_order():
    one = (("brightness", 1.4), ("contrast", 0.6))
    assert apply(PHOTOGRAPH, changed(jitter=one), 64) != apply(PHOTOGRAPH, changed(jitter=one[::-1]), 64)


def two_views(size, *draw):
    backend = make_backend("pil", sized(size))
    batch = default_collate([backend.views(PHOTOGRAPH, *draw)])
    return [view[0] for view in backend.finish(batch, torch.device("cpu"))]


def test_views_are_normalised_tensors_that_depend_on_seed_epoch_and_index_only():
    random.seed(1)
    first = two_views(64, 0, 3, 17)
    random.seed(2)
    again = two_views(64, 0, 3, 17)
    for view, same in zip(first, again):
        assert view.shape == (3, 64, 64) and view.dtype == torch.float32 and torch.equal(view, same)
        levels = view * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
        assert levels.min() > -1e-5 and levels.max() < 1 + 1e-5 and levels.std() > 0.05
    assert not torch.equal(*first)
    for other in ((1, 3, 17), (0, 4, 17), (0, 3, 18), (0, 31, 7)):
        assert not torch.equal(two_views(64, *other)[0], first[0]), other


def test_views_are_bit_for_bit_what_to_tensor_and_normalize_give():
    wanted = [functional.normalize(functional.to_tensor(apply(PHOTOGRAPH, one, 64)), MEAN, STD)
              for one in draws_of(VIEWS, *PHOTOGRAPH.size, 0, 3, 17)]
    assert all(torch.equal(a, b) for a, b in zip(two_views(64, 0, 3, 17), wanted))


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="--views expected one of pil, fast, device, found 'cv'"):
        make_backend("cv")
