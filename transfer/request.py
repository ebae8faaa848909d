"""What is asked for when a task is run: one Request for each record."""

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from parallel.places import RUNS
from parallel.resnets import STEMS

LIMITS = {"seed": (0, 2**31 - 1), "num_gpus": (1, 4096), "workers": (0, 1024)}


def flag(default: Any, help: str, **options: Any) -> Any:
    """Return a field that is a flag of transfer/run.py, too. options: of argparse's add_argument, and `also`,
    another name of the flag."""
    kind: dict[str, Any] = {"action": "store_true"} if default is False else {"default": default}
    if type(default) is int:
        kind["type"] = int
    return field(default=default, metadata={"help": help, **kind, **options})


@dataclass(frozen=True, kw_only=True, repr=False)
class Request:
    """One task on one backbone with one seed; the names are those of transfer/run.py's flags, whose help says
    what they do. pairs: flat KEY VALUE words that change the config. source: the command line, kept in the
    record.

    Raises ValueError for a number out of its range and for flags that exclude each other.
    """

    task: str  # a name of the catalogue
    weights: str | Path  # checkpoint of a ResNet, or "random"
    format: str | None = flag(None, "checkpoint format, if it is not recognised")
    encoder: str | None = flag(None, "which encoder, where the checkpoint holds two (docs/weights.md)",
                               also="--prefix")
    stem: str | None = flag(None, "of the network, where the checkpoint does not say it (docs/weights.md)",
                            choices=STEMS)
    name: str | None = flag(None, "name of the backbone in tables (default: the file's stem)")
    data: str | Path | None = flag(
        None, "data root (default: $DETECTRON2_DATASETS, else datasets/); of a task folder_...: the labelled "
        "pictures themselves")
    output: str | Path | None = flag(None, "folder for logs, checkpoints, pictures (default: below output/)")
    results: str | Path = flag(RUNS, "folder of the records (default: results/runs)")
    pairs: tuple[str, ...] = ()
    seed: int = flag(0, "random seed (default 0)")
    num_gpus: int = flag(1, "GPUs, or CPU processes with --device cpu")
    device: str | None = flag(None, "default: cuda where there is one", choices=("cuda", "cpu"))
    workers: int = flag(min(8, os.cpu_count() or 1), "data loader processes per GPU")
    cache: str | Path | None = flag(
        "output/features", "frozen features of kNN, SVM, probes and of linear's validation images, 8 kB an "
        "image, and notes of checked COCO files; '' for none (default: output/features)", metavar="DIR")
    smoke: bool = flag(False, "a run of seconds to minutes on a CPU")
    rescale: bool = flag(False, "detection: take the config as one for 8 GPUs and scale batch, rate and "
                         "iterations to --num-gpus by the linear rule; recorded as scaled")
    resume: bool = flag(False, "continue an interrupted run in its folder")
    rerun: bool = flag(False, "start over and replace the stored record")
    eval_only: bool = flag(False, "evaluate a detection run's newest checkpoint again; store nothing")
    check: bool = flag(False, "check weights, data and config, say where they depart from the default "
                       "protocol; run nothing")
    source: str = ""

    def __post_init__(self):
        for name, (least, most) in LIMITS.items():
            require_number(name, getattr(self, name), least, most)
        again = [name for name in ("resume", "rerun", "eval_only") if getattr(self, name)]
        if len(again) > 1:
            raise ValueError(f"expected one of resume, rerun and eval_only, found {' and '.join(again)}")
        if self.device not in (None, "cuda", "cpu"):
            raise ValueError(f"device: expected cuda or cpu, found {self.device!r}")

    def __repr__(self):
        """The call that makes it, without what is left at its default."""
        given = [one.name for one in fields(self) if getattr(self, one.name) != one.default]
        return f"Request({', '.join(f'{name}={getattr(self, name)!r}' for name in given)})"


def require_number(name: str, value: int, least: int, most: int) -> None:
    """ValueError, which names the flag, where a number is out of its range."""
    if not least <= value <= most:
        raise ValueError(f"--{name.replace('_', '-')}: expected {least} to {most}, found {value}")
