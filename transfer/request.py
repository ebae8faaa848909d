"""What is asked for when a task is run: one Request for each record."""

import os
from dataclasses import dataclass, fields
from pathlib import Path

RUNS = Path(__file__).resolve().parent.parent / "results" / "runs"  # the records that results/make.py reads
LEAST = {"seed": 0, "num_gpus": 1, "workers": 0}


@dataclass(frozen=True, kw_only=True, repr=False)
class Request:
    """One task on one backbone with one seed; the names are those of transfer/run.py's flags.

    task: a name of the catalogue. weights: checkpoint of a ResNet, or "random". format, encoder, stem: where
    the file leaves a choice. name: the backbone's in tables, None for the file's stem. data: the data root,
    None for $DETECTRON2_DATASETS, else datasets/. output: the run's own folder, None for one under output/.
    results: folder of the records. pairs: flat KEY VALUE words that change the config. num_gpus: GPUs, or
    processes where device is "cpu"; None takes cuda where there is one. workers: loader processes per GPU.
    cache: folder of frozen features, None for none. source: the command line, kept in the record.

    smoke: a run of seconds to minutes on a CPU. rescale: detection by the linear rule from 8 GPUs to
    num_gpus. resume: continue an interrupted run; rerun: start over and replace the record; eval_only:
    evaluate a detection run's newest checkpoint again and store nothing. check: look, run nothing.

    Raises ValueError for a number out of its range and for flags that exclude each other.
    """

    task: str
    weights: str | Path
    format: str | None = None
    encoder: str | None = None
    stem: str | None = None
    name: str | None = None
    data: str | Path | None = None
    output: str | Path | None = None
    results: str | Path = RUNS
    pairs: tuple[str, ...] = ()
    seed: int = 0
    num_gpus: int = 1
    workers: int = min(8, os.cpu_count() or 1)
    device: str | None = None
    cache: str | Path | None = "output/features"
    smoke: bool = False
    rescale: bool = False
    resume: bool = False
    rerun: bool = False
    eval_only: bool = False
    check: bool = False
    source: str = ""

    def __post_init__(self):
        for field, least in LEAST.items():
            require_number(field, getattr(self, field), least)
        again = [field for field in ("resume", "rerun", "eval_only") if getattr(self, field)]
        if len(again) > 1:
            raise ValueError(f"expected one of resume, rerun and eval_only, found {' and '.join(again)}")
        if self.device not in (None, "cuda", "cpu"):
            raise ValueError(f"device: expected cuda or cpu, found {self.device!r}")

    def __repr__(self):
        """The call that makes it, without what is left at its default."""
        given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        return f"Request({', '.join(f'{name}={getattr(self, name)!r}' for name in given)})"


def require_number(field: str, value: int, least: int) -> None:
    """ValueError, which names the flag, where a number is below `least` or does not fit into 31 bits."""
    if not least <= value < 2**31:
        limit = f"{least} or more" if value < least else "less than 2**31"
        raise ValueError(f"--{field.replace('_', '-')}: expected {limit}, found {value}")
