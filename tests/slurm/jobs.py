"""Jobs on the tests' cluster: the commands, batch jobs, and waiting for what they do."""
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch

from tests.pretrain_toys import lines

ROOT = Path(__file__).resolve().parents[2]
LONG = 300  # seconds after which a test gives up; on a busy machine all things take their time
ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL")


def pretrain(pictures, folder, *more, main="tests/slurm/toy_main.py") -> list[str]:
    """A pretraining command without its `python`: 60 steps, a checkpoint after every fourth."""
    flags = f"""--arch resnet18 --projector 8-8 --image-size 32 --batch-size 4 --epochs 15 --warmup-epochs 1
        --workers 0 --print-freq 1 --no-tensorboard --device cpu --checkpoint-dir {folder}"""
    return [main, str(pictures), *flags.split(), *map(str, more)]


def in_two_processes(*command):
    """Run a pretraining command in two processes of this machine, without any SLURM."""
    subprocess.run([sys.executable, *command, "--processes", "2"], cwd=ROOT, check=True,
                   env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def steps(folder) -> list[int]:
    """The steps in a run's stats.txt."""
    return [line["step"] for line in lines(folder)] if (folder / "stats.txt").exists() else []


def assert_same_run(folder, other):
    """Two pretraining runs wrote the same log and the same checkpoint and backbone, bit for bit."""
    assert lines(folder) == lines(other)
    for name in ("checkpoint.pth", "resnet18.pth"):
        assert_same_tensors(folder / name, other / name)


def assert_same_tensors(path, other):
    """Two files of torch hold the same tensors and numbers, bit for bit."""
    one, two = (dict(flat(torch.load(file, weights_only=True))) for file in (path, other))
    assert one.keys() == two.keys()
    differing = [key for key in one if not torch.equal(torch.as_tensor(one[key]), torch.as_tensor(two[key]))]
    assert not differing, f"{path}: {differing[:5]}"


def flat(state, prefix=""):
    """(name, leaf) of nested dicts and lists; strings and None are left out."""
    if isinstance(state, (dict, list, tuple)):
        for name, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from flat(value, f"{prefix}.{name}")
    elif isinstance(state, (torch.Tensor, bool, int, float)):
        yield prefix, state


def wait_until(holds, what, seconds=LONG):
    """Return the seconds that it took until holds() was true."""
    start = time.monotonic()
    while not holds():
        assert time.monotonic() - start < seconds, f"waited {seconds} s for {what()}"
        time.sleep(0.05)
    return time.monotonic() - start


def processes(cluster, word, *variables) -> list[int]:
    """The cluster's processes with a word in their command and all these NAME=value in their environment."""
    wanted = {f"SLURM_CONF={cluster.folder}/slurm.conf", *variables}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = set((folder / "environ").read_text(errors="replace").split("\0"))
            if wanted <= environment and word in (folder / "cmdline").read_text():
                found.append(int(folder.name))
        except OSError:
            pass  # it has ended
    return found


class Job:
    """A batch job on both hosts, from the repository's root; its output is in folder/job.out.

    command: the words of one, or the text of a script. A second start of the job, and each later one, is
    without TOY_SECONDS.
    """

    def __init__(self, cluster, folder, command, *options, **environment):
        self.cluster, self.file = cluster, folder / "job.out"
        script = folder / "job.sh"
        text = command if isinstance(command, str) else shlex.join(map(str, command))
        script.write_text(f'#!/bin/sh\n[ -z "$SLURM_RESTART_COUNT" ] || unset TOY_SECONDS\n{text}\n')
        done = cluster.run("sbatch", "--parsable", "--output", self.file, "--open-mode=append",
                           "--nodes=2", "--ntasks-per-node=1", *options, script, **environment)
        self.number = done.stdout.strip()

    def prints(self) -> str:
        """What the job has printed."""
        return self.file.read_text() if self.file.exists() else ""

    def says(self) -> str:
        """What the job has printed, less the figures of steps and epochs."""
        return "".join(line for line in self.prints().splitlines(keepends=True) if line[0] != "{")

    def shows(self, field, element="") -> str:
        """A field of `scontrol show job`, such as JobState; element: "_0" is the first of an array."""
        text = self.cluster.run("scontrol", "show", "job", "--oneliner", self.number + element).stdout
        return re.search(rf"\b{field}=(\S*)", text)[1]

    def wait(self, state="COMPLETED", element=""):
        """Wait until the job has ended, and check how."""
        wait_until(lambda: self.shows("JobState", element) in ENDED, self.says)
        assert self.shows("JobState", element) == state, self.says()
