"""A data set's two halves, whatever layout it has: to learn from, and to be scored on."""
from pathlib import Path

from transfer.classification import layouts, own_sets
from transfer.classification.layouts import Samples
from transfer.classification.small_sets import SMALL_SETS, read_small_set

LOSSLESS = ("cifar10", "cifar100", "stl10")  # sets whose official pixels never were JPEG


def halves(data: Path, dataset: str) -> dict[str, Samples]:
    """{"train": ..., "val" or "test": ...} of a set below the data root: one of SMALL_SETS, where an official
    validation set is left out, else a folder in the layouts of `layouts.split_pair`. Errors as there."""
    if dataset not in SMALL_SETS:
        return dict(zip(("train", "val"), layouts.split_pair(data / dataset)))
    train, _, scored = read_small_set(dataset, data)
    if train.labels.ndim > 1:
        raise ValueError(f"{dataset}: expected pictures of one class each, found {train.source}, where a "
                         "picture may have several; choose another dataset")
    return {"train": train, SMALL_SETS[dataset].scored: scored}


def place(data: Path, dataset: str) -> Path:
    """Where a set lies: below the data root, or what --data names itself."""
    return data if dataset == own_sets.NAME else data / dataset


def copies(name: str, *parts: Samples) -> dict[str, str]:
    """{"pixels": "JPEG copies"} where a set's official pixels are no JPEG and these are; a run on them is
    scaled. Else {}."""
    return {"pixels": "JPEG copies"} if name in LOSSLESS and any(map(is_jpeg, parts)) else {}


def is_jpeg(part: Samples) -> bool:
    """Whether the first picture is a JPEG file."""
    try:
        first = part.read(0)
    except (OSError, ValueError):
        return False  # the run says so
    return isinstance(first, bytes) and first.startswith(b"\xff\xd8")


def stated(dataset: str, parts: dict[str, Samples], split: str = "", also: str = "") -> dict:
    """What a record says of it: name, counts and fingerprint. split: which part of train is used, if not
    all; also: what says so in the fingerprint, if not that."""
    counts = {half: len(part) for half, part in parts.items()}
    return {"name": f"{parts['train'].title or dataset} {split}".rstrip(), "counts": counts,
            "fingerprint": layouts.fingerprint(*parts.values(), also=also or split),
            **copies(dataset, *parts.values())}
