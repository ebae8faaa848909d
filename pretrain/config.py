"""The recipe of a pretraining run: every number that may change the result, its default and its source.

Sources: code = facebookresearch/barlowtwins at 8e8d284, main.py; paper = arXiv 2103.03230 (ICML 2021).
Where they differ the default is the code's, because every released checkpoint came from it, and the preset
`paper` has the other value.
"""
import argparse
import dataclasses
from dataclasses import dataclass, field

PRECISIONS = ("fp32", "bf16", "fp16")
STEMS = ("imagenet", "cifar")


def setting(default, help, parse=None):
    return field(default=default, metadata={"help": help, "parse": parse or type(default)})


def reference_world_size(text: str) -> int | str:
    """"actual", or a number of processes."""
    return text if text == "actual" else int(text)


@dataclass(frozen=True)
class PretrainConfig:
    """One recipe. Fields are the command line's flags with underscores. ValueError for impossible values."""
    epochs: int = setting(1000, "epochs in all (paper 2.2)")
    batch_size: int = setting(2048, "images per step over all processes (paper 2.2)")
    learning_rate_weights: float = setting(0.2, "base rate of weights, times batch size / 256 (paper 2.2)")
    learning_rate_biases: float = setting(
        0.0048, "base rate of one-dimensional parameters, times batch size / 256 (paper 2.2)")
    weight_decay: float = setting(1e-6, "on weights only (code line 37; the paper says 1.5e-6)")
    lambd: float = setting(0.0051, "weight of the off-diagonal terms (code line 39; the paper says 5e-3)")
    projector: str = setting("8192-8192-8192", "widths of the projector's layers (paper 2.2)")
    arch: str = setting("resnet50", "a ResNet of torchvision (paper 2.2: resnet50)")
    stem: str = setting("imagenet", "imagenet, or cifar: 3 x 3 first convolution, stride 1, no pooling, as "
                        "is usual at 32 pixels")
    image_size: int = setting(224, "side of a view in pixels (paper 2.1)")
    warmup_epochs: int = setting(10, "linear warm-up from 0, per step (paper 2.2)")
    reference_world_size: int | str = setting(
        32, "the exact gradient is divided by this number, the processes of the run that the rate of biases "
        "belongs to (paper 2.2: 32 GPUs); actual: this run's, as the official code does",
        reference_world_size)
    precision: str = setting("fp16", "fp32, bf16 or fp16 for the network; the loss is fp32 always. When not "
                             "given, fp16 on a GPU (code line 132) and fp32 on a CPU")
    seed: int = setting(0, "of initial weights, order and views")

    def __post_init__(self):
        for name in ("epochs", "image_size"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        require(self.batch_size >= 2, self, "batch_size", "at least 2, since the loss compares images")
        for name in ("learning_rate_weights", "learning_rate_biases", "weight_decay", "lambd",
                     "warmup_epochs"):
            require(getattr(self, name) >= 0, self, name, "at least 0")
        require(self.precision in PRECISIONS, self, "precision", f"one of {', '.join(PRECISIONS)}")
        require(self.stem in STEMS, self, "stem", f"one of {', '.join(STEMS)}")
        widths = self.projector.split("-")
        require(all(width.isdigit() and int(width) > 0 for width in widths), self, "projector",
                "widths joined by dashes, such as 8192-8192-8192")
        reference = self.reference_world_size
        require(reference == "actual" or isinstance(reference, int) and reference >= 1, self,
                "reference_world_size", "actual or a number of processes from 1 on")


def require(condition, config, name, wanted):
    if not condition:
        raise ValueError(f"--{name.replace('_', '-')} expected {wanted}, found {getattr(config, name)!r}")


# What a preset changes against the defaults above.
PRESETS = {
    "code": {},
    "paper": {"weight_decay": 1.5e-6, "lambd": 5e-3},  # section 2.2
}


def recipe(preset: str = "code", **changes) -> PretrainConfig:
    """The preset's recipe with single values changed."""
    if preset not in PRESETS:
        raise ValueError(f"--preset expected one of {', '.join(PRESETS)}, found {preset!r}")
    return PretrainConfig(**(PRESETS[preset] | changes))


def difference(old: dict, new: dict) -> str:
    """"batch_size 256, now 512; ..." for what differs between two recipes given as dicts; "" when equal."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return "; ".join(f"{name} {old.get(name, 'absent')}, now {new.get(name, 'absent')}" for name in names)


def add_flags(parser) -> None:
    """One flag for each setting; those not given on the command line are absent from the parsed arguments."""
    for one in dataclasses.fields(PretrainConfig):
        parser.add_argument("--" + one.name.replace("_", "-"), type=one.metadata["parse"], metavar="X",
                            default=argparse.SUPPRESS,
                            help=f"{one.metadata['help']} (default: {one.default})")
