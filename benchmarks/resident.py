"""Small pictures kept on the device, against loader workers that make the whole views.

    python -m benchmarks.resident [--device cuda] [--data cifar10.npz] [--workers N]

Pictures per second (two views each) of the trainer's feed, ready for the network: an epoch of batches of 256
with nothing else at work. On a CPU the views are made by the same cores as the network would be. Without
--data the pictures are random levels of 32 x 32, which cost the same.
"""
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks import common
from pretrain import methods
from pretrain.pictures.feed import Feed
from pretrain.trainer import Run

FLAGS = {"device": "cpu", "data": "", "workers": 2, "rounds": 5}
PICTURES = 50_000 // 16
KINDS = {"pil": ("pil", "host"), "fast": ("fast", "host"), "device": ("device", "host"),
         "device, pictures too": ("device", "device")}


def epoch_of(views, data_on, args, folder):
    """Return a function that makes all batches of an epoch. Each call takes the next epoch."""
    recipe = methods.recipe("cifar10", views=views)
    run = Run(Path(args.data or folder / "set.npz"), folder, device=args.device, workers=args.workers,
              data_on=data_on)
    feed = Feed(recipe, run, torch.device(args.device))
    epochs = iter(range(10**6))

    def epoch():
        for _ in feed.batches(next(epochs), 0):
            pass

    return epoch, feed.steps * recipe.batch_size


def measure(args):
    with tempfile.TemporaryDirectory() as folder:
        if not args.data:
            images = np.random.default_rng(0).integers(0, 256, (PICTURES, 32, 32, 3), np.uint8)
            np.savez(Path(folder) / "set.npz", images=images)
        made = {name: epoch_of(*kind, args, Path(folder)) for name, kind in KINDS.items()}
        seconds = common.compare({name: epoch for name, (epoch, _) in made.items()}, args.rounds, 0.0,
                                 common.synchroniser(torch.device(args.device)))
    return [common.Row(f"{name}, {args.workers} workers", "pictures a second, over pil's",
                       common.ratio(seconds["pil"], own),
                       beside=f"{made[name][1] / statistics.median(own):.0f} pictures/s")
            for name, own in seconds.items()]


if __name__ == "__main__":
    sys.exit(common.main(__doc__, FLAGS, measure))
