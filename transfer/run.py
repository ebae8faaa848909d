"""Run transfer tasks on a backbone and store one record for each seed.

    python transfer/run.py --task coco_det --weights bt.pth
    python transfer/run.py --task voc_det --weights bt.pth --num-gpus 8 --seeds 5
    python transfer/run.py --task imagenet_linear --weights bt.pth --data /data learning_rate 0.1
    python transfer/run.py --task all --seeds 5 --weights bt.pth --launcher slurm --gpus-per-node 8 --wait

Here are the flags; execution.py makes one run, suite.py several tasks, submit.py hands them to SLURM.
"""

import os
import signal
import sys
from pathlib import Path

if not __package__:
    # Until main listens; the imports take seconds.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from parallel import groups, launcher, signals
from parallel.collectives import agree, is_main
from parallel.groups import complain, joined
from parallel.slurm import adopt_slurm
from transfer import submit, workspace
from transfer.execution import one_line, run_config, run_one
from transfer.settings import differences, nearest, resolved
from transfer.suite import RUNS, run_suite, show_plan
from transfer.tasks import TASKS
from transfer.weights.readers import read


def parser():
    """Return the argument parser; the README shows each flag in use."""
    parser = launcher.CommandLine(
        description="Run transfer tasks on a ResNet-50 backbone.", allow_abbrev=False,
        parents=[launcher.flags()],
        epilog="KEY VALUE pairs change the task's config; such a run is recorded as scaled.")
    parser.add_argument("--list", action="store_true", help="list the tasks and exit")
    parser.add_argument("--task", help="a task's name, several with commas between, or 'all'")
    parser.add_argument("--weights", help="checkpoint of a ResNet-50, or 'random' for random initialisation")
    parser.add_argument("--format", help="checkpoint format, where it is not recognised by itself")
    parser.add_argument("--encoder", help="which encoder, where the checkpoint holds two (docs/weights.md)")
    parser.add_argument("--name", help="name of the backbone in tables (default: the file's stem)")
    parser.add_argument("--data", help="data root (default: $DETECTRON2_DATASETS, else datasets/)")
    parser.add_argument("--output", help="folder for logs, checkpoints, pictures (default: output/TASK/...)")
    parser.add_argument("--results", default=str(RUNS), help="folder of the records (default: results/runs)")
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs, or CPU processes with --device cpu")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is one")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1),
                        help="data loader processes per GPU")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    seeds.add_argument("--seeds", type=int, metavar="N", help="run seeds 0 to N-1, one record each")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue an interrupted run in its folder")
    again.add_argument("--rerun", action="store_true", help="start over and replace the stored record")
    again.add_argument("--eval-only", action="store_true",
                       help="evaluate a detection run's newest checkpoint again; store nothing")
    parser.add_argument("--rescale", action="store_true",
                        help="detection: take the config as one for 8 GPUs and scale batch, rate and "
                             "iterations to --num-gpus by the linear rule; recorded as scaled")
    parser.add_argument("--smoke", action="store_true", help="a run of seconds to minutes on a CPU")
    parser.add_argument("--check", action="store_true",
                        help="check weights, data and config, say where they depart from the default "
                             "protocol; run nothing")
    parser.add_argument("--plan", action="store_true",
                        help="say what is stored, what would run and for how long; run nothing")
    parser.add_argument("--show-config", action="store_true",
                        help="print the task's config and where it departs from the default protocol, "
                             "and exit")
    parser.add_argument("--cache", default="output/features", metavar="DIR",
                        help="frozen features of kNN, SVM, probes and of linear's validation images, 8 kB an "
                             "image; '' for none (default: output/features)")
    parser.add_argument("--split-file", metavar="FILE",
                        help="semi-supervised: list of labelled images, as `split FILE`; needs no network")
    parser.add_argument("pairs", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser


def main(argv=None):
    """Parse, run, report. Returns the exit status: 0 only when everything asked for is done."""
    adopt_slurm()  # before anything is said
    arguments = parser().parse_intermixed_args(argv)  # flags may stand between the pairs
    arguments.command = sys.argv[1:] if argv is None else list(argv)
    with signals.listening(farewell):
        try:
            if arguments.list:
                return list_tasks()
            if arguments.show_config:
                return show_config(arguments)
            with joined():  # the processes of torchrun or SLURM, if any
                return run(arguments)
        except (ValueError, OSError, RuntimeError) as error:
            error.args = one_line(error),
            return complain(error)
        except signals.Stopped as stop:
            return signals.status(stop.number) if getattr(stop, "spoken", False) else farewell(stop.number)


def farewell(number):
    """See signals.part."""
    return signals.part(number, "no record was written; --resume continues the run")


def list_tasks():
    """Print each task with its place in the paper and its metrics, the main one first."""
    for task in TASKS.values() if is_main() else ():
        print(f"{task.name:16} {task.paper:36} {' '.join(task.metrics)}")
    return 0


def show_config(arguments):
    """Print the config that KEY VALUE pairs give, with the default's where it differs."""
    tasks = chosen(arguments.task) if arguments.task else []
    if len(tasks) != 1:
        raise ValueError(f"--show-config: expected one task, found {arguments.task!r}; --list shows them")
    used = resolved(run_config(tasks[0], arguments))
    changed = differences(resolved(tasks[0].config), used)
    for key, value in used.items():
        print(f"{key} = {value}" + (f"   (default: {changed[key][0]})" if key in changed else ""))
    return 0


def run(arguments):
    """Run every (task, seed) that is asked for. Of several tasks, those that cannot run are named."""
    if not arguments.task or not arguments.weights:
        raise ValueError("expected --task NAME and --weights FILE; --list shows the tasks")
    tasks = chosen(arguments.task)
    suite = arguments.task != tasks[0].name
    for flag, least in (("seed", 0), ("seeds", 1), ("num_gpus", 1), ("workers", 0)):
        value = getattr(arguments, flag)
        if value is not None and not least <= value < 2**31:
            limit = f"{least} or more" if value < least else "less than 2**31"
            raise ValueError(f"--{flag.replace('_', '-')}: expected {limit}, found {value}")
    if suite and (arguments.pairs or arguments.split_file is not None):
        raise ValueError("KEY VALUE pairs and --split-file belong to one task, found --task "
                         f"{arguments.task}")
    agree(workspace.require_records, Path(arguments.results))
    cluster, _ = launcher.split(arguments.command)
    backbone = None
    if not cluster.after or arguments.check:  # else another job is yet to make the weights
        backbone = agree(read, arguments.weights, arguments.format, arguments.name, arguments.encoder)
    seeds = range(arguments.seeds) if arguments.seeds is not None else [arguments.seed]
    if cluster.launcher and not arguments.check:
        return submit.submit(tasks, backbone, seeds, arguments)
    if arguments.plan:
        return show_plan(tasks, backbone, seeds, arguments)
    if suite:
        return run_suite(tasks, backbone, seeds, arguments)
    for seed in seeds:
        run_one(tasks[0], backbone, seed, arguments)
    return 0


def chosen(names):
    """Return the tasks that --task names. Raises ValueError for an unknown one, naming the nearest."""
    names = list(TASKS) if names == "all" else names.split(",")
    for name in names:
        if name not in TASKS:
            raise ValueError(f"unknown task {name!r}; {nearest(name, TASKS)}")
    return [TASKS[name] for name in names]


if __name__ == "__main__":
    sys.exit(groups.last(main()))
