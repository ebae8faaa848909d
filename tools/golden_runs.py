"""Every number of the suite that a change of its code must not change, from small runs of each command.

    git worktree add ../before HEAD                              # before you begin
    python -m tools.golden_runs ../golden-before --repo ../before
    python -m tools.golden_runs ../golden-after --old ../golden-before     # when you are done
    python -m tools.golden_runs --compare ../golden-before/golden.json ../golden-after/golden.json

The last one prints a line for each difference and ends with status 1 if there is one. It takes about five
minutes and 5 GB each. Only public command lines are run, on the CPU with one thread; the bits are those of
one kind of machine and of one set of packages. With --old, tasks and converter take the earlier folder's
weights, and what is named old-* goes on from its stopped pretraining and its finished tasks and reads its
records: so new code is shown to read the files of the old one. Commands are in OUT/commands.txt, what they
said in OUT/logs. Pictures, TensorBoard and report.html are left out. What a clock, a folder, a checkout or a
file's bytes decide is kept but not compared (IGNORED).
"""

import argparse
import hashlib
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

IGNORED = re.compile(
    "/(seconds|time|data_wait_share|images_per_second|started|commit|dirty|source|checksum|"
    "source_sha256|sha256)$"
)
TINY = (
    "--image-size 32 --batch-size 24 --epochs 3 --warmup-epochs 1 --projector 64-64-64 "
    "--learning-rate-weights 5 --seed 3 --device cpu --workers 1 --print-freq 1 --keep 1 --no-tensorboard"
).split()
PRETRAIN = {
    "two": "--arch resnet18",  # with two processes
    "fast": "--arch resnet18 --views fast",
    "accumulate": "--arch resnet18 --preset stl10 --views device --accumulate 2",
    "bf16": "--arch resnet18 --preset paper --precision bf16",
}
# Without these nothing is detected.
BOXES = "MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0 TEST.DETECTIONS_PER_IMAGE 20".split()
DETECTORS = "voc07_det,voc_det_fpn,coco_det_fpn,coco_det_2x"  # besides voc_det and coco_det
# Not among the demo's sets; taken as folders of pictures.
SMALL = "food101 cifar10 cifar100 sun397 cars aircraft dtd pets caltech101 flowers102".split()


def sha(data):
    return hashlib.sha256(data).hexdigest()


def leaves(value, path=""):
    """Nested content -> {path: JSON value}; arrays and tensors as type, shape and sha256."""
    import numpy  # noqa: E401
    import torch

    if isinstance(value, torch.Tensor):
        value = value.detach().contiguous().numpy()
    if isinstance(value, (numpy.ndarray, numpy.generic)):
        return {path: f"{value.dtype} {list(value.shape)} {sha(value.tobytes())[:20]}"}
    plain = (int, float, str, type(None))
    if (
        not value
        or not isinstance(value, (dict, list, tuple))
        or not isinstance(value, dict)
        and all(isinstance(one, plain) for one in value)
    ):
        return {path: value if isinstance(value, (*plain, list, tuple, dict)) else repr(value)}
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return {name: leaf for key, one in pairs for name, leaf in leaves(one, f"{path}/{key}").items()}


def content(path):
    """Return what a file holds, for `leaves`; for most kinds of files the sha256."""
    import numpy  # noqa: E401
    import torch

    if path.name == "stats.txt":
        return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    kinds = {
        ".pth": lambda: torch.load(path, map_location="cpu", weights_only=False),
        ".npz": lambda: dict(numpy.load(path)),
        ".pkl": lambda: pickle.loads(path.read_bytes()),
        ".json": lambda: json.loads(path.read_text()),
    }
    return kinds.get(path.suffix, lambda: sha(path.read_bytes()))()


class Golden:
    def __init__(self, repo, out, old):
        self.repo, self.out, self.old, self.data, self.found = repo, out, old, out / "data", {}
        self.env = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": str(repo),
        }  # else an editable install could give another tree's modules

    def call(self, name, script, *words, launcher=(), stop_at=None):
        """Run a command to its end, or to a SIGTERM once the file stop_at[0] has the text stop_at[1], and
        return its output."""
        command, log = (
            [sys.executable, *launcher, str(self.repo / script), *map(str, words)],
            self.out / f"logs/{name}.txt",
        )
        with open(log, "w") as file, open(self.out / "commands.txt", "a") as commands:
            commands.write(shlex.join(command) + "\n")
            process, start = (
                subprocess.Popen(command, cwd=self.out, env=self.env, stdout=file, stderr=file),
                time.time(),
            )
        while (
            stop_at
            and process.poll() is None
            and not (stop_at[0].exists() and stop_at[1] in stop_at[0].read_text())
        ):
            time.sleep(0.02)
        if stop_at:
            process.send_signal(signal.SIGTERM)
        if process.wait() != (75 if stop_at else 0):
            sys.exit(
                f"{name}: exit status {process.returncode}: {shlex.join(command)}\n{log.read_text()[-3000:]}"
            )
        print(f"{time.time() - start:6.1f} s  {name}", flush=True)
        return log.read_text()

    def keep(self, name, value):
        self.found.update(leaves(value, name))

    def pretrain(self, name, flags, source=None, stop_at=None):
        """Pretrain, from the start or in a copy of `source`, and keep what it left unless it was stopped."""
        folder = self.out / "pretrain" / name
        if source:
            shutil.copytree(source, folder)
        self.call(
            f"pretrain-{name}",
            "pretrain/main.py",
            self.data / "places205",
            *TINY,
            *flags.split(),
            "--checkpoint-dir",
            folder,
            launcher="-m torch.distributed.run --standalone --nproc-per-node=2".split()
            if name == "two"
            else (),
            stop_at=stop_at and (folder / "stats.txt", stop_at),
        )
        for path in [] if stop_at else sorted(folder.glob("[!.]*.*")):
            self.keep(f"pretrain/{name}/{path.name}", content(path))

    def tasks(self, name, tasks, *pairs, source=None):
        """Run transfer tasks, from the start or in copies of their folders in `source`, and keep records,
        curves, figures by class, checkpoints, detections and features. A record's name has its config's hash.
        """
        out, records, features = (self.out / f"{name}{ending}" for ending in ("", "-records", "-features"))
        for folder in [f"{task}-s0" for task in tasks.split(",")] if "," in tasks else [""]:
            if source:
                shutil.copytree(source / folder, out / folder)
        self.call(
            name,
            "transfer/run.py",
            "--task",
            tasks,
            "--smoke",
            "--weights",
            self.old / "pretrain/one/resnet50.pth",
            "--name",
            "golden",
            "--data",
            self.data,
            "--device",
            "cpu",
            "--workers",
            1,
            "--output",
            out,
            "--results",
            records,
            "--cache",
            features,
            *(["--resume"] if source else []),
            *pairs,
        )
        for path in sorted([*records.glob("*/*/*.json"), *records.glob("*/*/*.files/*.json")]):
            task, _, *rest = path.relative_to(records).parts
            self.keep("/".join([name, task, *rest]), content(path))
        for path in sorted(out.rglob("*")):
            if path.name in ("checkpoint.pth", "model_final.pth", "coco_instances_results.json"):
                self.keep(f"{name}/{path.relative_to(out)}", content(path))
        self.keep(f"{name}/features", sorted(content(path) for path in features.rglob("*.npy")))

    def tables(self, name, *runs):
        """All tables of some folders of records, the blocks of docs/results.md, the list of the records."""
        readme, folder, copy = (self.out / f"{kind}-{name}" for kind in ("results", "tables", "records"))
        shutil.copyfile(self.repo / "docs" / "results.md", readme)
        for one in runs:
            shutil.copytree(one, copy, dirs_exist_ok=True)
        self.call(f"tables-{name}", "results/make.py", "--runs", copy, "--out", folder, "--readme", readme)
        listed = re.sub(
            r"\d{4}-\d\d-\d\d", "DATE", self.call(f"list-{name}", "results/make.py", "--list", "--runs", copy)
        )
        blocks = re.findall(r"<!-- table:(\S+) -->\n(.*?)<!-- /table", readme.read_text(), re.S)
        self.keep(
            f"tables/{name}",
            {
                **{path.name: content(path) for path in folder.iterdir()},
                "list": listed.splitlines(),
                "results": {block: sha(text.encode()) for block, text in blocks},
            },
        )

    def convert(self, name, source, *flags):
        self.call(
            f"convert-{name}",
            "transfer/convert.py",
            self.old / "pretrain/one" / source,
            self.out / name,
            "--name",
            "golden",
            *flags,
        )
        self.keep(f"convert/{name}", content(self.out / name))
        self.keep(f"convert/{name}/proof", content(self.out / f"{name}.proof.json")["networks"])

    def run(self):
        (self.out / "logs").mkdir(parents=True)
        self.call("data", "tools/demo_data.py", self.data, "--seed", "0")
        self.keep(
            "data", [sha(path.read_bytes()) for path in sorted(self.data.glob("*/**/*")) if path.is_file()]
        )
        for name in SMALL:
            shutil.copytree(
                self.data / "places205", self.data / name
            )  # folders of images; test_classification_small_sets.py
        listed = self.call("list", "transfer/run.py", "--list")  # has the files that torchvision reads
        self.keep("list", listed.splitlines())
        classification = ",".join(name for name in re.findall(r"^(\w+)", listed, re.M) if "_det" not in name)
        self.pretrain(
            "one", f"--arch resnet50 --knn-data {self.data / 'places205'}"
        )  # its weights are those of the tasks
        old, fast = self.old, PRETRAIN["fast"]
        with ThreadPoolExecutor(2) as pool:
            jobs = [
                pool.submit(self.tasks, "tasks", classification),
                pool.submit(self.tasks, "more_det", DETECTORS),
                *(pool.submit(self.tasks, name, name, *BOXES) for name in ("coco_det", "voc_det")),
                *(pool.submit(self.pretrain, name, flags) for name, flags in PRETRAIN.items()),
                pool.submit(self.pretrain, "stopped", fast, stop_at='"epoch": 1'),
            ]
            [job.result() for job in jobs]
            jobs = [
                *(
                    pool.submit(self.tasks, f"old-{name}", name, *BOXES, source=old / name)
                    for name in ("coco_det", "voc_det")
                ),
                pool.submit(self.tasks, "old-tasks", "imagenet_linear,imagenet_semi10", source=old / "tasks"),
                pool.submit(self.pretrain, "resumed", fast, self.out / "pretrain/stopped"),
                pool.submit(self.pretrain, "old-resumed", fast, old / "pretrain/stopped"),
                pool.submit(self.convert, "d2.pkl", "resnet50.pth"),
                pool.submit(self.convert, "projector.pth", "checkpoint.pth", "--to", "projector"),
                pool.submit(self.tables, "committed", self.repo / "results/runs"),
                pool.submit(
                    self.tables,
                    "old",
                    *(old / f"{name}-records" for name in ("tasks", "more_det", "coco_det", "voc_det")),
                ),
            ]
            [job.result() for job in jobs]
        ends = [
            [
                (path.split("/", 2)[2], leaf)
                for path, leaf in self.found.items()
                if path.startswith(f"pretrain/{name}/") and not IGNORED.search(path)
            ]
            for name in ("fast", "resumed", "old-resumed")
        ]
        self.keep("pretrain/a stopped run ends as one that was not", ends[0] == ends[1] == ends[2])
        (self.out / "golden.json").write_text(json.dumps(self.found, indent=0, sort_keys=True) + "\n")


def compare(*files):
    before, after = (json.loads(Path(file).read_text()) for file in files)
    pairs = {
        path: [str(side.get(path, "absent"))[:200] for side in (before, after)]
        for path in sorted({**before, **after})
        if not IGNORED.search(path) and repr(before.get(path, "absent")) != repr(after.get(path, "absent"))
    }
    for path, (old, new) in pairs.items():
        print(f"{path}: {old!r} -> {new!r}")
    print(f"{len(pairs)} differences in {len({**before, **after})} values")
    return 1 if pairs else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, help="new folder for everything")
    parser.add_argument(
        "--repo", type=Path, default=Path("."), help="the suite (default: the current folder)"
    )
    parser.add_argument("--old", type=Path, help="OUT of an earlier call, whose files are read")
    parser.add_argument("--compare", nargs=2, metavar="JSON")
    arguments = parser.parse_args()
    if arguments.compare:
        sys.exit(compare(*arguments.compare))
    out = (arguments.out or parser.error("expected OUT")).resolve()
    Golden(arguments.repo.resolve(), out, (arguments.old or out).resolve()).run()
