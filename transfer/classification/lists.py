"""Which images of train have a label: SimCLR's lists, the user's own list, or a seeded draw.

The official lists are looked for beside the images. Nothing is fetched: the error says how to.
"""
import gzip
import os
import re
from codecs import BOM_UTF8
from collections import Counter
from pathlib import Path

import numpy as np

from parallel.listing import bytes_of
from transfer.classification import layouts
from transfer.classification.datasets import halves, place
from transfer.settings import Context

LIST_URL = "https://raw.githubusercontent.com/google-research/simclr/master/imagenet_subsets/"
OFFICIAL = {  # sha256 of the unpacked lists: 12,811 and 128,116 names
    "1percent": "71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17",
    "10percent": "6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091"}
DRAW = re.compile(r"draw:(\d+(?:\.\d+)?)%")


def is_draw(split: str) -> bool:
    return DRAW.fullmatch(split) is not None


def draw(train: layouts.Samples, split: str, seed: int) -> np.ndarray:
    """(n,) bool: which images `draw:P%` takes: P % of each class, at least one. ValueError for no percentage.
    """
    percentage = float(split.removeprefix("draw:").removesuffix("%"))
    if not 0 < percentage <= 100:
        raise ValueError(f"split: expected draw:P% with P above 0 and at most 100, found {split!r}")
    return layouts.stratified(train.labels, lambda count: max(1, round(count * percentage / 100)), seed)


def chosen_pair(split: str, dataset: str, context: Context) -> tuple[layouts.Samples, layouts.Samples]:
    """(the labelled part of train, val) of a data set below the data root. Every rank calls it."""
    if is_draw(split):
        train, val = halves(context.data, dataset).values()
        rows = np.flatnonzero(draw(train, split, context.seed))
        return train.subset(rows, f"{train.source}, {split}"), val
    content, source = split_list(split, place(context.data, dataset), context.cache)
    train, val = halves(context.data, dataset).values()
    return listed_part(content, source, train), val


def split_list(split: str, root: Path, fallback: Path | None) -> tuple[bytes, str]:
    """The list's unpacked bytes and where they are from. An official one is looked for in `root` and, since
    data roots are often read-only, in `fallback`."""
    if split not in OFFICIAL:
        if not Path(split).is_file():
            raise FileNotFoundError(f"split: expected {', '.join(OFFICIAL)}, draw:P% or the path of a list, "
                                    f"found {split!r}")
        return _unpacked(Path(split)), split
    for folder in filter(None, (root, fallback)):
        for path in (folder / f"{split}.txt", folder / f"{split}.txt.gz"):
            if path.is_file():
                return _unpacked(path), str(path)
    path = root / f"{split}.txt"
    raise FileNotFoundError(f"{path}: no such list; curl -o {path} {LIST_URL}{split}.txt brings it, "
                            "--split-file or split draw:P% take another")


def _unpacked(path):
    content = bytes_of(path)
    try:
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: not a gzip file ({error}); fetch it again") from None


def listed_part(content: bytes, source: str, train: layouts.Samples) -> layouts.Samples:
    """The listed part of train. ValueError for names that train lacks or has in several classes, repeats and
    an empty list."""
    files = [bytes(name).rpartition(b"/")[2] for name in train.names]
    index_of = {name: index for index, name in enumerate(files)}
    listed = [line.strip() for line in content.removeprefix(BOM_UTF8).splitlines() if line.strip()]
    if not listed:
        raise ValueError(f"{source}: expected image names, found none")
    missing = [name for name in listed if name not in index_of]
    if missing:
        raise ValueError(f"{source}: {len(missing)} of {len(listed)} names are not in {train.source}, first "
                         f"{os.fsdecode(missing[0])}; complete the data set or pass --split-file")
    if several := sorted({name for name, count in Counter(files).items() if count > 1}.intersection(listed)):
        raise ValueError(f"{source}: {len(several)} of {len(listed)} names are of several images in "
                         f"{train.source}, first {os.fsdecode(several[0])}; give each a name of its own")
    if len(set(listed)) < len(listed):
        raise ValueError(f"{source}: {len(listed) - len(set(listed))} names are repeated; list each once")
    return train.subset(np.array(sorted(index_of[name] for name in listed)), source)
