"""Whatever ends a command in the middle, the next one finds everything whole: kills, full disks, too little
memory. Run with --long; `make faults` does."""

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from results import store
from tests.test_results_record import toy

ROOT = Path(__file__).resolve().parent.parent.parent
MEGABYTE = 1 << 20
SPEED = ("time", "images_per_second", "data_wait_share")
KILLS = 4  # of each command


@pytest.fixture(autouse=True)
def long(request):
    if not request.config.option.long:
        pytest.skip("kills and limits take minutes: --long runs them")


def command(name, data):
    """Return the words of a command. They write into the current folder."""
    train = [f"{ROOT}/pretrain/main.py", str(data / "imagenet"), "--device", "cpu", "--arch",
             "resnet18"]
    run = [f"{ROOT}/transfer/run.py", "--weights", "random", "--data", str(data), "--device", "cpu",
           "--smoke", "--workers", "0", "--results", "runs", "--cache", "", "--output", "out", "--task"]
    return {
        "pretrain": [*train, "--image-size", "32", "--batch-size", "50", "--projector", "16-16", "--epochs",
                     "3", "--workers", "1", "--print-freq", "1", "--checkpoint-minutes", "0.001",
                     "--no-tensorboard"],
        "convert": [f"{ROOT}/transfer/convert.py", "random", "d2.pkl", "--force"],
        "linear": [*run, "imagenet_linear", "--resume"], "detection": [*run, "voc_det", "--resume"],
        "tables": [f"{ROOT}/results/make.py", "--runs", "records", "--out", "tables", "--readme", "page.md"],
    }[name]


def start(words, folder, limits=()):
    def limited():
        for kind, most in limits:
            resource.setrlimit(kind, (most, most))

    if words[0].endswith("make.py") and not (folder / "records").exists():
        for seed in range(40):
            store.save(toy(seed=seed), folder / "records")
        (folder / "page.md").write_text("<!-- table:detection -->\n<!-- /table:detection -->\n")
    if "--resume" in words and not (folder / "out" / "run.json").exists():
        words = [word for word in words if word != "--resume"]
    return subprocess.Popen([sys.executable, *words], cwd=folder, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, preexec_fn=limited,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(words, folder, limits=()):
    process = start(words, folder, limits)
    output, _ = process.communicate(timeout=900)
    return process.returncode, output


def lasting(folder):
    """Return {name: content} of what a command leaves, without what speed and dates decide."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "stats.txt":
            rows = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
            found[name] = [{key: value for key, value in row.items() if key not in SPEED} for row in rows]
        elif name.startswith("runs/") and path.suffix == ".json" and ".files" not in name:
            record = json.loads(path.read_text())
            found[name] = record["metrics"], record["config"]
        elif path.suffix in (".pkl", ".md", ".tex", ".csv", ".html") or name.endswith("resnet18.pth"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def drafts(folder):
    """Return the files that only a killed writer leaves."""
    return [path.name for path in folder.rglob(".*.part*")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, demo_root):
    """Return a function of a command: (seconds, what it leaves) of a run that nothing disturbed."""
    made = {}

    def of(name):
        if name not in made:
            folder, begin = tmp_path_factory.mktemp(name), time.monotonic()
            status, output = finish(command(name, demo_root), folder)
            assert status == 0, output[-2000:]
            made[name] = time.monotonic() - begin, lasting(folder)
        return made[name]
    return of


@pytest.mark.parametrize("number", range(KILLS))
@pytest.mark.parametrize("name", ["pretrain", "convert", "linear", "detection", "tables"])
def test_killed_at_any_moment_and_started_again_it_ends_as_if_nothing_were(
        demo_root, tmp_path, whole, record_property, name, number):
    seconds, wanted = whole(name)
    words, moment = command(name, demo_root), random.Random(f"{name} {number}").uniform(0.2, 0.95) * seconds
    process = start(words, tmp_path)
    try:
        process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    status, output = finish(words, tmp_path)
    record_property("seen", f"killed after {moment:.1f} s, then status {status}, "
                    f"{len(drafts(tmp_path))} drafts")
    assert status == 0, output[-2000:]
    assert lasting(tmp_path) == wanted and not drafts(tmp_path)


@pytest.mark.parametrize("name, most", [("pretrain", MEGABYTE), ("convert", 10 * MEGABYTE),
                                        ("linear", 20_000), ("detection", 10 * MEGABYTE), ("tables", 2_000)])
def test_without_room_for_a_file_it_says_so_and_leaves_no_part(
        demo_root, tmp_path, whole, record_property, name, most):
    words = command(name, demo_root)
    status, output = finish(words, tmp_path, [(resource.RLIMIT_FSIZE, most)])
    last = output.strip().splitlines()[-1]
    record_property("seen", f"status {status}: {last}")
    assert status != 0 and "Traceback" not in output and last.startswith("error: "), output[-2000:]
    assert not drafts(tmp_path)
    status, output = finish(words, tmp_path)
    assert status == 0, output[-2000:]
    assert lasting(tmp_path) == whole(name)[1]


@pytest.mark.parametrize("name", ["pretrain", "linear", "detection", "convert"])
def test_without_memory_it_says_so_in_a_line(demo_root, tmp_path, record_property, name):
    words = command(name, demo_root)
    more = {"pretrain": ["--batch-size", "400", "--image-size", "512", "--arch", "resnet50"],
            "linear": ["batch_size", "400", "image_size", "512"],
            "detection": ["INPUT.MIN_SIZE_TRAIN", "(1600,)", "INPUT.MAX_SIZE_TRAIN", "3000"]}.get(name, [])
    status, output = finish([*words, *more], tmp_path, [(resource.RLIMIT_AS, 10 << 30)])
    last = output.strip().splitlines()[-1] if output.strip() else ""
    record_property("seen", f"status {status}: {last}")
    assert name == "convert" and status == 0 or (
        status == 2 and "Traceback" not in output and last.startswith("error: ")), output[-2000:]
