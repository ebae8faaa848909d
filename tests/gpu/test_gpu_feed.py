"""The feed makes the next batch on a stream of its own. It never hands out one that is still being written,
nor writes into one that is still being read. Each of its two safeguards is taken away once, which shows.
"""
import torch

from pretrain.pictures.feed import Feed
from tests.pretrain_toys import toy_recipe, toy_run, write_pictures

STEPS, SHAPE = 10, (2, 3, 64, 64)
LONG = 100_000_000  # cycles of a GPU, about 50 ms


class Counting:
    """A backend whose batch is its number from 1 on, in every pixel: written late, or at once."""

    def __init__(self, late):
        self.late, self.made = late, 0

    def finish(self, batch, device):
        self.made += 1
        view = torch.zeros(SHAPE, device=device)
        if self.late:
            torch.cuda._sleep(LONG)
        return (view.add_(self.made),)  # in place: another tensor could be the memory of the batch before


def seen(root, device, late):
    """What a reader of the feed finds in each batch: the smallest and largest pixel. The reader is slow where
    the writer is not."""
    write_pictures(root, 2 * STEPS)
    run = toy_run(root, "run", device=device.type, channels_last=False)
    feed = Feed(toy_recipe(batch_size=2, image_size=8), run, device)
    feed.loader.backend.finish = Counting(late).finish
    found = []
    for (view,) in feed.batches(0, 0):
        if device.type == "cuda" and not late:
            torch.cuda._sleep(LONG)
        found.append(torch.stack(view.aminmax()))
        del view
    return torch.stack(found).cpu().tolist()


WANTED = [[number, number] for number in range(1, STEPS + 1)]


def test_batches_come_in_order(device, tmp_path):
    assert seen(tmp_path, device, late=False) == WANTED


def test_a_batch_is_handed_out_when_it_is_written(cuda, tmp_path):
    assert seen(tmp_path, cuda, late=True) == WANTED


def test_without_the_wait_a_batch_would_be_read_too_early(cuda, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda.Stream, "wait_stream", lambda stream, other: None)
    assert seen(tmp_path, cuda, late=True) != WANTED


def test_without_the_record_a_batch_would_be_overwritten_while_it_is_read(cuda, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    assert seen(tmp_path, cuda, late=False) != WANTED
