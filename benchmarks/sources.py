"""Pictures in random order from each kind of data: speed against image files, memory against reading it all.

    python -m benchmarks.sources [--pictures 1000] [--rows 100] [--members 20000]

The JPEG files of benchmarks/views.py, about 90 kB each, are stored in folders, in tar shards and in a parquet
file with row groups of `rows` pictures (100, as the Hugging Face Hub writes them). `read` returns a picture's
bytes; `views` also decodes them and makes two views of 224 pixels with the fast backend. Everything comes
from the page cache; from a file server, add the bytes in the last column. Then it measures an index of shards
with `members` pictures and their labels: seconds against a Python list of tarfile's members, memory, bytes.
Exits with 1 if the parquet file takes more memory than pyarrow itself and eight of its row groups.
"""
import random
import statistics
import sys
import tarfile
import tempfile
from pathlib import Path

import torch

from benchmarks import common
from benchmarks.views import photographs
from pretrain.pictures.augment import make_backend
from pretrain.pictures.sources import open_source
from tools import write_shards

FLAGS = {"pictures": 1000, "rows": 100, "members": 20_000}
GROUPS, SPARE = 8, 80  # row groups and MiB (pyarrow and its allocator) that reading a parquet file may take
CPU = torch.device("cpu")
KINDS = ("folder", "shards", "parquet")


def write(root: Path, count: int, rows: int) -> None:
    """Write the same pictures as every kind of data, each in a folder of `root`."""
    import pyarrow
    from pyarrow import parquet
    files = photographs()
    # Bytes after a JPEG's end make each file different; equal files would be stored once.
    pictures = [files[number % len(files)] + number.to_bytes(4, "big") for number in range(count)]
    for number, data in enumerate(pictures):
        place = root / "folder" / f"{number % 10}" / f"{number:06}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    write_shards.write(open_source(root / "folder"), root / "shards", 1000)
    table = pyarrow.table({"image": [{"bytes": data, "path": None} for data in pictures],
                           "label": list(range(count))})
    (root / "parquet").mkdir()
    parquet.write_table(table, root / "parquet" / "train.parquet", row_group_size=rows)


def reading(source, order):
    return lambda: [source.read(index) for index in order]


def viewing(source, order):
    backend = make_backend("fast")
    return lambda: [backend.views(backend.decode(source.read(index)), 0, 0, index) for index in order]


def peak(place, count):
    """Return the bytes of a process that opens the data and reads `count` pictures in random order."""
    def work():
        source = open_source(place)
        reading(source, random.Random(0).sample(range(len(source)), count))()
    return common.peak_bytes(work, CPU)


def peak_whole(place):
    from pyarrow import parquet
    return common.peak_bytes(lambda: parquet.read_table(place, columns=["image", "label"]), CPU)


def measure_sources(root, count, rows) -> list[common.Row]:
    """Return a row of reading and one of views for each kind, and the memory of the parquet file."""
    write(root, count, rows)
    draws = random.Random(0).sample(range(count), 40)
    opened = {kind: open_source(root / kind) for kind in KINDS}
    read, views = (common.compare({kind: work(source, draws) for kind, source in opened.items()}, rounds=3)
                   for work in (reading, viewing))
    size = len(opened["folder"].read(0)) / common.MIB
    found, bound = [], GROUPS * rows * size + SPARE
    for kind in KINDS:
        mib = common.in_fresh_process(peak, root / kind, 40) / common.MIB
        fetched = size * (rows if kind == "parquet" else 1)
        found += [common.Row(kind, "time of reading, folder over this",
                             common.ratio(read["folder"], read[kind]),
                             beside=f"{fetched:.2f} MiB read a picture"),
                  common.Row(kind, "time of views, folder over this",
                             common.ratio(views["folder"], views[kind]),
                             beside=f"{len(draws) / statistics.median(views[kind]):.0f} pictures/s")]
    whole = common.in_fresh_process(peak_whole, root / "parquet" / "train.parquet") / common.MIB
    return [*found, common.Row(f"parquet, {count} pictures of {size:.2f} MiB", "MiB of memory", mib,
                               f"{bound:.0f} at most", f"{whole:.0f} MiB if read whole", mib >= bound)]


def tiny_shards(root: Path, members: int) -> list[Path]:
    root.mkdir()
    paths = [root / f"train-{first // 10_000:05}.tar" for first in range(0, members, 10_000)]
    for number, path in enumerate(paths):
        with tarfile.open(path, "w") as archive:
            for index in range(number * 10_000, min(members, (number + 1) * 10_000)):
                write_shards.add(archive, f"n{index % 1000:08}_{index:08}.jpg", b"\xff\xd8picture")
                write_shards.add(archive, f"n{index % 1000:08}_{index:08}.cls", b"%d" % (index % 1000))
    return paths


def members_of(paths):
    """Return the plain index: a Python list."""
    found = []
    for path in paths:
        with tarfile.open(path) as archive:
            found += [(one.name, path, one.offset_data, one.size) for one in archive]
    return found


def peak_index(root, plain):
    paths = sorted(root.glob("*.tar"))
    return common.peak_bytes(lambda: members_of(paths) if plain else open_source(root), CPU)


def measure_index(root, members) -> list[common.Row]:
    paths = tiny_shards(root, members)
    index = root.glob(".pretrain_index_*.npz")
    plain = common.clock(lambda: members_of(paths), 1, lambda: None)
    made = common.clock(lambda: open_source(root), 1, lambda: None)
    there = common.clock(lambda: open_source(root), 1, lambda: None)
    file, = index
    size = file.stat().st_size
    mib = {"plain": common.in_fresh_process(peak_index, root, True),
           "there": common.in_fresh_process(peak_index, root, False)}
    file.unlink()
    mib["made"] = common.in_fresh_process(peak_index, root, False)
    mib = {name: value / common.MIB for name, value in mib.items()}
    case = f"index of {members} pictures"
    return [common.Row(case, "time of a start, tarfile's list over ours", plain / there,
                       beside=f"{plain:.1f} and {there:.2f} s; {made:.1f} s once, {size / 1e6:.1f} MB"),
            common.Row(case, "memory, tarfile's list over ours", mib["plain"] / mib["there"],
                       beside=f"{mib['plain']:.0f} and {mib['there']:.0f} MiB; {mib['made']:.0f} MiB once")]


def measure(args):
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return [*measure_sources(Path(folder), args.pictures, args.rows),
                *measure_index(Path(folder) / "index", args.members)]


if __name__ == "__main__":
    sys.exit(common.main(__doc__, FLAGS, measure))
