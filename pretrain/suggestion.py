"""What fits a data set that is smaller than the batch: a command line with another batch, epochs and, for
small pictures, preset."""
import dataclasses
import io
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pretrain.methods import METHODS, recipe
from pretrain.pictures.sources import Source
from pretrain.recipe import Recipe

# As many as the smallest published run that we know: Imagenette's 9,469 pictures for 800 epochs at batch 256
# (imagenette_benchmark.py of lightly-ai/lightly).
STEPS = 36 * 800
LARGEST = 256  # the batch of that run and of solo-learn's for CIFAR
FEWEST = 4     # steps an epoch: the pictures of a last, incomplete batch are left out of it
COMMAND = "barlow-pretrain"  # of pyproject.toml
SMALL = 64     # pixels of a picture's shorter side, up to which CIFAR's preset fits


def too_few(arguments: list[str], config: Recipe, given: dict[str, Any], source: Source,
            processes: int) -> str:
    """Return the error for a batch of more pictures than there are, with a command line that runs. Its flags
    come last, so they replace the same flags among `arguments`. given: the settings that these name."""
    text = f"--batch-size {config.batch_size} is more than the {len(source)} pictures of the data set"
    batch = batch_for(len(source), processes)
    if batch is None:
        return f"{text}; give more pictures"
    steps = len(source) // batch
    words = ["--batch-size", str(batch)]
    if not any(word.startswith("--preset") for word in arguments) and small(source) and \
            "cifar10" in METHODS[config.method].PRESETS:
        words += ["--preset", "cifar10"]
        config = recipe("cifar10", **given)
    fitting: dict[str, Any] = {"batch_size": batch, "accumulate": 1}
    if config.accumulate > 1:
        words += ["--accumulate", "1"]
    if getattr(config, "group", batch) > batch:  # MoCo's, which share batch-norm statistics
        fitting["group"] = batch
        words += ["--group", str(batch)]
    if "epochs" not in given:
        epochs = max(1, round(STEPS / steps))
        words += ["--epochs", str(epochs)]
        if "warmup_epochs" not in given:  # the same share
            words += ["--warmup-epochs", str(round(config.warmup_epochs / config.epochs * epochs))]
    weights, biases = dataclasses.replace(config, **fitting).peak_rates()
    called = Path(sys.argv[0])  # a console command, or a script
    start = [called.name] if called.name == COMMAND else ["python", called if called.name == "main.py" else
                                                          "pretrain/main.py"]
    return (f"{text}; what fits: {shlex.join(map(str, [*start, *arguments, *words]))} ({steps} steps an "
            f"epoch; the rates follow the batch: {weights:g} and {biases:g} after the warm-up)")


def batch_for(pictures: int, processes: int) -> int | None:
    """Return the largest batch of a power of two for each process, up to LARGEST, with FEWEST steps an epoch,
    or with one of a handful of pictures; None where not even two fit."""
    sizes = [processes << power for power in range(1 if processes == 1 else 0, 12)]
    fitting = [size for size in sizes if size <= max(LARGEST, sizes[0]) and size <= pictures // FEWEST]
    return fitting[-1] if fitting else sizes[0] if sizes[0] <= pictures else None


def small(source: Source) -> bool:
    """Return whether the first picture, if it can be read, is as small as CIFAR's or not much larger."""
    try:
        picture = source.read(0)
        sides = picture.shape[:2] if isinstance(picture, np.ndarray) else Image.open(io.BytesIO(picture)).size
    except (OSError, ValueError):
        return False
    return min(sides) <= SMALL
