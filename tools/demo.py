"""Show the whole suite at work on embedded data: pretrain, convert, transfer, tables, report. On a CPU.

    python -m tools.demo [--folder build/demo]

The figures show that the pipeline runs. Such small, briefly trained networks show nothing about a method.
Every step is the command that a user would type; it is printed before it runs.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = "demo-folder"  # shows that the folder is the demo's own and may be emptied
# Each protocol once, with one of the further detection recipes and one of the small sets.
TASKS = """imagenet_linear imagenet_semi1 imagenet_semi10 imagenet_knn places205_linear inat18_linear
    voc07_svm voc07_lowshot voc2007_probe voc_det coco_det voc_det_fpn""".split()


def steps(folder):
    """Return [(what, command words)] of the demo, run from the root of the repository."""
    data, weights = f"{folder}/data", f"{folder}/pretrain/resnet50.pth"
    python = sys.executable
    return [
        ("write the embedded data: digits and photographs in ImageNet, VOC and COCO layout",
         [python, "-m", "tools.demo_data", data]),
        ("pretrain a ResNet-50 with Barlow Twins",
         [python, "pretrain/main.py", f"{data}/imagenet", "--epochs", "3", "--batch-size", "50",
          "--warmup-epochs", "1", "--image-size", "64", "--projector", "512-512-512",
          "--workers", "2", "--print-freq", "4", "--checkpoint-dir", f"{folder}/pretrain"]),
        ("convert it to a Detectron2 backbone, with proof",
         [python, "transfer/convert.py", weights, f"{folder}/resnet50_d2.pkl"]),
        ("run every kind of task at smoke scale",
         [python, "transfer/run.py", "--task", ",".join(TASKS), "--smoke", "--weights", weights,
          "--name", "demo", "--data", data, "--workers", "2", "--output", f"{folder}/output",
          "--results", f"{folder}/runs", "--cache", f"{folder}/features"]),
        ("collect the records into tables",
         [python, "results/make.py", "--runs", f"{folder}/runs", "--out", f"{folder}/tables", "--print"]),
        ("and into one page",
         [python, "results/report.py", "--runs", f"{folder}/runs", "--pretraining", f"{folder}",
          "--out", f"{folder}/report.html"]),
    ]


def own_folder(folder):
    """Make an empty folder, or empty one that this program made earlier, but no other folder."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise ValueError(f"{folder}: expected an empty folder or our own; pass another --folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).touch()


def run_steps(steps):
    """Print and run each (what, command words) from the repository's root. Returns the first bad status, or
    0."""
    for number, (what, command) in enumerate(steps, 1):
        print(f"\n== {number}. {what}\n$ {shlex.join(['python', *command[1:]])}", flush=True)
        status = subprocess.run(command, cwd=ROOT).returncode
        if status:
            print(f"error: step {number} ended with exit status {status}, see above", file=sys.stderr)
            return status
    return 0


def main():
    """Run the steps in a fresh folder and say where everything is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default="build/demo", help="where everything is written (emptied first)")
    folder = Path(parser.parse_args().folder)
    try:
        own_folder(ROOT / folder)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    start = time.time()
    status = run_steps(steps(folder))
    if not status:
        print(f"\nDone in {time.time() - start:.0f} s. Weights, logs, pictures, records, tables: {folder}")
    return status


if __name__ == "__main__":
    sys.exit(main())
