"""Kill and requeue a two-process pretraining many times, and compare its end with the run left alone.

    python -m tests.ordeal --kills 50                 # SIGKILL at random moments, in runs of ten kills each
    python -m tests.ordeal --kills 0 --requeues 20    # `scontrol requeue` on the tests' SLURM, ten a run

The tests do the same a few times; this takes about a quarter of an hour, and root for the second part.
"""
import argparse
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.pretrain_toys import write_pictures
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import Job, assert_same_run, in_two_processes, pretrain, steps, wait_until

ROOT = Path(__file__).resolve().parents[1]
A_RUN = 10  # kills or requeues of one run
# A checkpoint after every step, so that kills fall into writing.
OFTEN = ("--checkpoint-minutes", 1e-9, "--epochs", 50)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, metavar="N")
    parser.add_argument("--requeues", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="ordeal-") as folder:
        folder = Path(folder)
        write_pictures(folder / "pictures", 18)
        alone = made(folder / "alone")
        in_two_processes(*pretrain(folder / "pictures", alone, *OFTEN))
        for number in range(arguments.kills // A_RUN):
            report(killed(folder / "pictures", made(folder / f"killed{number}"), draw), alone)
        if arguments.requeues:
            with Cluster(made(folder / "cluster")) as cluster:
                for number in range(arguments.requeues // A_RUN):
                    run = made(folder / f"requeued{number}")
                    report(requeued(cluster, folder / "pictures", run, draw), alone)


def made(folder):
    folder.mkdir()
    return folder


def report(outcome, alone):
    """Compare a run with the one left alone, and say what it went through."""
    folder, story = outcome
    assert_same_run(folder, alone)
    print(f"{folder.name}: {story}; log, checkpoint and backbone equal those of the run left alone, bit for "
          "bit", flush=True)


def killed(pictures, folder, draw):
    """SIGKILL to the command, to one of its processes or to all of them; then the same command again."""
    victims = []
    for _ in range(A_RUN):
        before = len(steps(folder))
        run = subprocess.Popen([sys.executable, *pretrain(pictures, folder, *OFTEN), "--processes", "2"],
                               cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1", "TOY_SECONDS": "0.1"},
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        wait_until(lambda: len(steps(folder)) > before + 1, lambda: f"steps after {before}")
        time.sleep(draw.uniform(0, 0.3))
        workers = [int(pid) for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
                   if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        victim = draw.choice(("the command", "rank 0", "rank 1", "all"))
        victims.append(victim)
        for pid in {"the command": [run.pid], "rank 0": workers[:1], "rank 1": workers[1:],
                    "all": [run.pid, *workers]}[victim]:
            os.kill(pid, signal.SIGKILL)
        run.wait(60)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), lambda: "its processes",
                   60)
    in_two_processes(*pretrain(pictures, folder, *OFTEN))
    return folder, "killed " + ", ".join(f"{victims.count(one)} times {one}" for one in sorted(set(victims)))


def requeued(cluster, pictures, folder, draw):
    """`scontrol requeue` of a job on two hosts."""
    words = ["srun", "--kill-on-bad-exit", "python", *pretrain(pictures, folder, *OFTEN)]
    job = Job(cluster, folder, f"export TOY_SECONDS=0.1; {shlex.join(words)}", "--requeue")
    for number in range(A_RUN):
        before = len(steps(folder))
        wait_until(lambda: len(steps(folder)) > before + 1, job.says)
        time.sleep(draw.uniform(0, 0.3))
        cluster.run("scontrol", "requeue", job.number)
        wait_until(lambda: job.shows("Restarts") == str(number + 1), job.says)
    job.wait()
    return folder, f"requeued {A_RUN} times"


if __name__ == "__main__":
    sys.exit(main())
