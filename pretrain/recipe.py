"""The recipe of a pretraining run: every number that may change the result, its default and its source.

This file has what all methods share, with the defaults of Barlow Twins. Each method's own Recipe
(pretrain/methods) adds its numbers and states where its defaults differ. docs/protocols.md compares the
sources.

Sources: code = facebookresearch/barlowtwins at 8e8d284, main.py; paper = arXiv 2103.03230 (ICML 2021);
solo-learn = vturrisi/solo-learn at 9187ea3.
Where code and paper differ, the default is the code's, because every released checkpoint came from it. The
preset `paper` has the other value.
"""
import argparse
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

import numpy as np

from parallel.resnets import STEMS, models
from pretrain.pictures.augment import ViewRecipe

PRECISIONS = ("fp32", "bf16", "fp16")
VIEW_BACKENDS = ("pil", "fast", "device")
OPTIMIZERS = ("lars", "adam", "sgd")
SCHEDULES = ("cosine", "constant", "step")

MOST = 1_000_000  # of anything that is counted

Value = bool | int | float | str | tuple[float, float]  # of a setting
Kind = TypeVar("Kind", bound=Value)


def setting(default: Kind, help: str, parse: Callable[[str], Value] | None = None) -> Kind:
    """Return a field of a recipe. parse: from the command line's text; the type of the default if not
    given."""
    return field(default=default, metadata={"help": help, "parse": parse or type(default)})


def reference_world_size(text: str) -> int | str:
    """Parse "actual" or a number of processes."""
    return text if text == "actual" else int(text)


def pair(text: str) -> tuple[float, float]:
    """Parse "0.08,1" as (0.08, 1.0)."""
    first, second = text.split(",")
    return float(first), float(second)


pair.__name__ = "pair of numbers joined by a comma"  # argparse prints it if the text is not one


def switch(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(text)
    return text == "yes"


switch.__name__ = "yes or no"


@dataclass(frozen=True)
class Recipe:
    """One recipe. Fields are the command line's flags with underscores. Raises ValueError for impossible
    values."""
    labelled: ClassVar[bool] = False  # whether the method needs the pictures' classes

    method: str = setting("barlow_twins", "what is trained: the name of a method in pretrain/methods")
    epochs: int = setting(1000, "epochs in all (paper 2.2)")
    batch_size: int = setting(2048, "images per step over all processes (paper 2.2)")
    learning_rate_weights: float = setting(0.2, "base rate of weights, times batch size / 256 (paper 2.2)")
    learning_rate_biases: float = setting(
        0.0048, "base rate of one-dimensional parameters, times batch size / 256 (paper 2.2)")
    weight_decay: float = setting(1e-6, "on weights only (code line 37; the paper says 1.5e-6)")
    projector: str = setting("8192-8192-8192", "widths of the projector's layers (paper 2.2)")
    arch: str = setting("resnet50", "a ResNet of torchvision (paper 2.2: resnet50)")
    stem: str = setting("imagenet", "imagenet, or cifar: 3 x 3 first convolution, stride 1, no pooling, as "
                        "is usual at 32 pixels; solo: padded by 2, as solo-learn's; small: cifar with "
                        "pooling, for 64 to 96 pixels")
    image_size: int = setting(224, "side of a view in pixels (paper 2.1)")
    optimizer: str = setting("lars", "lars; or adam, or sgd with momentum 0.9, each with weight decay on all "
                             "parameters (paper 2.2: lars)")
    schedule: str = setting("cosine", "of the learning rate after the warm-up: cosine down to 1/1000, "
                            "constant, or step: a tenth after each third of the epochs (paper 2.2: cosine)")
    warmup_epochs: int = setting(10, "linear warm-up, per step (paper 2.2)")
    warmup_start: float = setting(0.0, "share of the peak rate that the warm-up begins at (code: 0)")
    adapt_biases: bool = setting(False, "yes: weight decay and LARS's ratio for one-dimensional parameters, "
                                 "too, as apex' LARC (code: no)", switch)
    reference_world_size: int | str = setting(
        32, "the exact gradient is divided by this number, the processes of the run that the rate of biases "
        "belongs to (paper 2.2: 32 GPUs); actual: this run's, as the official code does",
        reference_world_size)
    loss_scale: float = setting(1.0, "factor on the loss; it reaches what LARS does not normalise (code: "
                                "none)")
    trust_coefficient: float = setting(0.001, "eta of LARS (code line 225)")
    clip_ratio: bool = setting(False, "yes: a weight's step is at most that of SGD, as solo-learn's "
                               "clip_lr (code: no)", switch)
    accumulate: int = setting(
        1, "micro-batches a step: the loss is that of the whole batch, exactly, with the memory of one "
        "micro-batch for the network; batch-norm statistics are then those of each micro-batch")
    views: str = setting("pil", "what makes the views: pil (the official operations), fast (CPU) or device "
                         "(colours, blur and solarisation on the accelerator)")
    crop_scale: tuple[float, float] = setting((0.08, 1.0), "share of the picture's area in a crop (code "
                                              "line 293)", pair)
    flip: float = setting(0.5, "probability of a mirrored view (code line 294)")
    jitter: float = setting(1.0, "factor on the reach of all colour jitter: brightness and contrast 0.4, hue "
                            "0.1, and saturation (code line 297: 1)")
    saturation: float = setting(0.2, "reach of the saturation jitter (code line 297)")
    grey: float = setting(0.2, "probability of a grey view (code line 300)")
    blur: tuple[float, float] = setting((1.0, 0.1), "probability of blur in either view (code lines 301, "
                                        "315)", pair)
    solarise: tuple[float, float] = setting((0.0, 0.2), "probability of solarisation in either view (code "
                                            "lines 302, 316)", pair)
    max_norm: float = setting(0.0, "the gradient of all parameters is shortened to this norm where it is "
                              "longer; 0: never (code: never)")
    spike_factor: float = setting(
        10.0, "a step whose loss is above this many times its running mean is skipped; 0: never (code: "
        "never; the published runs have no such step)")
    precision: str = setting("fp16", "fp32, bf16 or fp16 for the network; the loss is fp32 always. When not "
                             "given, fp16 on a GPU (code line 132) and fp32 on a CPU")
    seed: int = setting(0, "of initial weights, order and views")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float):
                require(math.isfinite(value), self, name, "a finite number")
            elif isinstance(value, int) and name != "seed":
                require(value <= MOST, self, name, f"at most {MOST}")
        for name in ("epochs", "accumulate"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        require(8 <= self.image_size <= 4096, self, "image_size", "pixels from 8 to 4096")
        require(0 <= self.seed < 2**63, self, "seed", "a number from 0 to below 2**63")
        require_model(self, "arch")
        require(self.batch_size >= 2, self, "batch_size", "at least 2, since the loss compares images")
        for name in ("learning_rate_weights", "learning_rate_biases", "weight_decay", "warmup_epochs",
                     "max_norm", "spike_factor"):
            require(getattr(self, name) >= 0, self, name, "at least 0")
        for name, known in (("precision", PRECISIONS), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES),
                            ("views", VIEW_BACKENDS), ("stem", STEMS)):
            require(getattr(self, name) in known, self, name, f"one of {', '.join(known)}")
        for name in ("trust_coefficient", "loss_scale"):
            require(getattr(self, name) > 0, self, name, "more than 0")
        require(self.spike_factor == 0 or self.spike_factor > 1, self, "spike_factor", "0 or more than 1")
        for name in ("blur", "solarise"):
            require(all(0 <= share <= 1 for share in getattr(self, name)), self, name,
                    "two probabilities from 0 to 1")
        for name in ("flip", "grey", "saturation", "warmup_start"):
            require(0 <= getattr(self, name) <= 1, self, name, "a number from 0 to 1")
        require(0 <= self.jitter <= 2.5, self, "jitter", "a factor from 0 to 2.5")
        require(0 < self.crop_scale[0] <= self.crop_scale[1] <= 1, self, "crop_scale",
                "two shares in rising order, above 0 and up to 1")
        require(self.batch_size >= 2 * self.accumulate, self, "accumulate",
                f"micro-batches of at least 2 of the {self.batch_size} images")
        if type(self).projector != "none":  # else the method has none
            require_widths(self, "projector")
        reference = self.reference_world_size
        require(reference == "actual" or isinstance(reference, int) and reference >= 1, self,
                "reference_world_size", "actual or a number of processes from 1 on")

    def view_recipes(self) -> tuple[ViewRecipe, ...]:
        """Return what is drawn for each view. Without a reach there is no jitter: a hue that moves by 0 would
        still be rounded."""
        return tuple(ViewRecipe(blur=blur, solarise=solarise, size=self.image_size, scale=self.crop_scale,
                                flip=self.flip, grey=self.grey,
                                jitter=ViewRecipe.jitter if self.jitter else 0.0,
                                brightness=0.4 * self.jitter, contrast=0.4 * self.jitter,
                                saturation=self.saturation * self.jitter, hue=0.1 * self.jitter)
                     for blur, solarise in zip(self.blur, self.solarise))

    def check_labels(self, labels: np.ndarray | None) -> None:
        """Raise ValueError unless the method can use the pictures' classes (N,). Only a labelled one asks."""
        if labels is None:
            raise ValueError(f"--method {self.method} expected pictures with labels, found none")

    def peak_rates(self) -> tuple[float, float]:
        """Return the rates of weights and biases after the warm-up. The base rates belong to 256 images."""
        factor = self.batch_size / 256
        return factor * self.learning_rate_weights, factor * self.learning_rate_biases


def require(condition: bool, recipe: Recipe, name: str, wanted: str) -> None:
    """Raise ValueError, naming the flag, unless the condition holds."""
    if not condition:
        raise ValueError(f"--{name.replace('_', '-')} expected {wanted}, found {getattr(recipe, name)!r}")


def require_model(recipe: Recipe, name: str, *others: str) -> None:
    """Raise ValueError unless a setting is a ResNet of torchvision, or one of the other words."""
    known = (*others, *models())
    require(getattr(recipe, name) in known, recipe, name, f"one of {', '.join(known)}")


def require_widths(recipe: Recipe, name: str) -> None:
    """Raise ValueError unless a setting is widths of layers."""
    widths = getattr(recipe, name).split("-")
    require(all(width.isdigit() and int(width) > 0 for width in widths), recipe, name,
            "widths joined by dashes, such as 8192-8192-8192")


# solo-learn's recipe for small data, as far as its methods share it: scripts/pretrain/{cifar,imagenet-100},
# solo/utils/lars.py. Three things are not adopted: its rate falls to 0 (ours to 1/1000 of the peak), its
# pictures are normalised with CIFAR's mean and deviation (ours with ImageNet's), and each of its ranks has
# its own statistics in the loss. The biases in its projector come before a batch norm and so change nothing.
SOLO_LEARN: dict[str, Value] = {
    "arch": "resnet18", "projector": "2048-2048-2048",  # proj_hidden_dim, proj_output_dim
    "batch_size": 256,  # cifar 256; imagenet-100 128 on each of two GPUs
    "learning_rate_weights": 0.3, "learning_rate_biases": 0.3,  # optimizer.lr, one for all parameters
    "weight_decay": 1e-4, "trust_coefficient": 0.02, "clip_ratio": True,  # optimizer: eta, clip_lr
    "reference_world_size": 1,  # the exact gradient
}
CIFAR: dict[str, Value] = SOLO_LEARN | {"epochs": 1000, "image_size": 32, "stem": "solo"}


def add_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup, kind: type[Recipe]) -> None:
    """Add a flag for each setting. Those not given on the command line are absent from the parsed
    arguments."""
    # A recipe that changes a default only states the value; the setting is that of a class before it.
    metadata = {one.name: one.metadata for base in reversed(kind.__mro__) if dataclasses.is_dataclass(base)
                for one in dataclasses.fields(base) if one.metadata}
    for one in dataclasses.fields(kind):
        told = metadata[one.name]
        parser.add_argument("--" + one.name.replace("_", "-"), type=told["parse"], metavar="X",
                            default=argparse.SUPPRESS,
                            help=f"{told['help']} (default: {show(one.default)})")


def show(value: object) -> str:
    """Return a setting as it is written on the command line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
