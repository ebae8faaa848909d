"""Run an ablation of the papers: a pretraining run for each of its rows, and a probe of each.

    python pretrain/ablate.py --list
    python pretrain/ablate.py --experiment fig4 --scale cifar10 --plan
    python pretrain/ablate.py --experiment fig4 --scale cifar10 --data ROOT --epochs 200

ROOT has the pictures as transfer/run.py wants them, ROOT/cifar10/{train,test} or ROOT/imagenet/{train,val}.
Further flags go to each pretraining run (pretrain/main.py --help). Rows that are done are skipped, one that
was interrupted goes on. What tables and plots need is kept in --results: experiment.json, the records, and
each row's stats.txt; python results/make.py takes it from there. The rest is in --output.

A row whose training fails, as some must, is named at the end; the others run all the same.
"""
import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # started by its path: the repository's root, not pretrain/, has to be importable
    # Until main listens; the imports take seconds.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from tabulate import tabulate

from parallel import launcher, process, signals
from parallel.files import write_whole
from parallel.places import HOME, ROOT, TABLES
from parallel.process import complain
from pretrain import main as pretraining
from pretrain.experiments import EXPERIMENTS, SCALES, Experiment, Row, Scale

DONE, BEGUN, OPEN = "done", "begun", "to do"


@dataclass(frozen=True)
class Study:
    """One experiment at one scale, as the command line asks for it. more: further flags of every
    pretraining run."""
    name: str
    scale_name: str
    rows: tuple[Row, ...]
    data: Path
    results: Path
    output: Path
    more: tuple[str, ...]

    @property
    def experiment(self) -> Experiment:
        return EXPERIMENTS[self.name]

    @property
    def scale(self) -> Scale:
        return SCALES[self.scale_name]

    @property
    def folder(self) -> Path:
        """Of what is kept."""
        return self.results / f"{self.name}-{self.scale_name}"

    def work(self, row: Row) -> Path:
        """Return the folder of a row's checkpoints."""
        return self.output / f"{self.name}-{self.scale_name}" / row.slug

    def training(self, row: Row) -> list[str]:
        """Return the words of pretrain/main.py. Flags of the user come last, so that they count."""
        pictures = self.data / self.scale.folder
        knn = ["--knn-data", str(pictures / self.scale.knn)] if self.scale.knn else []
        return [str(pictures), *row.flags(self.scale), *knn, "--checkpoint-dir", str(self.work(row)),
                *self.more]

    def probe(self, row: Row, weights: Path, device: str, processes: int) -> list[str]:
        """Return the words of transfer/run.py, on the devices of the pretraining."""
        output = self.work(row) / "transfer"
        return ["--task", self.scale.task, "--weights", str(weights), "--name", row.slug,
                "--data", str(self.data), "--results", str(self.folder / "records"), "--output", str(output),
                "--device", device, "--num-gpus", str(processes),
                *(["--resume"] if output.exists() else []), *self.scale.pairs]

    def state(self, row: Row) -> str:
        """Return whether a row's stats.txt and record are there, or its training has begun."""
        records = (self.folder / "records" / self.scale.task).glob(f"{row.slug}-????????/*.json")
        if (self.folder / row.slug / "stats.txt").exists() and any(records):
            return DONE
        return BEGUN if self.work(row).exists() else OPEN


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = launcher.CommandLine(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--list", action="store_true", help="print all experiments, and end")
    parser.add_argument("--experiment", metavar="NAME", help=f"one of {', '.join(EXPERIMENTS)}")
    parser.add_argument("--scale", choices=SCALES, default="paper", help="paper: ResNet-50 on ImageNet; "
                        "cifar10: the methods' presets of that name (default: paper)")
    parser.add_argument("--rows", metavar="A,B", help="only these rows, by the names that --plan shows")
    parser.add_argument("--plan", action="store_true", help="print what is done and each row's command; run "
                        "nothing")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="data root (default: $DETECTRON2_DATASETS, "
                        "else datasets/)", default=Path(os.environ.get("DETECTRON2_DATASETS", "datasets")))
    parser.add_argument("--results", type=Path, metavar="DIR",
                        default=Path(os.path.relpath(HOME / "results" / "ablations")),
                        help="what is kept for tables and plots (default: results/ablations)")
    parser.add_argument("--output", type=Path, default=Path("output/ablations"), metavar="DIR",
                        help="checkpoints and logs (default: output/ablations)")
    return parser.parse_known_args(arguments)


def study_of(chosen: argparse.Namespace, more: list[str]) -> Study:
    """Return what is asked for. Raises ValueError for an unknown experiment, row or flag, before anything
    runs."""
    if chosen.experiment not in EXPERIMENTS:
        raise ValueError(f"--experiment expected one of {', '.join(EXPERIMENTS)}, found "
                         f"{chosen.experiment!r}")
    if "--launcher" in more:
        raise ValueError("--launcher: expected a run on this machine, where rows follow each other; inside "
                         "a job of one node the same command works")
    rows = {row.slug: row for row in EXPERIMENTS[chosen.experiment].rows}
    names = chosen.rows.split(",") if chosen.rows else list(rows)
    for name in names:
        if name not in rows:
            raise ValueError(f"--rows expected some of {', '.join(rows)}, found {name!r}")
    study = Study(chosen.experiment, chosen.scale, tuple(rows[name] for name in names), chosen.data,
                  chosen.results, chosen.output, tuple(more))
    for row in study.rows if not chosen.plan else ():
        pretraining.prepare([*study.training(row), "--dry-run"])
    return study


def declare(study: Study) -> None:
    """Write experiment.json, all that tables and plots need to know. Raises ValueError if the folder holds
    runs of other flags, which do not compare."""
    path = study.folder / "experiment.json"
    declared: dict[str, Any] = {
        "experiment": study.name, "scale": study.scale_name, "flags": shlex.join(study.more),
        "title": study.experiment.title, "table": study.experiment.table, "task": study.scale.task,
        "varied": study.experiment.varied, "log": study.experiment.log, "notes": study.experiment.notes,
        "rows": [{"name": row.slug, "label": row.label, "number": row.number,
                  "published": row.published} for row in study.experiment.rows]}
    if path.exists():
        before = json.loads(path.read_text("utf-8"))["flags"]
        if before != declared["flags"]:
            raise ValueError(f"{study.folder} holds runs with the flags {before!r}, found "
                             f"{declared['flags']!r}; pass the same, or another --results and --output")
    write_whole(path, json.dumps(declared, indent=1) + "\n")


def run_row(study: Study, row: Row) -> int:
    """Pretrain and probe; returns the first bad exit status, or 0."""
    words = study.training(row)
    recipe, training, processes, _ = pretraining.prepare([*words, "--dry-run"])
    status = command("pretrain/main.py", words)
    stats = study.work(row) / "stats.txt"
    if stats.exists():  # of a training that failed, too: it shows how
        (study.folder / row.slug).mkdir(parents=True, exist_ok=True)
        shutil.copy(stats, study.folder / row.slug / "stats.txt")
    weights = study.work(row) / f"{recipe.arch}.pth"
    return status or command("transfer/run.py", study.probe(row, weights, training.device, processes))


def command(script: str, words: list[str]) -> int:
    """Run a script of ours and return its exit status. A stop signal is handed on, and its end awaited."""
    print(f"$ {shlex.join(['python', script, *words])}", flush=True)
    child = subprocess.Popen([sys.executable, str(ROOT / script), *words])
    try:
        return child.wait()
    except signals.Stopped as stop:
        child.send_signal(stop.number)
        child.wait()
        raise


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0 when all rows are done, 1 if some failed, 2 for an error, 75 after SIGTERM
    and SIGUSR1, 130 after Ctrl-C."""
    try:
        chosen, more = parse(sys.argv[1:] if arguments is None else arguments)
        if chosen.list:
            print(listing())
            return 0
        study = study_of(chosen, more)
        if chosen.plan:
            print(plan(study))
            return 0
        declare(study)
    except (ValueError, OSError) as error:
        return complain(error)
    with signals.listening():
        try:
            return run(study)
        except signals.Stopped as stop:
            print("the same command goes on from there", file=sys.stderr)
            return signals.status(stop.number)


def run(study: Study) -> int:
    """Run the rows that are not done. Returns 1 if some failed, else 0."""
    failed = []
    for number, row in enumerate(study.rows, 1):
        state = study.state(row)
        print(f"== {number} of {len(study.rows)}: {row.label} ({state})", flush=True)
        if state == DONE:
            continue
        status = run_row(study, row)
        if status in (signals.STOPPED_STATUS, signals.status(signal.SIGINT)):  # only the child was told
            raise signals.Stopped(signal.SIGTERM if status == signals.STOPPED_STATUS else signal.SIGINT)
        if status:
            failed.append(row.slug)
    print(f"written: {study.folder}; {TABLES} makes tables of it")
    if failed:
        print(f"error: {len(failed)} of {len(study.rows)} rows failed, see above: {', '.join(failed)}",
              file=sys.stderr)
    return 1 if failed else 0


def listing() -> str:
    """Return a line for each experiment."""
    return tabulate([(name, len(one.rows), one.table or "-", one.title) for name, one in EXPERIMENTS.items()],
                    ("--experiment", "rows", "published", "what"), "plain")


def plan(study: Study) -> str:
    """Return each row's state and command."""
    lines = [f"{study.experiment.title}: {len(study.rows)} rows, each pretrained, then {study.scale.task}"]
    for row in study.rows:
        lines += [f"{row.slug}: {study.state(row)}",
                  f"    {shlex.join(['python', 'pretrain/main.py', *study.training(row)])}"]
    return "\n".join([*lines, *(f"note: {note}" for note in study.experiment.notes)])


if __name__ == "__main__":
    sys.exit(process.last(main()))
