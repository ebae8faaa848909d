"""Pictures in parquet files, read one row group at a time. A process's memory does not grow with the files.

Parquet is made to be read by columns. Inside a row group the values are packed together, usually compressed,
so reading one picture means reading its whole group: 100 pictures in the files of the Hugging Face Hub.
`tools/write_shards.py` rewrites such files as shards, once, in the same order; there a picture costs only its
own bytes.
"""
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from parallel.packed import Index, Labels, Strings, first_line, pick, sha256

if TYPE_CHECKING:
    import pyarrow
    from pyarrow import parquet

COLUMNS = {"image": ("image", "img"), "label": ("label", "fine_label")}  # CIFAR's on the Hub: the second
LARGEST_GROUP = 2 ** 27  # bytes of pictures; reading takes eight times as much (benchmarks/sources.py)


class Parquet:
    """One file or several with a column `image` (or `img`), the bytes of a picture file or a structure with a
    field `bytes`, and perhaps an integer column `label` (or `fine_label`): COLUMNS. Needs pyarrow.

    splits: {file: what its column `split` says}.

    The footers and the labels are read at the start. In each process `read` keeps the last row group, which
    helps reading in order and sets of a single group.
    """

    def __init__(self, paths: Sequence[Path]):
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise ValueError(f"{paths[0]}: parquet needs pyarrow, found none; pip install pyarrow") \
                from None
        self.place = f"{Path(paths[0]).parent}, parquet files: {len(paths)}"
        contents = [content_of(os.fspath(path)) for path in paths]
        rows = [sum(groups) for groups, *_ in contents]
        if not sum(rows):
            raise ValueError(f"{paths[0]}: expected pictures, found no rows")
        self.files, self.ends = Strings(paths), np.cumsum(rows)
        self.groups = [np.cumsum(groups) for groups, *_ in contents]  # ends of the row groups, by file
        labels = [labels for _, labels, _ in contents if labels is not None]
        self.splits = {Path(path): splits for path, (*_, splits) in zip(paths, contents)}
        self.classes = np.concatenate(labels) if len(labels) == len(contents) else None
        self.class_names: tuple[str, ...] = ()
        self.fingerprint = sha256([(Path(path).name, os.path.getsize(path)) for path in paths], self.ends)

    @property
    def version(self) -> str:
        """What changes with the pictures: names, sizes and times of the files."""
        files = [os.fspath(self.files[number]) for number in range(len(self.files))]
        return sha256([(os.path.basename(file), os.path.getsize(file), os.stat(file).st_mtime_ns)
                       for file in files])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def name(self, index: int) -> str:
        file, row = segment(self.ends, index)
        return f"{self.files[file]}[{row}]"

    def read(self, index: int) -> bytes:
        file, row = segment(self.ends, index)
        group, row = segment(self.groups[file], row)
        data = pictures_of(self.files[file], group)[row].as_py()
        if data is None:
            raise ValueError("the cell is empty")
        return data

    def labels(self, index: Index) -> Labels:
        return pick(self.classes, index)


def segment(ends: np.ndarray, index: int) -> tuple[int, int]:
    """Return where an index falls: (number of the segment, position within it). ends: of all segments."""
    number = int(np.searchsorted(ends, index, side="right"))
    return number, index - int(ends[number - 1] if number else 0)


def column_of(path: str, meaning: str) -> str | None:
    """Return what a file calls a column of COLUMNS; None where it has none."""
    names = opened(path).schema_arrow.names
    return next((name for name in COLUMNS[meaning] if name in names), None)


def content_of(path: str) -> tuple[list[int], np.ndarray | None, set[str]]:
    """Return the number of rows of each row group of a file, the labels (rows,) if there are any, and what
    its column `split` says. Raises ValueError for a file that is not parquet, has no pictures, or has row
    groups too large to read for one picture."""
    import pyarrow
    try:
        file = opened(path)
        columns = file.schema_arrow.names
        image, label = (column_of(path, meaning) for meaning in COLUMNS)
        kind = file.schema_arrow.field(image).type if image else None
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        labels = None
        if label and pyarrow.types.is_integer(file.schema_arrow.field(label).type):
            labels = file.read(columns=[label], use_threads=False)[label]
        splits = set(file.read(columns=["split"], use_threads=False)["split"].unique().to_pylist()) \
            if "split" in columns else set()
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"{path}: cannot be read as parquet ({first_line(error)}); copy it again") from None
    if kind is None:
        raise ValueError(f"{path}: expected a column image, found {', '.join(columns) or 'none'}")
    if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
        raise ValueError(f"{path}: expected bytes in the column image, found {kind}")
    sizes = [sum(group.column(number).total_uncompressed_size for number in range(group.num_columns)
                 if group.column(number).path_in_schema in (image, f"{image}.bytes")) for group in groups]
    if sizes and max(sizes) > LARGEST_GROUP:
        raise ValueError(f"{path}: expected row groups of at most {LARGEST_GROUP >> 20} MiB of pictures, "
                         f"since each picture is read with its group, found {max(sizes) >> 20} MiB; write it "
                         "again with row_group_size=100, or as shards by tools/write_shards.py")
    return ([group.num_rows for group in groups],
            None if labels is None or labels.null_count else labels.to_numpy(),
            {str(split) for split in splits})


@lru_cache(maxsize=128)
def opened(path: str) -> "parquet.ParquetFile":
    """Open a file. It is read by position, so workers may share one that was open before they were forked."""
    from pyarrow import parquet
    return parquet.ParquetFile(path)


@lru_cache(maxsize=1)
def pictures_of(path: str, group: int) -> "pyarrow.ChunkedArray":
    """Return the pictures of a row group, as bytes."""
    import pyarrow
    from pyarrow import compute
    file = opened(path)
    image = column_of(path, "image")
    struct = pyarrow.types.is_struct(file.schema_arrow.field(image).type)
    # On this thread: workers are forked, and pyarrow's own threads do not survive a fork.
    column = file.read_row_group(group, [f"{image}.bytes" if struct else image], use_threads=False)[image]
    return compute.struct_field(column, "bytes") if struct else column
