"""Run the benchmarks, each in a process of its own, and write what they found.

    python -m benchmarks                    # all (make bench); best on an idle machine
    python -m benchmarks loss lars          # these; the other sections of the file stay as they are
    python -m benchmarks loss --device cuda

The file is results/tables/speed.md (--out). It has a section for each benchmark and kind of device, with
date, device, threads, load before the start, and versions. One that needs a GPU is left out with the reason
where there is none. Exits with 1 when a target was missed on a CPU or a benchmark failed.
"""
import argparse
import datetime
import importlib
import importlib.metadata
import os
import platform
import re
import sys
import traceback
from pathlib import Path

import torch

from benchmarks import common
from parallel.files import write_whole

NAMES = ("loss", "lars", "views", "resident", "sources", "frozen", "sweep", "svm", "knn", "evaluation",
         "detection_data", "detection_loader", "detection_step", "tables")
OUT = Path(__file__).resolve().parent.parent / "results" / "tables" / "speed.md"
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "detectron2")
HEADER = """# Speed and memory, measured

Written by `make bench` (`python -m benchmarks`), a section for each benchmark. A median is a ratio of
medians, a spread the least and the largest ratio of single rounds; both sides are measured in turn in one
process, so a busy machine widens the spread more than it moves the median. A target is the least ratio,
unless it says more. [docs/speed.md](../../docs/speed.md) says what they mean.
"""


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(default: each benchmark's own)")
    parser.add_argument("--out", type=Path, default=OUT, help="the file (default: results/tables/speed.md)")
    args = parser.parse_args(arguments)
    unknown = [name for name in args.names if name not in NAMES]
    if unknown:
        print(f"error: expected benchmarks of {', '.join(NAMES)}, found {unknown[0]}", file=sys.stderr)
        return 2
    return max(run(name, args.device, args.out) for name in args.names or NAMES)


def run(name: str, device: str | None, out: Path) -> int:
    """Run one benchmark and write its section. Returns 1 where it failed or missed a target on a CPU."""
    print(f"benchmarks/{name}.py", flush=True)
    module = importlib.import_module(f"benchmarks.{name}")
    kind = module.FLAGS.get("device", "cpu")
    if device and device != kind:
        if "device" not in module.FLAGS:
            print(f"left out: it runs on no {device}")
            return 0
        kind = device
    title = name + (", GPU" if kind == "cuda" else "")
    lacking = common.lack(kind)
    if lacking:
        print(f"left out: {lacking}")
        if not device:  # else it was a question
            keep(out, title, f"Left out: {lacking}.\n", replace=False)
        return 0
    load = os.getloadavg()[0]
    try:
        rows, threads = common.in_fresh_process(common.measured, name, {"device": device} if device else {})
    except Exception:  # the others go on
        traceback.print_exc()
        return 1
    print(common.table(rows, "simple"), flush=True)
    text = f"{module.__doc__.splitlines()[0]}\n\n{conditions(kind, threads, load)}\n\n" \
           f"{common.table(rows, 'github')}\n"
    keep(out, title, text)
    missed = [row.case for row in rows if row.missed and kind == "cpu"]
    if missed:
        print(f"error: target missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def conditions(kind: str, threads: int, load: float) -> str:
    """Return date, device and versions, a line for the reader of a section."""
    today = datetime.datetime.now(datetime.timezone.utc).date()
    place = f"{processor()}, {threads} {'thread' if threads == 1 else 'threads'}"
    if kind == "cuda":
        place = f"{torch.cuda.get_device_name()} beside {place}"
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES)
    return f"{today}; {place}; load {load:.1f} on {os.cpu_count()} cores before it began; Python " \
           f"{platform.python_version()}, {versions}"


def processor() -> str:
    """Return the name of the CPU."""
    names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return names[0] if names else platform.machine()


def keep(path: Path, title: str, text: str, replace: bool = True) -> None:
    """Write a section of the file; the other sections stay, in the order of NAMES. replace: also one that is
    there."""
    found = dict(re.findall(r"^## (.+)\n\n((?:(?!## ).*\n)*)", path.read_text("utf-8"), re.M)) \
        if path.exists() else {}
    if replace or title not in found:
        found[title] = text + "\n"
    order = sorted(found, key=lambda title: (NAMES.index(title.removesuffix(", GPU")), title))
    write_whole(path, "\n".join([HEADER, *(f"## {title}\n\n{found[title].rstrip()}\n" for title in order)]))


if __name__ == "__main__":
    sys.exit(main())
