"""Rewrite any data that pretraining reads as webdataset shards, with the pictures in the same order.

    python -m tools.write_shards /data/imagenet-parquet /data/imagenet-shards [--pictures 5000]

Shards are few large files, and reading a picture, in any order, costs only its own bytes. The same seed gives
the same views, since a picture keeps its index. A file system lists a thousand shards at once but a million
files slowly, and a picture in a parquet file is read with its whole row group.
"""
import argparse
import io
import sys
import tarfile
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from parallel.files import replacing
from pretrain.pictures.shards import Shards
from pretrain.pictures.sources import open_source


def write(source, folder: Path, pictures: int) -> list[Path]:
    """Write shards of `pictures` pictures, each whole or not at all. Existing shards stay, so the same
    command continues after a stop. Raises ValueError for pictures that are not the bytes of a file."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for first in tqdm(range(0, len(source), pictures), unit="shard", disable=None):
        paths.append(folder / f"train-{first // pictures:05}.tar")
        if paths[-1].is_file():
            continue
        with replacing(paths[-1]) as draft, tarfile.open(draft, "w") as archive:
            for index in range(first, min(first + pictures, len(source))):
                data, label = source.read(index), source.labels(index)
                if not isinstance(data, bytes):
                    raise ValueError(f"{source.name(index)}: expected the bytes of a picture file, found "
                                     "pixels; .npz is held in memory and needs no shards")
                add(archive, f"{index:08}.{ending(data)}", data)
                if label is not None:
                    add(archive, f"{index:08}.cls", str(int(label)).encode())
    return paths


def ending(data: bytes) -> str:
    """Return the ending of the picture's own format; jpg for bytes that are no picture, which the training
    will name."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            found = picture.format.lower()
    except OSError:
        return "jpg"
    return found if found in Shards.PICTURES else "jpg"


def add(archive, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="what pretrain/main.py takes")
    parser.add_argument("folder", type=Path, help="of the shards, new or of an earlier start")
    parser.add_argument("--pictures", type=int, default=5000, help="in a shard (default: %(default)s)")
    args = parser.parse_args(arguments)
    try:
        if args.pictures < 1:
            raise ValueError(f"--pictures expected at least 1, found {args.pictures}")
        source = open_source(args.data)
        paths = write(source, args.folder, args.pictures)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(source)} pictures in {len(paths)} shards: {args.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
