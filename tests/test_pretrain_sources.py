"""Kinds of data: the same pictures give the same views whatever they are kept in; what is wrong is named."""
import io
import os
import pickle
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images

from parallel import parquet
from pretrain.pictures import shards
from pretrain.pictures.augment import make_backend, sized
from pretrain.pictures.batches import build_loader
from pretrain.pictures.sources import open_source
from tools import write_shards

COUNT = 12
KINDS = ("folder", "train folder", "list", "npz", "parquet", "parquet of structures", "parquet folder",
         "shards", "one shard", "shard range")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Where an index goes if it cannot lie beside the shards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def pictures():
    """Real cuts of two photographs of different sizes as PNG files' bytes, six a class."""
    for number in range(COUNT):
        photograph = load_sample_images().images[number // 6]
        size = 60 if number < 6 else 60 + number
        cut = photograph[number * 30:number * 30 + 60, number * 40:number * 40 + size]
        file = io.BytesIO()
        Image.fromarray(cut).save(file, "PNG")
        yield f"{'ab'[number // 6]}/{number:02}.png", number // 6, file.getvalue()


def add(archive, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def write_shard(path, samples, extra=()):
    with tarfile.open(path, "w") as archive:
        for name, label, data in samples:
            add(archive, name, data)
            add(archive, f"{name[:-4]}.cls", str(label).encode())
            add(archive, f"{name[:-4]}.more.json", b"{}")
        for name, data in extra:
            add(archive, name, data)


def write_parquet(path, samples, structured=False):
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    from pyarrow import parquet
    images = [{"bytes": data, "path": name} if structured else data for name, _, data in samples]
    table = pyarrow.table({"image": images, "label": [label for _, label, _ in samples]})
    parquet.write_table(table, path, row_group_size=4)


def write(kind, root, samples):
    """Writes the samples; returns what open_source takes."""
    if kind in ("folder", "train folder", "list"):
        top = root / "train" if kind == "train folder" else root
        for name, _, data in samples:
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes(data)
        lines = "".join(f"{name} {label}\n" for name, label, _ in samples)
        (root / "list.txt").write_text(lines + "\n")
        return root / "list.txt" if kind == "list" else root
    if kind == "npz":
        images = np.stack([np.asarray(Image.open(io.BytesIO(data))) for _, _, data in samples])
        np.savez_compressed(root / "set.npz", images=images, labels=[label for _, label, _ in samples])
        return root / "set.npz"
    if kind == "parquet folder":
        write_parquet(root / "part-0.parquet", samples[:5])
        write_parquet(root / "part-1.parquet", samples[5:], structured=True)
        return root
    if kind.startswith("parquet"):
        write_parquet(root / "set.parquet", samples, kind == "parquet of structures")
        return root / "set.parquet"
    if kind == "one shard":
        write_shard(root / "all.tar", samples)
        return root / "all.tar"
    for number, first in enumerate(range(0, len(samples), 5)):
        write_shard(root / f"set-{number:03}.tar", samples[first:first + 5],
                    [("a/._hidden.png", b"x"), ("README", b"x")])
    return root if kind == "shards" else root / "set-{000..002}.tar"


def batches(source, workers=0):
    settings = SimpleNamespace(batch_size=4, seed=5, accumulate=1, labelled=False)
    loader = build_loader(source, make_backend("pil", sized(32)), settings, workers, 1, 0, False)
    return [torch.stack(list(batch)) for batch in loader]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_samples_with_any_number_of_workers(tmp_path, kind):
    samples = list(pictures())
    if kind == "npz":  # one size for all
        samples = [(name, label, samples[number % 6][2]) for number, (name, label, _) in enumerate(samples)]
    wanted = batches(open_source(write("folder", tmp_path / "files", samples)))
    (tmp_path / "kind").mkdir()
    source = open_source(write(kind, tmp_path / "kind", samples))
    found = batches(source)
    assert len(source) == COUNT and len(found) == 3
    assert [source.labels(index) for index in range(COUNT)] == [label for _, label, _ in samples]
    assert source.labels(np.arange(COUNT)).tolist() == [label for _, label, _ in samples]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    for number, (name, _, data) in enumerate(samples):
        exact = np.asarray(Image.open(io.BytesIO(data)))
        read = source.read(number)
        read = np.asarray(Image.open(io.BytesIO(read))) if isinstance(read, bytes) else read
        assert np.array_equal(read, exact), number
        assert str(tmp_path / "kind") in source.name(number)
    if kind in ("folder", "parquet folder", "shards", "npz"):
        assert all(torch.equal(a, b) for a, b in zip(batches(source, workers=2), found, strict=True))


@pytest.mark.parametrize("kind", ["folder", "list", "npz", "parquet folder", "shards"])
def test_fingerprint_is_of_the_data_and_not_of_its_place(tmp_path, kind):
    samples = list(pictures())[:6]
    for folder in ("here", "there", "other"):
        (tmp_path / folder).mkdir()
    here, there = (open_source(write(kind, tmp_path / folder, samples)) for folder in ("here", "there"))
    changed = [*samples[:5], ("a/15.png", 0, samples[0][2])]
    other = open_source(write(kind, tmp_path / "other", changed))
    assert here.fingerprint == there.fingerprint != other.fingerprint
    assert len(here.fingerprint) == 64


def test_names_say_where_a_picture_is(tmp_path):
    samples = list(pictures())
    for kind in ("shards", "parquet folder"):
        (tmp_path / kind).mkdir()
        source = open_source(write(kind, tmp_path / kind, samples))
        found = [Path(source.name(index)).relative_to(tmp_path).as_posix() for index in (0, 4, 5, 11)]
        assert found == ({"shards": ["shards/set-000.tar:a/00.png", "shards/set-000.tar:a/04.png",
                                     "shards/set-001.tar:a/05.png", "shards/set-002.tar:b/11.png"],
                          "parquet folder": [f"parquet folder/part-{row}" for row in (
                              "0.parquet[0]", "0.parquet[4]", "1.parquet[0]", "1.parquet[6]")]}[kind])


def test_positions_in_shards_are_found_once_and_again_when_a_shard_changes(tmp_path, monkeypatch):
    samples = list(pictures())
    place = write("shards", tmp_path, samples)
    first = open_source(place)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "samples_of", None)  # would fail if it were called
        again = open_source(place)
    assert again.fingerprint == first.fingerprint and again.read(7) == first.read(7)
    write_shard(tmp_path / "set-002.tar", samples[10:11])
    shards.opened.cache_clear()
    changed = open_source(place)
    assert len(changed) == 11 and changed.read(10) == samples[10][2]
    index, = tmp_path.glob(".pretrain_index_*.npz")
    index.write_bytes(b"torn")
    assert len(open_source(place)) == 11  # a damaged index is made again
    with np.load(index) as file:
        content = dict(file)
    np.savez(index, **content | {"offset": content["offset"][::-1]})  # and an edited one
    assert open_source(place).read(10) == samples[10][2]

    def refuse(*_, **__):
        raise PermissionError("read-only")
    monkeypatch.setattr(shards.np, "savez", refuse)
    index.unlink()
    assert len(open_source(place)) == 11 and not list(tmp_path.glob(".pretrain_index_*.npz*"))


def test_of_several_processes_one_reads_the_shards_and_the_others_wait(tmp_path, monkeypatch):
    """Threads for processes: the lock is of an open file, so it parts them as well."""
    place, read, calls = write("shards", tmp_path, list(pictures())), shards.samples_of, []

    def slowly(path):
        calls.append(path.name)
        time.sleep(0.1)
        return read(path)
    monkeypatch.setattr(shards, "samples_of", slowly)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(open_source, [place] * 4))
    assert calls == ["set-000.tar", "set-001.tar", "set-002.tar"]
    assert len({source.fingerprint for source in found}) == 1


def test_an_index_that_cannot_lie_beside_the_shards_is_kept_in_the_users_cache(tmp_path, monkeypatch):
    place, replacing = write("shards", tmp_path, list(pictures())), shards.replacing

    def refuse(file):
        if file.parent == tmp_path:
            raise PermissionError("read-only")
        return replacing(file)
    monkeypatch.setattr(shards, "replacing", refuse)
    first = open_source(place)
    monkeypatch.setattr(shards, "samples_of", None)  # would fail if it were called
    assert open_source(place).fingerprint == first.fingerprint


def test_a_million_members_of_one_shard_are_not_kept(tmp_path, monkeypatch):
    path, most, held = write("one shard", tmp_path, list(pictures())), [], tarfile.TarFile.next

    def watched(archive):
        most.append(len(archive.members))
        return held(archive)
    monkeypatch.setattr(tarfile.TarFile, "next", watched)
    assert len(open_source(path)) == COUNT
    assert len(most) > 3 * COUNT and max(most) <= 1


def counted(monkeypatch, pyarrow_parquet):
    """A list that grows by (file, row group) with each one that is read."""
    groups, read = [], pyarrow_parquet.ParquetFile.read_row_group

    def count(file, group, *arguments, **options):
        groups.append(group)
        return read(file, group, *arguments, **options)
    monkeypatch.setattr(pyarrow_parquet.ParquetFile, "read_row_group", count)
    parquet.pictures_of.cache_clear()
    return groups


def test_a_picture_of_a_parquet_file_costs_its_row_group_and_not_the_file(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    draw = np.random.default_rng(0)
    samples = [(f"{number}.jpg", number, draw.bytes(100_000)) for number in range(40)]
    write_parquet(tmp_path / "set.parquet", samples, structured=True)
    groups = counted(monkeypatch, pyarrow.parquet)
    before = pyarrow.total_allocated_bytes()
    source = open_source(tmp_path / "set.parquet")
    assert groups == [] and source.labels(np.arange(40)).tolist() == list(range(40))
    for index in (39, 2, 17):
        assert source.read(index) == samples[index][2]
    assert groups == [9, 0, 4]
    assert pyarrow.total_allocated_bytes() - before < 1_000_000  # a row group is 0.4 MB, the file 4 MB
    assert [source.read(index) for index in range(16, 24)] == [data for *_, data in samples[16:24]]
    assert groups == [9, 0, 4, 5]  # those who read in order read each group once


def test_row_groups_too_large_to_be_read_for_one_picture_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "LARGEST_GROUP", 1000)
    write_parquet(tmp_path / "set.parquet", list(pictures()))
    with pytest.raises(ValueError, match="set.parquet: expected row groups of at most 0 MiB of pictures, "
                                         "since each picture is read with its group, found .* MiB; write it"):
        open_source(tmp_path / "set.parquet")


@pytest.mark.parametrize("ending", ["parquet", "tar"])
@pytest.mark.parametrize("names, found", [
    (("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"), 8),
    (("imagenet1k-train-0000", "imagenet1k-validation-00"), 4),
    (("restrained-0", "constrained-1"), 8)], ids=lambda value: value[0] if isinstance(value, tuple) else "")
def test_of_files_side_by_side_those_of_training_are_taken(tmp_path, names, found, ending):
    """As the Hugging Face Hub keeps them, in data/, and as timm's shards are named."""
    (tmp_path / "data").mkdir()
    for number, name in enumerate(names):
        some = list(pictures())[4 * number:4 * number + 4]
        {"parquet": write_parquet, "tar": write_shard}[ending](tmp_path / "data" / f"{name}.{ending}", some)
    assert len(open_source(tmp_path)) == len(open_source(tmp_path / "data")) == found


def test_shards_of_any_kind_hold_the_same_samples(tmp_path, capsys):
    samples = list(pictures())
    (tmp_path / "kind").mkdir()
    place = write("parquet folder", tmp_path / "kind", samples)
    command = [str(place), str(tmp_path / "out"), "--pictures", "5"]
    assert write_shards.main(command) == 0
    assert capsys.readouterr().out == f"12 pictures in 3 shards: {tmp_path / 'out'}\n"
    shard = tmp_path / "out" / "train-00001.tar"
    shard.unlink()  # a stop in between
    stays = (tmp_path / "out" / "train-00000.tar").stat()
    assert write_shards.main(command) == 0
    assert (tmp_path / "out" / "train-00000.tar").stat() == stays
    found = open_source(tmp_path / "out")
    assert [found.read(index) for index in range(COUNT)] == [data for *_, data in samples]
    assert found.labels(np.arange(COUNT)).tolist() == [label for _, label, _ in samples]
    assert found.name(7) == f"{shard}:00000007.png"
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 4, 4, 3), np.uint8))
    assert write_shards.main([str(tmp_path / "x.npz"), str(tmp_path / "no")]) == 2
    assert "x.npz[0]: expected the bytes of a picture file, found pixels" in capsys.readouterr().err


def test_grey_arrays_and_pictures_without_labels(tmp_path):
    grey = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5)
    np.savez(tmp_path / "grey.npz", images=grey)
    source = open_source(tmp_path / "grey.npz")
    assert np.array_equal(source.read(1), np.stack([grey[1]] * 3, axis=2)) and source.labels(1) is None
    for name in ("a b 1.png", "c.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "list.txt").write_text("a b 1.png\nc.png\n")
    source = open_source(tmp_path / "list.txt")
    assert source.name(0) == str(tmp_path / "a b 1.png") and source.labels(0) is None


def npz(**arrays):
    return lambda root: np.savez(root / "x.npz", **arrays)


def text(name, content):
    def make(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return make


def folders(*names):
    return lambda root: [(root / name).mkdir(parents=True) for name in names]


def shard(*members):
    def make(root):
        with tarfile.open(root / "x.tar", "w") as archive:
            for name, data in members:
                add(archive, name, data)
    return make


def cut_shard(root):
    write_shard(root / "x.tar", list(pictures())[:3])
    data = (root / "x.tar").read_bytes()
    (root / "x.tar").write_bytes(data[:len(data) // 3])


def other_parquet(root):
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    from pyarrow import parquet
    parquet.write_table(pyarrow.table({"picture": [b"x"]}), root / "x.parquet")


@pytest.mark.parametrize("make, name, message", [
    (folders(), "no", "no: no such file or folder; expected a folder"),
    (folders(), "", "no class folders in it; expected <class>/<picture>"),
    (folders("train"), "", "train: no class folders in it"),
    (folders("train/a", "train/b"), "", "train: 2 of 2 class folders hold no picture, first a; complete"),
    (text("val/a/1.png", b""), "", "has val but no train; expected"),
    (text("x.zip", b"PK"), "x.zip", "x.zip: unknown kind of data; expected a folder"),
    (text("x.txt", b"\n"), "x.txt", "x.txt: expected one picture's path a line, found none"),
    (text("x.txt", b"\xff\xd8\xff"), "x.txt", "x.txt: expected a text list"),
    (text("x.txt", b"a.png\n"), "x.txt", "x.txt: 1 of 1 listed images are missing, first .*a.png; paths are"),
    (npz(pictures=np.zeros(3)), "x.npz", "x.npz: expected an array named images, found pictures"),
    (npz(images=np.zeros((2, 4, 4, 3))), "x.npz", r"expected images as uint8 \(N, H, W, 3\), found float64"),
    (npz(images=np.zeros((2, 4, 4, 3), np.uint8), labels=[1]), "x.npz", "expected 2 integers as labels"),
    (text("x.npz", b"torn"), "x.npz", "x.npz: cannot be read as npz"),
    (text("x.parquet", b"torn"), "x.parquet", "x.parquet: cannot be read as parquet"),
    (other_parquet, "x.parquet", "x.parquet: expected a column image, found picture"),
    (text("x.tar", b"torn"), "x.tar", "x.tar: cannot be read as a tar file"),
    (cut_shard, "x.tar", r"x.tar: cannot be read as a tar file \(unexpected end of data\)"),
    (shard(), "x.tar", "x.tar: expected samples as webdataset writes them"),
    (shard(("1.json", b"{}")), "x.tar", "expected one picture in sample 1, found 0"),
    (shard(("1.png", b""), ("1.jpg", b"")), "x.tar", "expected one picture in sample 1, found 2"),
    (shard(("1.png", b""), ("1.cls", b"cat")), "x.tar", "expected an integer in 1.cls"),
    (shard(("1.png", b"")), "x-{00..03}.tar", r"x-00.tar: no such shard \(4 of 4 are missing\)"),
    (folders(), "x-{03..01}.tar", r"expected a rising range, found \{03..01\}"),
    (folders(), "x-{a,b}.tar", "expected a range of numbers"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_wrong_is_one_line(tmp_path, make, name, message):
    make(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        open_source(tmp_path / name if name else tmp_path)
    assert "\n" not in str(caught.value)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="x.parquet: .*needs pyarrow.*pip install"):
        open_source(tmp_path / "x.parquet")


@pytest.mark.parametrize("name, key, count", [("CIFAR10", "labels", 20), ("CIFAR100", "fine_labels", 4)])
def test_cifar_as_it_is_downloaded(tmp_path, monkeypatch, name, key, count):
    kind = getattr(torchvision.datasets, name)
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32)).astype(np.uint8)
    batch = pickle.dumps({"data": pixels.reshape(4, -1), key: [0, 1, 1, 0]})
    for file, _ in [*kind.train_list, *kind.test_list]:
        (folder / file).write_bytes(batch)
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: ["cat", "dog"]}))
    with pytest.raises(ValueError, match="torchvision cannot read it .*; fetch it again"):  # another md5
        open_source(folder)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    source = open_source(folder)
    assert len(source) == count and source.class_names == ("cat", "dog")
    assert "without its test" in source.place
    assert source.labels(slice(0, 4)).tolist() == [0, 1, 1, 0]
    assert np.array_equal(source.read(3), pixels[3].transpose(1, 2, 0))
    os.mkfifo(folder / "readme.html")
    with pytest.raises(ValueError, match="readme.html: expected a file"):
        open_source(folder)


def test_stl10_as_it_is_downloaded(tmp_path):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 96, 96, 3)).astype(np.uint8)
    for half, rows in (("train", pixels[:2]), ("unlabeled", pixels[2:])):
        rows.transpose(0, 3, 2, 1).tofile(folder / f"{half}_X.bin")
    source = open_source(folder)
    assert len(source) == 5 and source.labels(0) is None
    assert all(np.array_equal(source.read(index), pixels[index]) for index in range(5))
    whole = source.fingerprint
    pixels[:1].transpose(0, 3, 2, 1).tofile(folder / "train_X.bin")
    assert open_source(folder).fingerprint != whole
    for spoil, found in ((lambda path: path.write_bytes(b"1234"), "found 4"), (Path.unlink, "found 0")):
        spoil(folder / "unlabeled_X.bin")
        with pytest.raises(ValueError, match=f"unlabeled_X.bin: expected 27,648 bytes .*, {found}; unpack"):
            open_source(folder)


def test_pictures_beside_folders_are_left_out_and_said(tmp_path):
    for name in ("a/1.jpg", "b/2.jpg", "3.jpg", "4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    source = open_source(tmp_path)
    assert len(source) == 2 and source.place.endswith("(without 2 pictures beside its folders)")
