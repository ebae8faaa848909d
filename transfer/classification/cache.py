"""Frozen features, computed once for each backbone, set of images and pipeline, and kept on disk.

kNN, SVM, low-shot and logistic probes share them, so a second probe of a checkpoint takes seconds. A file's
name is the hash of everything that decides its content: the weights, the pipeline, the image files (name,
size, time of change) in order, and the versions of the libraries. Each row has a CRC-32 of its values, its
number and that hash, so rows are nobody else's. A file that is damaged, or was another's and got this name,
is computed again, with a line that says so, and a full disk costs only the cache.
"""
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from tqdm import tqdm

from parallel.collectives import all_gather_rows, all_reduce_sum, is_main, row_counts, world_size
from parallel.files import replacing
from transfer.classification.features import Pipeline, assert_frozen, extract, freeze, pooled
from transfer.classification.images import Images, part
from transfer.classification.layouts import Samples
from transfer.precision import tf32
from transfer.settings import Context
from transfer.weights.backbone import Backbone

FORM = 2  # of a file; others have another name
SLICE = 16384  # rows that travel to rank 0 at once, of all ranks together; 134 MB


def collect(backbone: Backbone, sets: list[Samples], pipeline: Pipeline, context: Context,
            device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """[(features, labels) of each set]: this rank's contiguous part, (n, pipeline.dimensions(...)) float32
    (or float64 for that precision) and (n, ...), on the CPU. From context.cache where they are there, and
    kept there where not. Every rank calls it; ValueError for a pipeline that cannot be."""
    pipeline.check()
    found, network = [], None
    dimensions = pipeline.dimensions(backbone.arch)
    kind = row_type(dimensions, pipeline.precision)
    with tf32(allowed=False):
        for samples in sets:
            rows = part(range(len(samples)))
            path = context.cache and place(context.cache, backbone, samples, pipeline)
            features: Any = path and read_features(path, rows, len(samples), kind)
            if features is None:
                network = network or pooled(freeze(backbone, device, pipeline.precision), pipeline.pooling)
                images = Images(samples, pipeline.image_size, augment=False, resize=pipeline.resize)
                features, _ = extract(network, images, context, device, pipeline,
                                      f"features of {samples.source}", dimensions)
                assert_frozen(network, backbone, pipeline.precision)
                if path:
                    write_features(path, features, kind)
            found.append((features, torch.from_numpy(samples.labels[rows.start:rows.stop])))
    return found


def collect_all(backbone: Backbone, sets: list[Samples], pipeline: Pipeline, context: Context,
                device: torch.device) -> list[tuple[torch.Tensor, ...]]:
    """As `collect`, but each set whole on every rank."""
    return [tuple(all_gather_rows(rows) for rows in pair)
            for pair in collect(backbone, sets, pipeline, context, device)]


def place(folder: Path, backbone: Backbone, samples: Samples, pipeline: Pipeline) -> Path:
    """Where the features belong. Pixels are read only if they are in memory. Every rank calls it
    and asks for its part of the sizes and times, which are a million questions to a file server."""
    versions = torch.__version__, torchvision.__version__, PIL.__version__
    of_weights = backbone.sha256, backbone.format, backbone.arch.name
    digest = hashlib.sha256(json.dumps([of_weights, astuple(pipeline), versions, FORM]).encode())
    if samples.packed is not None:
        digest.update(samples.packed.version.encode() + b"\n".join(samples.names.tolist()))
    else:
        rows = part(range(len(samples)))
        own = np.empty((len(rows), 2), np.int64)
        for row, index in zip(own, rows):
            status = samples.path(index).stat()
            row[:] = status.st_size, status.st_mtime_ns
        for name, (size, changed) in zip(samples.names, all_gather_rows(torch.from_numpy(own)).numpy()):
            digest.update(b"%s\t%d\t%d\n" % (bytes(name), size, changed))
    return folder / backbone.sha256[:16] / f"{digest.hexdigest()[:32]}.npy"


def row_type(dimensions: int, precision: str) -> np.dtype:
    """A row of a file: the features and their CRC-32."""
    kind = "<f8" if precision == "float64" else "<f4"
    return np.dtype([("features", kind, (dimensions,)), ("check", "<u4")])


def read_features(path: Path, rows: range, count: int, kind: np.dtype) -> torch.Tensor | None:
    """These rows of a file of `count`; None on every rank where one of them finds none, or a damaged one."""
    features = None
    try:
        if path.exists() and not path.is_file():
            raise ValueError("a folder or device")
        stored = np.lib.format.open_memmap(path, mode="r")  # takes no pickled objects
        if stored.dtype != kind or stored.shape != (count,):
            raise ValueError(f"{stored.shape} rows of {stored.dtype}")
        own = stored[rows.start:rows.stop]
        features = np.array(own["features"])
        if not np.array_equal(checks(path.stem, rows.start, features), own["check"]):
            raise ValueError("a wrong check sum: not those of this name")
    except (FileNotFoundError, NotADirectoryError):
        pass
    except Exception as error:  # a foreign header raises almost anything
        features = None
        tqdm.write(f"{path}: damaged features ({' '.join(str(error).split())[:100]}); computed anew")
    hits = all_reduce_sum(torch.tensor([features is not None], dtype=torch.int64)).item()
    return torch.from_numpy(features) if hits == world_size() else None


def write_features(path: Path, own: torch.Tensor, kind: np.dtype) -> None:
    """Rank 0 writes the rows of all ranks, in order, in slices: no rank ever holds the whole set.

    The file appears whole or not at all; an OSError (a full disk, no permission) becomes a line.
    """
    counts = row_counts(len(own))
    slices = gathered(own, counts)
    try:
        if is_main():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as draft, open(draft, "wb") as file:
                np.lib.format.write_array_header_1_0(file, {
                    "descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False,
                    "shape": (sum(counts),)})
                start = file.tell()
                for place, rows in slices:
                    block = np.empty(len(rows), kind)
                    block["features"], block["check"] = rows, checks(path.stem, place, rows)
                    file.seek(start + place * kind.itemsize)
                    file.write(block.tobytes())
    except OSError as error:
        tqdm.write(f"{path.parent}: features are not kept ({error.strerror}); choose another --cache")
    for _ in slices:  # the other ranks' part in it, and rank 0's where it has given up
        pass


def gathered(own: torch.Tensor, counts: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first row, rows) of all ranks' rows, in slices. Every rank must come to its end."""
    step = max(1, SLICE // world_size())
    for first in range(0, max(counts), step):
        sizes = [min(max(count - first, 0), step) for count in counts]
        for number, rows in enumerate(all_gather_rows(own[first:first + step], sizes).split(sizes)):
            yield sum(counts[:number]) + first, rows.numpy()


def checks(key: str, first: int, features: np.ndarray) -> np.ndarray:
    """CRC-32 of each row behind the file's key and the row's number, of which `first` is the first one's."""
    start = zlib.crc32(key.encode())
    return np.array([zlib.crc32(row, zlib.crc32(number.to_bytes(8, "little"), start))
                     for number, row in enumerate(features, first)], dtype=np.uint32)
