"""Which images of train have a label: SimCLR's lists, the user's own list, or a seeded draw.

The official lists are looked for beside the images, else fetched once and checked against their sha256.
"""
import gzip
import hashlib
import os
import re
import time
import urllib.request
from pathlib import Path

import numpy as np

from parallel.collectives import is_main
from parallel.files import replacing
from transfer.classification import layouts
from transfer.settings import Context

LIST_URL = "https://raw.githubusercontent.com/google-research/simclr/master/imagenet_subsets/"
OFFICIAL = {  # sha256 of the unpacked lists: 12,811 and 128,116 names
    "1percent": "71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17",
    "10percent": "6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091"}
WAIT_SECONDS = 90  # of other processes for the list that the main one fetches
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


def chosen_pair(split: str, root: Path, context: Context) -> tuple[layouts.Samples, layouts.Samples]:
    """(the labelled part of train, val) of the data set in `root`. Every rank calls it."""
    if is_draw(split):
        train, val = layouts.split_pair(root)
        rows = np.flatnonzero(draw(train, split, context.seed))
        return train.subset(rows, f"{train.source}, {split}"), val
    return labelled_pair(*split_list(split, root, context.cache), root)


def split_list(split: str, root: Path, fallback: Path | None) -> tuple[bytes, str]:
    """The list's unpacked bytes and where they are from. A named list is looked for in `root` and, since data
    roots are often read-only, in `fallback`; the official one is fetched to the first that can be written.

    The main process fetches, at once. Others wait for its file, not for itself, since there may be no process
    group yet; on a machine of their own, where no file appears, they fetch, too."""
    if split not in OFFICIAL:
        if not Path(split).is_file():
            raise FileNotFoundError(f"split: expected {', '.join(OFFICIAL)}, draw:P% or the path of a list, "
                                    f"found {split!r}")
        return _unpacked(Path(split)), split
    folders = [folder for folder in (root, fallback) if folder]
    deadline = time.monotonic() + (0 if is_main() else WAIT_SECONDS)
    while True:
        for folder in folders:
            for path in (folder / f"{split}.txt", folder / f"{split}.txt.gz"):
                if path.is_file():
                    return _unpacked(path), str(path)
        if time.monotonic() >= deadline:
            return _fetch(split, folders)
        time.sleep(0.2)


def _fetch(split, folders):
    url = f"{LIST_URL}{split}.txt"
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            content = answer.read()
    except OSError as error:
        raise FileNotFoundError(f"{folders[0] / split}.txt: no such list, and fetching {url} failed "
                                f"({error}); put it there or pass --split-file") from None
    found = hashlib.sha256(content).hexdigest()
    if found != OFFICIAL[split]:
        raise ValueError(f"{url}: expected sha256 {OFFICIAL[split][:12]}..., found {found[:12]}...; the list "
                         "has changed, so put the official one into the data root")
    for folder in folders:
        try:
            if folder != folders[0]:
                folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / f"{split}.txt") as draft:
                draft.write_bytes(content)
            return content, str(folder / f"{split}.txt")
        except OSError:
            continue
    raise ValueError(f"{' and '.join(map(str, folders))}: expected a folder that can be written, to keep "
                     f"{split}.txt; pass --cache DIR or --split-file")


def _unpacked(path):
    content = path.read_bytes()
    try:
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: not a gzip file ({error}); fetch it again") from None


def labelled_pair(content: bytes, source: str, root: Path) -> tuple[layouts.Samples, layouts.Samples]:
    """(the listed part of train, val). ValueError for names that train lacks, repeats and an empty list."""
    train, val = layouts.split_pair(root)
    index_of = {bytes(name).rpartition(b"/")[2]: index for index, name in enumerate(train.names)}
    listed = [line.strip() for line in content.splitlines() if line.strip()]
    if not listed:
        raise ValueError(f"{source}: expected image names, found none")
    missing = [name for name in listed if name not in index_of]
    if missing:
        raise ValueError(f"{source}: {len(missing)} of {len(listed)} names are not in {train.source}, first "
                         f"{os.fsdecode(missing[0])}; complete the data set or pass --split-file")
    if len(set(listed)) < len(listed):
        raise ValueError(f"{source}: {len(listed) - len(set(listed))} names are repeated; list each once")
    return train.subset(np.array(sorted(index_of[name] for name in listed)), source), val
