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
from benchmarks.views import SIZE, photographs
from pretrain.pictures.augment import make_backend
from pretrain.pictures.sources import open_source
from tools import write_shards

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
    backend = make_backend("fast", SIZE)
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


def show_sources(root, count, rows) -> bool:
    """Print a line for each kind. Returns whether parquet's memory is within its bounds."""
    write(root, count, rows)
    draws = random.Random(0).sample(range(count), 40)
    opened = {kind: open_source(root / kind) for kind in KINDS}
    read, views = (common.compare({kind: work(source, draws) for kind, source in opened.items()}, rounds=3)
                   for work in (reading, viewing))
    size = len(opened["folder"].read(0)) / common.MIB
    print(f"{count} pictures of {size:.2f} MiB; seconds of image files over those of the kind")
    for kind in KINDS:
        mib = common.in_fresh_process(peak, root / kind, 40) / common.MIB
        print(f"{kind:8} read {str(common.ratio(read['folder'], read[kind])):20} "
              f"views {str(common.ratio(views['folder'], views[kind])):20} "
              f"{len(draws) / statistics.median(views[kind]):4.0f} pictures/s, {mib:4.0f} MiB of memory, "
              f"{size * (rows if kind == 'parquet' else 1):5.2f} MiB read a picture")
    whole = common.in_fresh_process(peak_whole, root / "parquet" / "train.parquet") / common.MIB
    print(f"parquet read whole: {whole:.0f} MiB of memory")
    return mib < GROUPS * rows * size + SPARE


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


def show_index(root, members) -> None:
    paths = tiny_shards(root, members)
    index = root.glob(".pretrain_index_*.npz")
    plain = common.clock(lambda: members_of(paths), 1, lambda: None)
    made = common.clock(lambda: open_source(root), 1, lambda: None)
    there = common.clock(lambda: open_source(root), 1, lambda: None)
    file, = index
    bytes_ = file.stat().st_size
    mib = {"plain": common.in_fresh_process(peak_index, root, True),
           "there": common.in_fresh_process(peak_index, root, False)}
    file.unlink()
    mib["made"] = common.in_fresh_process(peak_index, root, False)
    print(f"index of {members} pictures: {made:.1f} s once, by one process; tarfile's list {plain:.1f} s "
          f"at each start; with the index {there:.2f} s")
    print(f"  {bytes_ / 1e6:.1f} MB on disk; memory of a process: {mib['plain'] / common.MIB:.0f} MiB "
          f"tarfile's list, {mib['made'] / common.MIB:.0f} MiB making the index, "
          f"{mib['there'] / common.MIB:.0f} MiB with it")


def main(arguments=None) -> int:
    args = common.options(__doc__, arguments, pictures=1000, rows=100, members=20_000)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        within = show_sources(Path(folder), args.pictures, args.rows)
        show_index(Path(folder) / "index", args.members)
    if not within:
        print(f"error: a parquet file takes more memory than {GROUPS} of its row groups", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
