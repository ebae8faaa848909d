"""One step of linear evaluation on a frozen ResNet-50: the plain eval-mode network over ours, with memory.

    python -m benchmarks.frozen [--device cpu|cuda] [--images N] [--rounds N]

Both take the same uint8 images of 224 px to the updated head of 1000 classes. Plain: torchvision's network in
eval mode, float32, only the head requiring a gradient. Ours: inference mode, folded norms and channels_last,
in float32 and in bfloat16, which is an option of the tasks and never the paper's row. Exits with 1 when a
target is missed. Targets are for one thread of a CPU (OMP_NUM_THREADS=1); that of bfloat16 is for one that
has it.
"""
import sys
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks import common
from parallel.pixels import MEAN, STD
from transfer.classification import linear
from transfer.classification.features import features_of, freeze
from transfer.classification.heads import make_heads
from transfer.weights.backbone import build
from transfer.weights.readers import read

FLAGS = {"device": "cpu", "images": 16, "rounds": 5}
CLASSES, SIZE = 1000, 224
TARGETS = {"float32": 1.3, "bfloat16": 2.4}  # least ratio of time


def batch(images, size, classes):
    """Return uint8 images (n, 3, S, S) and labels (n,) of a fixed seed."""
    draw = torch.Generator().manual_seed(0)
    return (torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=draw),
            torch.randint(0, classes, (images,), generator=draw))


def plain(device, images, size, classes, backbone):
    """Return a function that makes a step and returns the summed loss: the protocol in its simplest form."""
    pictures, labels = batch(images, size, classes)
    network = build(backbone).requires_grad_(False).to(device).eval()
    heads = make_heads(linear.IMAGENET, backbone.arch.width, classes, 0, device)
    head, sgd = heads.layers[0], linear.optimiser_of(heads, linear.IMAGENET)
    mean, std = (torch.tensor(value, device=device).view(1, 3, 1, 1) for value in (MEAN, STD))

    def step():
        normal = (pictures.to(device).float() / 255 - mean) / std
        loss = functional.cross_entropy(head(network(normal)), labels.to(device))
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        return loss.detach() * images

    return step


def ours(device, images, size, classes, backbone, precision):
    """Return the same, as the linear tasks do it."""
    pictures, labels = batch(images, size, classes)
    network = freeze(backbone, device, precision)
    heads = make_heads(linear.IMAGENET, backbone.arch.width, classes, 0, device)
    sgd = linear.optimiser_of(heads, linear.IMAGENET)
    return lambda: linear.train_step(heads, sgd, features_of(network, pictures, device, precision),
                                     labels.to(device), images)[0]


def step_of(name, device, images):
    arguments = torch.device(device), images, SIZE, CLASSES, read("random")
    return plain(*arguments) if name == "plain" else ours(*arguments, name)


def peak(name, device, images):
    """Return the bytes of one step above networks, heads and momenta."""
    step = step_of(name, device, images)
    step()
    return common.peak_bytes(step, torch.device(device))


def has_bfloat16(device) -> bool:
    """Return whether the device computes in bfloat16 instead of only storing it."""
    return device.type == "cuda" or "_bf16" in Path("/proc/cpuinfo").read_text()


def measure(args):
    device, rows = torch.device(args.device), []
    names = ["plain", "float32", *(["bfloat16"] if has_bfloat16(device) else [])]
    mib = {name: common.in_fresh_process(peak, name, args.device, args.images) / common.MIB for name in names}
    steps = {name: step_of(name, args.device, args.images) for name in names}
    seconds = common.compare(steps, args.rounds, synchronise=common.synchroniser(device))
    for name in names[1:]:
        time = common.ratio(seconds["plain"], seconds[name])
        rows.append(common.Row(f"ours in {name}", "time, plain over ours", time, f"{TARGETS[name]}",
                               f"{mib['plain']:.0f} and {mib[name]:.0f} MiB", time.median < TARGETS[name]))
    return rows


if __name__ == "__main__":
    sys.exit(common.main(__doc__, FLAGS, measure))
