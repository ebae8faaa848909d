"""The training stream: a function of seed and iteration, whatever the workers and interruptions."""

import itertools

import detection_toys as toys
import pytest
import torch
from detectron2.data.common import AspectRatioGroupedDataset

from transfer.detection import loader
from transfer.detection.protocol import Config
from transfer.detection.trainer import prepare


def images(wide):
    return [{"width": 2 if flag else 1, "height": 1, "number": number} for number, flag in enumerate(wide)]


def batches(start, rank, ranks, grouped, batch=3):
    """The places of each batch from `start` on, grouped by Detectron2 itself."""
    stream = loader.Stream(images([True, False, False, True, False, True, False]), seed=5)
    places = loader.Places(stream, batch, grouped, start, rank, ranks)
    if not grouped:
        endless = iter(places)
        while True:
            yield list(itertools.islice(endless, batch))
    for found in AspectRatioGroupedDataset((stream[place] for place in places), batch):
        yield [item["place"] for item in found]


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("start", [1, 2, 5, 8])
def test_a_later_start_gives_the_same_batches(grouped, ranks, start):
    for rank in range(ranks):
        whole = list(itertools.islice(batches(0, rank, ranks, grouped), start + 6))
        assert list(itertools.islice(batches(start, rank, ranks, grouped), 6)) == whole[start:]


def test_each_epoch_is_a_new_order_of_all_images_shared_by_the_ranks():
    stream = loader.Stream(images([True] * 7), seed=5)
    epochs = [[stream.index(place) for place in range(7 * epoch, 7 * epoch + 7)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    ranks = [set(itertools.islice(loader.Places(stream, 1, False, 0, rank, 2), 10)) for rank in range(2)]
    assert not ranks[0] & ranks[1] and ranks[0] | ranks[1] == set(range(20))
    assert [loader.Stream(images([True] * 7), seed=6).index(place) for place in range(7)] != epochs[0]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return toys.write_voc(tmp_path_factory.mktemp("voc"))


def read(root, count, start=0, pairs=(), **changes):
    config = Config("pascal_voc_R_50_C4_24k_bt.yaml").override([*toys.SMALL, *pairs])
    found = loader.TrainLoader(prepare(config, toys.context(root, root, **changes)))
    found.start = start
    return [[(item["file_name"], item["image"], item["instances"].gt_boxes.tensor) for item in batch]
            for batch in itertools.islice(found, count)]


def same(first, second):
    return len(first) == len(second) and all(
        len(a) == len(b) and all(x[0] == y[0] and torch.equal(x[1], y[1]) and torch.equal(x[2], y[2])
                                 for x, y in zip(a, b)) for a, b in zip(first, second))


def test_workers_and_start_do_not_change_images_or_augmentation(root):
    whole = read(root, 8)
    assert same(read(root, 6, workers=2), whole[:6])
    assert same(read(root, 3, start=5), whole[5:])
    ungrouped = "DATALOADER.ASPECT_RATIO_GROUPING", "False"
    assert same(read(root, 4, pairs=ungrouped, workers=2), read(root, 4, pairs=ungrouped))
    assert not same(read(root, 8, seed=1), whole)
    sizes = {tuple(image.shape) for batch in whole for _, image, _ in batch}
    assert len(sizes) > 2  # wide and tall images at several scales: the augmentation does vary
