"""The doctor: what it says of the machine, and that its report fits a terminal."""

import json
import os
from types import SimpleNamespace

import pytest
import torch

from transfer import doctor
from transfer.tasks import TASKS


@pytest.fixture
def sinfo(tmp_path, monkeypatch):
    """Returns a function that puts commands sbatch and sinfo on the path; sinfo does what a shell script
    says."""
    def put(script):
        for name in ("sbatch", "sinfo"):
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return put


def test_the_report_fits_a_terminal_and_json_has_the_whole(tmp_path, capsys):
    root = tmp_path / ("long" * 20)
    assert doctor.main(["--data", str(root)]) == 1
    text = capsys.readouterr().out
    long = [line for line in text.splitlines() if len(line) > doctor.WIDTH and str(root) not in line]
    assert not long and "no      cifar-10-batches-py: no such folder" in text
    assert doctor.main(["--data", str(root), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["tasks"].keys() == {name for name, task in TASKS.items() if not task.own}
    assert found["tasks"]["cifar10_probe"]["runs"] == "no"
    assert f"sets.CIFAR10('{root}', download=True)" in found["tasks"]["cifar10_probe"]["found"]
    assert found["machine"].keys() >= {"GPUs", "CPU cores", "memory", "shared memory", "disk", "open files",
                                       "Detectron2", "SLURM", "pictures", "optional"}
    assert not found["missing"] and found["packages"]["torch"]


@pytest.mark.parametrize("counts, more, answer, text", [
    ({"train": 50_000, "test": 10_000}, {}, "yes", "train 50,000, test 10,000"),
    ({"train": 50_000, "test": 10_000}, {"pixels": "JPEG copies"}, "scaled",
     "train 50,000, test 10,000, JPEG copies"),
    ({"train": 500, "test": 10_000, "more": 3}, {}, "scaled",
     "train 500 of 50,000, test 10,000, more 3")])
def test_counts_and_pixels_stand_against_the_official_ones(counts, more, answer, text):
    task = SimpleNamespace(counts={"train": 50_000, "test": 10_000}, config=None,
                           protocol=SimpleNamespace(data=lambda config, conditions: {
                               "counts": counts, **more}))
    assert doctor.inspect(task, None) == (answer, text)


@pytest.mark.parametrize("text, line", [
    ("/d/cifar: no such folder, nor cifar/train, nor npz; fetch it", "cifar: no such folder"),
    ("/d/one word that " + "goes on and " * 9, "one word that goes on and g..."),
    ("/d/x: short, whole", "x: short, whole")])
def test_a_reason_is_cut_where_it_may_be(tmp_path, text, line):
    assert doctor.short(text, "/d", 30) == line


@pytest.mark.parametrize("script, text", [
    ("echo 'gpu* (8 nodes, 2-00:00:00)'; echo 'cpu (1 nodes, infinite)'",
     "gpu* (8 nodes, 2-00:00:00), cpu (1 nodes, infinite)"),
    ("echo no route >&2; echo more >&2; exit 1", "sbatch is here, but no cluster: no route"),
    ("exit 1", "sbatch is here, but no cluster: none"),
    ("exec sleep 60", "sbatch is here, but sinfo gives no answer")])
def test_a_cluster(sinfo, monkeypatch, script, text):
    sinfo(script)
    run = doctor.subprocess.run
    monkeypatch.setattr(doctor.subprocess, "run", lambda *words, **more: run(*words, **more | {
        "timeout": 0.2 if "sleep" in script else 60}))
    assert doctor.slurm() == text


def test_what_is_too_little_comes_with_advice(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=64 << 20))
    assert doctor.shared() == "0.1 GiB free in /dev/shm; little for loaders: docker run --shm-size 8g, or " \
                              "--workers 0"
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda kind: (256, 4096))
    assert doctor.files() == "256; little for loaders: ulimit -n 4096"
    assert doctor.memory().endswith("limited to 0.0 GiB")
    monkeypatch.setattr(doctor, "limit", {"cpu.max": "150000 100000", "memory.max": str(3 << 30)}.get)
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda kind: (doctor.resource.RLIM_INFINITY,) * 2)
    assert doctor.cores().endswith(", limited to the time of 1.5")
    assert doctor.memory().endswith(" GiB available, limited to 3.0 GiB")


def test_gpus_are_counted_by_kind(monkeypatch):
    gpu = SimpleNamespace(name="H100", total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    assert doctor.machine()["GPUs"] == "2 x H100 (80 GiB)"


def test_without_detectron2_its_tasks_cannot_run_and_the_others_are_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(doctor.sys.modules, "detectron2", None)
    assert doctor.main(["--data", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "none; make setup installs it" in text and "cifar-10-batches-py: no such folder" in text
    assert text.count("no      expected the package detectron2, found none\n") == 6
