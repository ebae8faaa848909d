"""Pretrain a ResNet, with Barlow Twins (arXiv 2103.03230) or another --method.

    python pretrain/main.py DATA                                  # all GPUs of this machine, or the CPU
    torchrun --standalone --nproc-per-node=8 pretrain/main.py DATA --epochs 1000 --batch-size 2048
    srun python pretrain/main.py DATA                             # in a SLURM job, one task for each GPU
    python pretrain/main.py DATA --launcher slurm --nodes 4 --gpus-per-node 8     # as a job; --plan shows it

DATA is an image folder, or any other source that sources.py knows. The run leaves checkpoint.pth (after each
epoch and every --checkpoint-minutes; the same command resumes from it, even within an epoch), <arch>.pth (the
backbone) and stats.txt in --checkpoint-dir. Flags are those of facebookresearch/barlowtwins and some of ours.

SIGTERM and SIGUSR1 make it save after the current step and leave with status 75; see signals.py for what
brings a SLURM job back (`#SBATCH --requeue --signal=USR1@300`).
"""
import argparse
import dataclasses
import os
import signal
import sys
from pathlib import Path

if not __package__:  # started by its path: the repository's root, not pretrain/, has to be importable
    # Until main listens; the imports take seconds.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import parallel  # noqa: F401, I001  before torch, whose logging it sets
import torch

from parallel import jobs, launcher, process, signals
from parallel.collectives import agree
from parallel.groups import WorkerError, joined
from parallel.launch import launch
from parallel.memory import within_memory
from parallel.process import complain, is_main
from parallel.slurm import adopt_slurm
from pretrain.methods import METHODS, Method, method_named, recipe as make_recipe
from pretrain.overview import overview
from pretrain.pictures.batches import epoch_batches
from pretrain.pictures.sources import open_source
from pretrain.recipe import Recipe, add_flags
from pretrain.suggestion import too_few
from pretrain.trainer import DATA_ON, Run, last_good, train
from pretrain.upkeep import dryrun
from pretrain.upkeep.knn import Labelled
from pretrain.upkeep.online import judging_pictures

SMALLER = "lower --batch-size or raise --accumulate"  # without enough memory


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = launcher.CommandLine(description=__doc__.splitlines()[0], allow_abbrev=False,
                                  parents=[launcher.flags()])
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of train/<class>/<picture> or of "
                        "<class>/<picture>, text list of pictures, .npz, .parquet or webdataset shards")
    parser.add_argument("--workers", type=int, default=8, metavar="N", help="data loading processes for each "
                        "training process (default: 8)")
    parser.add_argument("--data-on", choices=DATA_ON, default="auto", help="with --views device: where small "
                        "pictures of one size stay, decoded (default: auto, on a GPU if they take at most a "
                        "fifth of its memory)")
    parser.add_argument("--print-freq", type=int, default=100, metavar="N",
                        help="steps between two lines of stats.txt (default: 100)")
    parser.add_argument("--checkpoint-dir", type=Path, default=Path("checkpoint"), metavar="DIR",
                        help="where the run's files are (default: checkpoint)")
    parser.add_argument("--device", choices=("cuda", "cpu"),
                        default="cuda" if torch.cuda.is_available() else "cpu",
                        help="default: cuda where there is one")
    parser.add_argument("--processes", type=int, metavar="N", help="processes on this machine, unless "
                        "torchrun starts them (default: one for each GPU; 1 on a CPU)")
    parser.add_argument("--checkpoint-minutes", type=float, default=30.0, metavar="N",
                        help="minutes between checkpoints within an epoch; 0: only after each epoch "
                        "(default: 30)")
    parser.add_argument("--keep", type=int, default=2, metavar="K",
                        help="newest checkpoints that are kept (default: 2)")
    parser.add_argument("--max-skips", type=int, default=10, metavar="K",
                        help="skipped steps in a row (NaN, spikes) that end the run (default: 10)")
    parser.add_argument("--knn-data", type=Path, metavar="FOLDER", help="small labelled set for a kNN "
                        "accuracy at the start and after each epoch: train and val, or classes only")
    parser.add_argument("--online-probe", type=Path, metavar="PICTURES", help="labelled pictures of DATA's "
                        "classes, such as its test folder: train a linear classifier beside the network, as "
                        "solo-learn does, and judge it on them at the start and after each epoch")
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, help="memory layout of "
                        "images in the network (default: yes on a GPU, where it is faster in 16 bits)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False,
                        help="torch.compile for the network (default: no: it takes minutes to start and "
                        "changes rounding)")
    parser.add_argument("--tensorboard", action=argparse.BooleanOptionalAction, default=True,
                        help="the figures of stats.txt for TensorBoard, too (default: yes)")
    parser.add_argument("--wandb", action="store_true", help="and for Weights & Biases (needs wandb)")
    parser.add_argument("--dry-run", action="store_true", help="print recipe, rates, forecast, and memory "
                        f"and time from {dryrun.WARM + dryrun.MEASURED} steps; write nothing")
    parser.add_argument("--plan", action="store_true", help="with --launcher slurm: print what each process "
                        "will need and the job script; submit nothing")
    parser.add_argument("--device-memory", type=float, metavar="GIB", help="of a GPU; --dry-run and --plan "
                        "say whether a step fits into it (default: what this machine's GPU has)")
    parser.add_argument("--list", action=List, nargs="?", choices=METHODS, metavar="METHOD",
                        default=argparse.SUPPRESS,
                        help="print all methods, or one, with presets, costs and published figures, and end")
    method = method_of(arguments)
    parser.add_argument("--preset", default="code", metavar="NAME",
                        help=f"recipe that the flags below change: {', '.join(method.PRESETS)} "
                        "(default: code)")
    chosen = method.Recipe.method
    others = ", ".join(name for name in METHODS if name != chosen)
    add_flags(parser.add_argument_group(f"recipe of --method {chosen} (others: {others})"), method.Recipe)
    return parser.parse_args(arguments)


class List(argparse.Action):
    """Prints a line for each method and preset."""

    def __call__(self, parser: argparse.ArgumentParser, _: object, values: object, *__: object) -> None:
        print(overview(values if isinstance(values, str) else None))
        parser.exit()


def method_of(arguments: list[str]) -> type[Method]:
    """Return the method that --method names; it decides which other flags there are. Raises ValueError for an
    unknown one."""
    parser = launcher.CommandLine(add_help=False, allow_abbrev=False)
    parser.add_argument("--method", default=Recipe.method)
    return method_named(parser.parse_known_args(arguments)[0].method)


def prepare(arguments: list[str]) -> tuple[Recipe, Run, int, bool]:
    """Return recipe, run, number of processes, and whether only to measure. Refuses what can be known to be
    wrong, before processes start."""
    args = vars(parse(arguments))
    settings = {one.name for one in dataclasses.fields(method_of(arguments).Recipe)}
    given = {name: args.pop(name) for name in settings & set(args)}
    if args["device"] == "cpu":
        given.setdefault("precision", "fp32")
    recipe = make_recipe(args.pop("preset"), **given)
    if args.pop("plan"):
        raise ValueError("--plan: expected --launcher slurm with it, found none; --dry-run measures a run")
    processes, dry = args.pop("processes"), args.pop("dry_run")
    if processes is None:
        processes = torch.cuda.device_count() if args["device"] == "cuda" else 1
    processes = int(os.environ.get("WORLD_SIZE", processes))
    if processes < 1:
        raise ValueError(f"--processes expected at least 1, found {processes}; without a GPU: --device cpu")
    run = Run(**args, command=" ".join(["pretrain/main.py", *arguments]))
    source = open_source(run.data)
    if len(source) < recipe.batch_size:
        raise ValueError(too_few(arguments, recipe, given, source, processes))
    epoch_batches(source, recipe, processes)
    if run.knn_data:
        Labelled(run.knn_data, recipe.image_size)
    if run.online_probe:
        judging_pictures(source, run.online_probe, recipe.image_size)
    if not dry:
        try:
            run.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"--checkpoint-dir {run.checkpoint_dir} cannot be made: {error.strerror}") \
                from None
    return recipe, run, processes, dry


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0 when the last epoch is done, 2 for an error, 75 after SIGTERM and SIGUSR1,
    130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    standing = Standing()
    adopt_slurm()  # before anything is said
    with signals.listening(standing.farewell):
        try:
            return work(arguments, standing)
        except (ValueError, OSError, WorkerError) as error:
            return complain(error)
        except signals.Stopped as stop:
            return signals.status(stop.number) if getattr(stop, "spoken", False) \
                else standing.farewell(stop.number)


def work(arguments: list[str], standing: "Standing") -> int:
    cluster, own = launcher.split(arguments)
    if cluster.launcher:
        return submit(cluster, own)
    with joined():
        recipe, run, processes, dry = agree(prepare, arguments)
        if dry:
            signals.heed_no_more()  # there is nothing to save
            outcome = launch(within_memory, processes, SMALLER, dryrun.report, recipe, run)
            print("\n".join(outcome or []), end="\n" if outcome else "")
            return 0
        standing.run = run
        outcome = launch(within_memory, processes, SMALLER, train, recipe, run)
        if outcome.signal:  # the others wait until the job is requeued
            return standing.farewell(outcome.signal) if is_main() else signals.status(outcome.signal)
    if is_main():
        print("written: " + ", ".join(map(str, outcome.files)))
    return 0


def submit(cluster: argparse.Namespace, arguments: list[str]) -> int:
    """Submit the same command as a job (--launcher slurm). What can be known to be wrong is refused here."""
    plan = "--plan" in arguments
    own = ["--device", cluster.device, *(word for word in arguments if word != "--plan")]
    recipe, run, processes, _ = prepare([*own, "--processes", str(cluster.tasks),
                                         *(["--dry-run"] if plan else [])])
    if plan:
        print(f"# {dryrun.foreseen(dryrun.forecast(recipe, processes, run.device), run, processes)}")
    command = [str(Path(__file__).resolve()), *own]
    folder = run.checkpoint_dir
    return jobs.run([jobs.Cell(f"pretraining in {folder}", command, command)], cluster, folder,
                    f"pretrain-{folder.name}", run.workers, plan)


class Standing:
    """What to say when a signal ends the program. run: once it is known."""
    run: Run | None = None

    def farewell(self, number: int) -> int:
        """See signals.part."""
        return signals.part(number, lambda:
                            f"{last_good(self.run)}; the same command goes on from there" if self.run else "")


if __name__ == "__main__":
    sys.exit(process.last(main()))
