"""Pictures in tar shards of the webdataset format, addressed by index. A file server sees few large files,
and the order is free: it is the same for any number of workers and processes.

The webdataset package reads shards from front to back, one shard per worker, and shuffles in a buffer. So its
order depends on the number of workers. The format is plain tar, which the standard library reads.
"""
import fcntl
import io
import os
import re
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from parallel.files import replacing
from parallel.listing import ENDINGS, hidden
from parallel.packed import Index, Labels, Strings, first_line, pick, sha256
from parallel.pixels import LARGEST_PICTURE
from parallel.process import bar
from parallel.split_names import TRAIN, kind_of
from pretrain.pictures import splits

INDEX = ("shard", "offset", "size", "ends", "buffer", "labels")  # see shard_index


class Shards:
    """Tar files as webdataset writes them: files with the same name up to the first dot are a sample, such as
    7.jpg and 7.cls. The position of each picture is looked up once and kept in .pretrain_index_*.npz beside
    the shards or, if that cannot be written, in ~/.cache/barlow-transfer."""

    PICTURES = {extension[1:] for extension in ENDINGS}

    def __init__(self, paths: Sequence[Path]):
        missing = [path for path in paths if not Path(path).is_file()]
        if missing:
            raise FileNotFoundError(f"{missing[0]}: no such shard ({len(missing)} of {len(paths)} are "
                                    "missing); copy them or correct the range")
        self.paths, self.place = Strings(paths), f"{Path(paths[0]).parent}, shards: {len(paths)}"
        index = shard_index([Path(path) for path in paths])
        self.shard, self.offset, self.size = index["shard"], index["offset"], index["size"]
        self.keys = Strings(())
        self.keys.ends, self.keys.buffer = index["ends"], index["buffer"]
        self.classes = index["labels"] if len(index["labels"]) else None
        shards = [(Path(path).name, os.path.getsize(path)) for path in paths]
        self.class_names: tuple[str, ...] = ()
        self.fingerprint = sha256(shards, self.offset, self.size, self.keys.buffer)

    def __len__(self) -> int:
        return len(self.shard)

    def name(self, index: int) -> str:
        return f"{self.paths[self.shard[index]]}:{self.keys[index]}"

    def read(self, index: int) -> bytes:
        size = int(self.size[index])
        # pread keeps no position, so workers may share a file that was open before they were forked.
        data = os.pread(opened(self.paths[self.shard[index]]).fileno(), size, int(self.offset[index]))
        if len(data) < size:
            raise ValueError(f"the shard ends after {len(data)} of {size} bytes")
        return data

    def labels(self, index: Index) -> Labels:
        return pick(self.classes, index)


@lru_cache(maxsize=128)
def opened(path: str) -> io.FileIO:
    return open(path, "rb", buffering=0)


def expand(path: Path) -> list[Path]:
    """Expand name-{0008..0010}.tar to 0008, 0009, 0010. With several ranges the last one changes fastest."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", path.name)
    if not found:
        if "{" in path.name:
            raise ValueError(f"{path}: expected a range of numbers such as {{0000..0099}} between braces")
        return [path]
    first, last = found.groups()
    if int(last) < int(first):
        raise ValueError(f"{path}: expected a rising range, found {found.group()}")
    return [one for number in range(int(first), int(last) + 1) for one in expand(
        path.with_name(f"{path.name[:found.start()]}{number:0{len(first)}}{path.name[found.end():]}"))]


def shard_index(paths: list[Path]) -> dict[str, np.ndarray]:
    """Return shard, offset and size (N,) of each picture, its name packed as in Strings (buffer, ends), and
    labels (N,) or (0,). One of several processes makes the index; the others wait for its file."""
    key = sha256(*((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths))
    beside = paths[0].parent / f".pretrain_index_{sha256(*(path.name for path in paths))[:8]}.npz"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "barlow-transfer"
    elsewhere = cache / f"index_{sha256(*(path.resolve() for path in paths))[:16]}.npz"
    index = stored(beside, key) or stored(elsewhere, key)
    if index:
        return index
    for file in (beside, elsewhere):
        with suppress(OSError):  # a folder that is read-only or full
            if file is elsewhere:
                cache.mkdir(parents=True, exist_ok=True)
            with open(file.with_suffix(".lock"), "w") as lock:
                with suppress(OSError):  # a file system without locks: each process makes its own index
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if ready := stored(file, key):
                    return ready
                index = index or index_of(paths)
                with replacing(file) as draft:
                    np.savez(draft, **index, check=np.array(check(key, index)))  # type: ignore[arg-type]
                return index
    return index or index_of(paths)


def check(key: str, index: dict[str, np.ndarray]) -> str:
    """Return what an index file says of itself: that it is whole, and the one of these shards."""
    return sha256(key, *(index[name] for name in INDEX))


def stored(file: Path, key: str) -> dict[str, np.ndarray] | None:
    """Return what an index file holds, if it is whole and describes the shards as they are now."""
    try:
        with np.load(file, allow_pickle=False) as cached:
            index = {name: cached[name] for name in INDEX}
            return index if str(cached["check"]) == check(key, index) else None
    except Exception:  # a damaged or foreign file raises almost anything
        return None


def index_of(paths: list[Path]) -> dict[str, np.ndarray]:
    """Build the index from the shards' headers. Each shard is converted to arrays at once: as Python objects
    a million samples take 0.5 GB. Raises ValueError where training and held-out pictures are mixed."""
    parts = []
    folders: splits.Tree = {}
    for number, path in enumerate(bar(paths, "index of the shards")):
        names, offset, size, labels = zip(*samples_of(path))
        folders |= dict.fromkeys(("/".join(place_of(name)[:-1]) for name in names), [])
        require_training(path, set().union(*splits.places_of_splits(path, folders).values()))
        packed = Strings(names)
        parts.append({"shard": np.full(len(names), number), "offset": np.array(offset, np.int64),
                      "size": np.array(size, np.int64), "ends": np.diff(packed.ends, prepend=0),
                      "buffer": packed.buffer,
                      "labels": np.array([] if None in labels else labels, np.int64)})
    index = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    index["ends"] = np.cumsum(index["ends"])
    if len(index["labels"]) < len(index["shard"]):
        index["labels"] = index["labels"][:0]
    return index


def place_of(name: str) -> list[str]:
    """Return a member's folders and its own name; archives made in a folder begin with ./ everywhere."""
    return [part for part in name.split("/") if part != "."]


def require_training(path: Path, found: set[str]) -> None:
    """ValueError if these splits are not of train alone."""
    if {kind_of(name)[0] for name in found} - {TRAIN, None}:
        raise ValueError(f"{path}: expected pictures to train on, found the splits "
                         f"{', '.join(sorted(found))} in it; write it again with those of train alone")


def samples_of(path: Path) -> list[tuple[str, int, int, int | None]]:
    """Return (name of the picture, offset, size, label or None) of each sample in a tar file, in its
    order."""
    samples: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            while member := archive.next():
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
                # webdataset's rule. Other names (hidden files, no extension) belong to no sample.
                parts = re.fullmatch(r"((?:.*/)?[^./][^./]*)\.([^/]+)", name := member.name)
                if member.isfile() and parts and not any(map(hidden, place_of(name))):
                    sample = samples.setdefault(parts[1], {"label": None, "pictures": []})
                    if parts[2].lower() in Shards.PICTURES:
                        sample["pictures"].append((member.name, member.offset_data, member.size))
                    elif parts[2] == "cls" and (file := archive.extractfile(member)):
                        sample["label"] = int(file.read(18))
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as a tar file ({first_line(error)}); copy it again, "
                         "uncompressed") from None
    except ValueError as error:
        raise ValueError(f"{path}: expected an integer in {name} ({first_line(error)})") from None
    for key, sample in samples.items():
        if len(sample["pictures"]) != 1:
            raise ValueError(f"{path}: expected one picture in sample {key}, found "
                             f"{len(sample['pictures'])}; write the shard again, one picture a sample")
        name, _, size = sample["pictures"][0]
        if size > LARGEST_PICTURE:
            raise ValueError(f"{path}: expected pictures of at most {LARGEST_PICTURE >> 20} MiB, found "
                             f"{name} of {size >> 20} MiB; write the shard again without it")
    if not samples:
        raise ValueError(f"{path}: expected samples as webdataset writes them (name.jpg), found none")
    return [(*sample["pictures"][0], sample["label"]) for sample in samples.values()]
