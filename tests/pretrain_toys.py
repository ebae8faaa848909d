"""A tiny network and a tiny data set, so that whole runs take a second."""
import json

from PIL import Image
from torch import nn

from pretrain.methods import recipe
from pretrain.trainer import Run, train

# What differs between two runs that did the same.
SPEED = ("time", "images_per_second", "data_wait_share")


def toy_backbone(arch, stem):
    return nn.Sequential(nn.Conv2d(3, 6, 5, stride=4), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten()), 6


def write_pictures(root, count=10):
    """root/train/a/<number>.png, 60 x 60 pixels, cut from two photographs."""
    from sklearn.datasets import load_sample_images  # here: not every user of the toys waits for it

    folder = root / "train" / "a"
    folder.mkdir(parents=True, exist_ok=True)
    photographs = load_sample_images().images
    for number in range(count):
        left, top = number * 30, number * 20
        Image.fromarray(photographs[number % 2][top:top + 60, left:left + 60]).save(folder / f"{number}.png")


def toy_recipe(**changes):
    values = dict(epochs=3, batch_size=4, image_size=24, projector="8-8", precision="fp32", warmup_epochs=1,
                  learning_rate_weights=20.0, learning_rate_biases=1.0)
    return recipe(**(values | changes))


def toy_run(root, folder, **changes):
    (root / folder).mkdir(exist_ok=True)
    return Run(root, root / folder, "the command", **(dict(workers=0, print_freq=1) | changes))


def start(root, folder, run=(), **changes):
    """Train on root's pictures into root/folder. run: changes of Run; the others are of the recipe."""
    return train(toy_recipe(**changes), toy_run(root, folder, **dict(run)))


def lines(folder, without=SPEED):
    """The JSON lines of stats.txt, less what speed decides."""
    found = [json.loads(line) for line in (folder / "stats.txt").read_text().splitlines() if line[0] == "{"]
    return [{name: value for name, value in line.items() if name not in without} for line in found]
