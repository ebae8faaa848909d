"""All tables from 10,000 records, checked one by one: time and memory, against json.load of the same files.

    python -m benchmarks.tables [--records N] [--rounds N]

A plain json.load of the files checks nothing and makes no table; every reader pays at least that. Target:
about two seconds in all. As in a real folder, the records of a task share their config, which is read once;
metrics, times and checksums differ. Half of the records are classification (2 kB), half detection (8 kB).
"""
import json
import sys
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

from benchmarks import common
from results import assembly, render, store
from results.protocols import protocols
from results.record import SCHEMA, Result, to_json

FLAGS = {"records": 10_000, "rounds": 3}
SEEDS = 5
START = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
TASKS = {"imagenet_linear": ("top1", "top5"), "voc_det": ("AP", "AP50", "AP75"), "voc07_svm": ("mAP",),
         "coco_det": ("box_AP", "box_AP50", "box_AP75", "mask_AP", "mask_AP50", "mask_AP75")}


def write_records(root, count):
    """Write `count` records of the paper's protocol: five seeds of four tasks for each of many backbones."""
    names = list(TASKS)
    for number in range(count):
        backbone, rest = divmod(number, SEEDS * len(names))
        task, seed = names[rest // SEEDS], rest % SEEDS
        protocol = protocols()["tasks"][task]["1"]
        result = Result(
            schema=SCHEMA, task=task, version=1,
            backbone={"name": f"net{backbone}", "format": "torchvision", "sha256": f"{backbone:064x}"},
            metrics={metric: 40 + number * 7919 % 100_003 / 5000 for metric in TASKS[task]},
            config=protocol["config"], scaled={}, seed=seed,
            origin="measured", source=f"python transfer/run.py --task {task} --weights net{backbone}.pth",
            commit="c" * 40, dirty=False, packages={f"package{p}": "1.2.3" for p in range(9)},
            device={"type": "cuda", "name": "GPU", "count": 8},
            data={"name": task, "counts": protocol["counts"], "fingerprint": "f" * 64},
            seconds=3600 + number / 8, started=(START + timedelta(minutes=number)).isoformat())
        path = store.path_of(result, root)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_json(result), encoding="utf-8")


def plain(root):
    """Return the content of every record file, unchecked."""
    contents = []
    for path in Path(root).rglob("*.json"):
        with open(path, encoding="utf-8") as file:
            contents.append(json.load(file))
    return contents


def ours(root):
    """Return (records, texts) of all tables in all formats."""
    results, problems = store.load(root)
    assert not problems, problems[0]
    return results, [form(sheet) for sheet in assembly.build(results) for form in render.FORMATS.values()]


def peak(name, root):
    """Return the bytes above those of the fresh process."""
    return common.peak_bytes(lambda: {"plain": plain, "ours": ours}[name](root), common.torch.device("cpu"))


def measure(args):
    with tempfile.TemporaryDirectory() as root:
        write_records(root, args.records)
        mib = {name: common.in_fresh_process(peak, name, root) / common.MIB for name in ("plain", "ours")}
        seconds = common.compare({"plain": lambda: plain(root), "ours": lambda: ours(root)}, args.rounds)
    return [common.Row(f"{args.records} records", "time, json.load over all tables",
                       common.ratio(seconds["plain"], seconds["ours"]),
                       beside=f"{min(seconds['plain']):.2f} and {min(seconds['ours']):.2f} s; "
                              f"{mib['plain']:.0f} and {mib['ours']:.0f} MiB")]


if __name__ == "__main__":
    sys.exit(common.main(__doc__, FLAGS, measure))
