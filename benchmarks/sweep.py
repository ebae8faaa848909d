"""Linear evaluation's step with ten heads over that with one, and the memory of both.

    python -m benchmarks.sweep [--device cpu|cuda] [--images N] [--rounds N]

The ten heads are five learning rates times two weight decays, on one stream of frozen features of 224-px
images, 1000 classes. Unlike in the other benchmarks a small ratio is good: ten runs would be 10. Exits with 1
above the target, which is for one CPU thread (OMP_NUM_THREADS=1). Larger batches make the ratio smaller.
"""
import dataclasses
import sys

import torch

from benchmarks import common
from benchmarks.frozen import CLASSES, SIZE, batch
from transfer.classification import linear
from transfer.classification.features import features_of, freeze
from transfer.classification.heads import make_heads
from transfer.weights.readers import read

FLAGS = {"device": "cpu", "images": 32, "rounds": 5}
TARGET = 1.2
CONFIGS = {"one": linear.IMAGENET,
           "ten": dataclasses.replace(linear.IMAGENET, sweep_learning_rates=(0.03, 0.1, 0.3, 1.0, 3.0),
                                      sweep_weight_decays=(0.0, 1e-6))}


def step_of(name, device, images):
    """Return a function that makes a step of all heads."""
    device, config = torch.device(device), CONFIGS[name]
    pictures, labels = batch(images, SIZE, CLASSES)
    backbone = read("random")
    network, heads = freeze(backbone, device), make_heads(config, backbone.arch.width, CLASSES, 0, device)
    sgd = linear.optimiser_of(heads, config)
    return lambda: linear.train_step(heads, sgd, features_of(network, pictures, device, config.precision),
                                     labels.to(device), images)


def peak(name, device, images):
    """Return the bytes of one step above network, heads and momenta."""
    step = step_of(name, device, images)
    step()
    return common.peak_bytes(step, torch.device(device))


def measure(args):
    device = torch.device(args.device)
    mib = [common.in_fresh_process(peak, name, args.device, args.images) / common.MIB for name in CONFIGS]
    steps = {name: step_of(name, args.device, args.images) for name in CONFIGS}
    seconds = common.compare(steps, args.rounds, synchronise=common.synchroniser(device))
    ratio = common.ratio(seconds["ten"], seconds["one"])
    return [common.Row(f"{args.images} images", "time, ten heads over one", ratio, f"{TARGET} at most",
                       f"{mib[1]:.0f} and {mib[0]:.0f} MiB", ratio.median > TARGET)]


if __name__ == "__main__":
    sys.exit(common.main(__doc__, FLAGS, measure))
