"""The GPU kit: its driver on toy phases, its tables, what it packs, and the quick parts of its phases."""
import io
import json
import os
import re
import sys
import tarfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.pictures.sources import open_source
from tools import gpu
from tools.gpu_kit import cifar, pack, report, step
from tools.gpu_kit.job import Job, add, lines

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folders(tmp_path):
    for name in ("out", "work", "packed"):
        (tmp_path / name).mkdir()
    return tmp_path


def job_of(folders, device="cpu", seconds=100.0):
    return Job("step", folders / "out", folders / "work", folders / "packed", device, seconds)


# The driver

LEAVES = """
import sys; sys.path.insert(0, {root!r})
from pathlib import Path
from tools.gpu_kit.job import Job
job = Job({phase!r}, Path({out!r}), Path(), Path(), "cpu", 1.0)
job.note("figure", 2.5, "things")
"""
STOPS = """
import os, signal, subprocess, time
def save(*_):
    Path({out!r}, "saved").write_text("")
    raise SystemExit(15)
child = subprocess.Popen(["sleep", "60"])
signal.signal(signal.SIGTERM, save)
Path({out!r}, "child").write_text(str(child.pid))
time.sleep(60)
"""


@pytest.fixture
def kit(folders, monkeypatch):
    """kit({phase: what its process does}, *flags) -> (exit status, phases that were started)."""
    def run(toys, *flags):
        started = []

        def command(phase, args):
            started.append(phase)
            code = (LEAVES + toys[phase]).format(root=str(ROOT), phase=phase, out=str(folders / "out"))
            return [sys.executable, "-c", code]
        monkeypatch.setattr(gpu, "command_of", command)
        monkeypatch.setattr(gpu, "prepared", lambda args: dict(os.environ))
        return gpu.main(["--device", "cpu", "--out", str(folders / "out"), "--work", str(folders / "work"),
                         "--packed", str(folders / "packed"), *flags]), started
    return run


def test_phases_run_in_their_order_and_finished_ones_only_once(kit, folders, capsys):
    toys = {"prove": "", "step": "raise SystemExit('broken here')", "detect": ""}
    assert kit(toys, "--phase", "detect", "prove", "step") == (1, ["prove", "step", "detect"])
    said = capsys.readouterr().out
    assert "broken here" in said and re.search(r"step: failed after .* exit status 1", said)
    assert kit(toys | {"step": ""}, "--phase", "prove", "step") == (0, ["step"])
    page = (folders / "out" / "gpu.md").read_text()
    assert page.count("| figure | 2.5 things |") == 3 and "failed" not in page


def alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_over_its_budget_a_phase_may_save_and_is_ended_with_all_its_processes(kit, folders):
    out = folders / "out"
    assert kit({"step": STOPS, "detect": ""}, "--phase", "step", "detect", "--minutes", "0.02", "1") == (
        1, ["step", "detect"])
    assert (out / "saved").is_file()
    deadline = time.monotonic() + 5
    while alive(int((out / "child").read_text())):
        assert time.monotonic() < deadline
    ends = [line for line in lines(out) if line.get("event") == "end"]
    assert [line["status"] for line in ends] == ["cut off", "done"] and "budget" in ends[0]["why"]
    assert "| figure | 2.5 things |" in (out / "gpu.md").read_text()


def test_what_cannot_be_is_one_line(folders, monkeypatch, capsys):
    def refused(*flags):
        assert gpu.main(["--out", str(folders / "out"), "--work", str(folders / "work"), *flags]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line
    assert "2 numbers" in refused("--phase", "prove", "step", "--minutes", "3")
    assert "cifar10" in refused("--pack", str(folders / "new"), "--cifar10", str(folders / "cifar10"))
    if not torch.cuda.is_available():
        assert "expected a GPU, found none" in refused("--packed", str(folders / "packed"))
    monkeypatch.setattr(pack, "NEEDED", ("detectron2", "no_such_module"))
    assert re.search("no_such_module here .* --pack", refused("--packed", str(folders / "packed")))
    add(folders / "out", {"phase": "prove", "event": "start", "asked": "cpu"})
    assert "--device cuda" in refused()


# Tables

def test_tables_show_targets_predictions_and_what_could_not_be_measured(folders, monkeypatch):
    monkeypatch.setattr(report, "PREDICTIONS", folders / "packed" / "predictions.json")
    job = job_of(folders, "cuda")
    job.note("speed", 1.0, "images/s")
    job.note("speed", 12345.6, "images/s", **job.goal(least=1.8))
    job.note("memory", 3.0, "GiB", most=2)
    job.cannot("waits", "no GPU")
    add(job.out, {"phase": "step", "event": "end", "status": "done", "seconds": 7.0, "why": ""})
    with open(job.out / "results.jsonl", "a") as file:
        file.write('{"phase": "step", "na')  # its writer was killed
    (job.pack / "predictions.json").write_text(json.dumps({"step: speed": 10000.0}))
    said = report.write(job.out)
    page = (job.out / "gpu.md").read_text()
    assert "| speed | 12,346 images/s | 10,000 | at least 1.8 | yes |" in page
    assert "| memory | 3 GiB | – | at most 2 | no |" in page
    assert "| waits | not measured: no GPU | – | – | – |" in page and "done after 7 s" in page
    assert page.count("| speed |") == 1 and "12,346 images/s" in said
    assert job_of(folders).goal(least=1.8) == {}


# What travels

ON_THE_MACHINE = {"torch", "torchvision", "numpy", "pillow", "scikit-learn", "scipy", "pandas", "matplotlib",
                  "tabulate", "tqdm", "tensorboard", "safetensors", "cloudpickle", "setuptools"}


def test_what_the_suite_needs_is_on_the_machine_or_packed():
    text = (ROOT / "pyproject.toml").read_text().partition("dependencies = [")[2].partition("\n]")[0]
    needed = set(re.findall(r'^    "([\w-]+)', text, re.M))
    packed = {*pack.COMPILED.values(), *pack.PURE.values()}
    assert needed - ON_THE_MACHINE <= packed and len(needed) > 20
    assert all(re.fullmatch(rf"{name}==[\w.]+", pack.pinned(name)) for name in packed)


def jpeg(colour, size=(32, 32)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG")
    return file.getvalue()


def write_tar(path, files):
    with tarfile.open(path, "w:xz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def test_photographs_are_taken_up_to_a_size_and_repeated_in_a_list(folders, monkeypatch):
    one = jpeg("red", (500, 375))
    write_tar(folders / "pictures.tar.xz", {"a/1.jpg": one, "a/2.JPEG": one, "a/3.jpg": one, "a/b.xml": b"x"})
    monkeypatch.setattr(pack, "PHOTOGRAPHS", 2 * len(one) + 1)
    assert pack.take_photographs(folders / "pictures.tar.xz", folders / "packed" / pack.PICTURES) == 2
    job = job_of(folders)
    source = open_source(step.photographs(job))
    assert len(source) == 4 * (sum(step.waves(job)) + 1) and source.read(3) == one
    with pytest.raises(ValueError, match="found none"):
        pack.take_photographs(folders / "out", folders / "x.tar")


def test_more_than_travels_is_refused(folders, monkeypatch):
    (folders / "cifar10").mkdir()
    for name in pack.CIFAR:
        (folders / "cifar10" / name).write_bytes(b"12")
    write_tar(folders / "pictures.tar.xz", {"1.jpg": jpeg("red")})
    monkeypatch.setattr(pack, "wheels", lambda folder: None)
    monkeypatch.setattr(pack, "tracked", lambda: [])
    arguments = folders / "packed", folders / "cifar10", folders / "pictures.tar.xz"
    assert "1 photographs" in pack.pack(*arguments)
    monkeypatch.setattr(pack, "LIMIT", 1000)
    with pytest.raises(RuntimeError, match="--pictures"):
        pack.pack(*arguments)


# Phases

def test_cifar_is_unpacked_whole_and_a_part_for_knn(folders, monkeypatch):
    monkeypatch.setattr(cifar, "KNN_PARTS", {"train": ("train", 2), "test": ("val", 1)})
    for part, count in (("train", 3), ("test", 2)):
        write_tar(folders / "packed" / f"cifar10_{part}.tar.xz", {
            f"{part}/{name}/{number:04d}.jpg": jpeg(colour)
            for name, colour in (("cat", "red"), ("dog", "blue")) for number in range(count)})
    job = job_of(folders, "cuda")
    cifar.unpack(job)
    source = open_source(job.work / "train.npz")
    assert [source.labels(index) for index in range(6)] == [0, 0, 0, 1, 1, 1]
    assert np.abs(source.read(5).astype(int) - (0, 0, 255)).max() < 5
    counts = {str(path.relative_to(job.work)): len(list(path.iterdir())) for path in job.work.rglob("*")
              if path.name in ("cat", "dog")}
    assert counts == {f"{place}/{name}": count for name in ("cat", "dog") for place, count in (
        ("cifar10/train", 3), ("cifar10/test", 2), ("knn/train", 2), ("knn/val", 1))}


@pytest.mark.filterwarnings("ignore")
def test_waits_of_the_host_are_counted_by_their_place(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def three_waits():
        warnings.warn("called a synchronizing CUDA operation")
        warnings.warn("something else")
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation")
    count, places = step.host_waits(three_waits, 4)
    assert count == 3 and modes == ["warn", "default"]
    assert [place.split()[0] for place in places] == ["1", "2"] and "test_gpu_kit.py" in places[0]


@pytest.mark.parametrize("name", ["official", "ours"])
def test_a_competitor_takes_a_step_on_its_own_views(name, folders):
    write_tar(folders / "packed" / pack.PICTURES, {f"{n}.jpg": jpeg("red", (64, 48)) for n in range(2)})
    job = job_of(folders)
    listed = step.photographs(job)
    way = step.official(job, torch.device("cpu")) if name == "official" else step.ours(job, "bf16", listed)
    channels_last = way.pair[0].is_contiguous(memory_format=torch.channels_last)
    assert channels_last == (name == "ours") and way.pair[0].std() > 0.5
    way()
    step.note_fed(job, name, way, listed, 100.0, torch.device("cpu"))
    rate, share = (line["value"] for line in lines(job.out))
    assert share == pytest.approx(rate) and rate > 0
