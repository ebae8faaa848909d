"""Run transfer tasks on a backbone and store one record for each seed.

    python transfer/run.py --task coco_det --weights bt.pth
    python transfer/run.py --task voc_det --weights bt.pth --num-gpus 8 --seeds 5
    python transfer/run.py --task imagenet_linear --weights bt.pth --data /data learning_rate 0.1
    python transfer/run.py --task folder_knn,folder_probe --weights bt.pth --data my/pictures
    python transfer/run.py --task all --seeds 5 --weights bt.pth --launcher slurm --gpus-per-node 8 --wait

This file has the flags; execution.py makes one run, suite.py several tasks, submit.py hands them to SLURM.
"""

import argparse
import dataclasses
import json
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

if not __package__:
    # Until main listens; the imports take seconds.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from parallel import launcher, signals
from parallel.mappings import differences
from parallel.process import complain, is_main, last
from parallel.slurm import adopt_slurm
from transfer import tasks
from transfer.request import Request, require_number
from transfer.settings import TaskConfig


def parser() -> argparse.ArgumentParser:
    """Return the argument parser; the README shows each flag in use."""
    parser = launcher.CommandLine(
        description="Run transfer tasks on a ResNet backbone.", allow_abbrev=False,
        parents=[launcher.flags()],
        epilog="KEY VALUE pairs change the task's config; such a run is recorded as scaled.")
    parser.add_argument("--list", action="store_true", help="list the tasks and exit")
    parser.add_argument("--task", help="a task's name, several with commas between, or 'all'")
    parser.add_argument("--weights", help="checkpoint of a ResNet, or 'random', a ResNet-50, or "
                        "'random:resnet18-cifar' and the like")
    seeds, again = parser.add_mutually_exclusive_group(), parser.add_mutually_exclusive_group()
    groups = {"seed": seeds, "resume": again, "rerun": again, "eval_only": again}
    for one in dataclasses.fields(Request):
        if one.metadata:
            options = dict(one.metadata)
            names = filter(None, (f"--{one.name.replace('_', '-')}", options.pop("also", None)))
            groups.get(one.name, parser).add_argument(*names, **options)
    seeds.add_argument("--seeds", type=int, metavar="N", help="run seeds 0 to N-1, one record each")
    parser.add_argument("--plan", action="store_true",
                        help="say what is stored, what would run and for how long; run nothing")
    parser.add_argument("--json", action="store_true", help="--list and --plan as one JSON object")
    parser.add_argument("--show-config", action="store_true",
                        help="print the task's config and where it departs from the default protocol, "
                             "and exit")
    parser.add_argument("--split-file", metavar="FILE",
                        help="semi-supervised: list of labelled images, as `split FILE`; needs no network")
    for side in ("train", "val"):
        parser.add_argument(f"--{side}-json", metavar="FILE", help="detection on a set of one's own: COCO's "
                            f"annotation file to {'train' if side == 'train' else 'test'} on")
        parser.add_argument(f"--{side}-images", metavar="FOLDER", help="the folder of its images")
    parser.add_argument("pairs", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse, run, report. Returns the exit status: 0 only when everything asked for is done."""
    adopt_slurm()  # before anything is said
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = parser().parse_intermixed_args(words)  # flags may stand between the pairs
    with signals.listening(farewell):
        try:
            if arguments.json and not (arguments.list or arguments.plan) or \
                    arguments.json and getattr(arguments, "launcher", None):
                raise ValueError("--json: expected --list or --plan with it, and no --launcher")
            return list_tasks(arguments.json) if arguments.list else work(arguments, words)
        except (ValueError, OSError, RuntimeError) as error:
            return complain(error)
        except signals.Stopped as stop:
            return signals.status(stop.number) if getattr(stop, "spoken", False) else farewell(stop.number)


def farewell(number: int) -> int:
    """See signals.part."""
    return signals.part(number, "no record was written; --resume continues the run")


def list_tasks(as_json: bool) -> int:
    """Print each task with its place in the paper and its metrics, the main one first."""
    if as_json and is_main():
        print(json.dumps({task.name: {"paper": task.paper, "metrics": task.metrics, "counts": task.counts,
                                      "version": task.version} for task in tasks.TASKS.values()}, indent=1))
    for task in tasks.TASKS.values() if is_main() and not as_json else ():
        print(f"{task.name:20} {task.paper:42} {' '.join(task.metrics)}")
    return 0


def work(arguments: argparse.Namespace, words: list[str]) -> int:
    """Do what needs the tasks' own modules: they are imported here, and signals wait for it."""
    with signals.held_back():
        from parallel.collectives import agree
        from parallel.groups import joined
        from transfer import execution, submit, suite
    if arguments.show_config:
        return show_config(arguments, words, execution.configured)
    if not arguments.task or not arguments.weights:
        raise ValueError("expected --task NAME and --weights FILE; --list shows the tasks")
    cluster, rest = launcher.split(words)
    requests = requested(arguments, words)
    first = next(iter(requests.values()))[0]
    with joined():  # the processes of torchrun or SLURM, if any
        if cluster.launcher and not first.check:
            # With --after another job is yet to make the weights.
            backbone = None if cluster.after else execution.opened(first)
            return submit.submit(requests, backbone, cluster, rest, arguments.plan)
        backbone = agree(execution.opened, first)
        if arguments.plan:
            rows = suite.show_plan(requests, backbone, quiet=arguments.json)
            if arguments.json and is_main():
                print(json.dumps(rows, indent=1))
        elif arguments.task not in requests:
            return suite.run_suite(requests, backbone)
        else:
            for request in requests[arguments.task]:
                execution.run_one(request, backbone)
    return 0


def show_config(arguments: argparse.Namespace, words: list[str],
                configured: Callable[[Request], TaskConfig]) -> int:
    """Print the config that KEY VALUE pairs give, with the default's where it differs."""
    requests = requested(arguments, words) if arguments.task else {}
    if len(requests) != 1:
        raise ValueError(f"--show-config: expected one task, found {arguments.task!r}; --list shows them")
    (name, (request, *_)), = requests.items()
    used = configured(request).resolved()
    changed = differences(tasks.find(name).config.resolved(), used)
    for key, value in used.items():
        print(f"{key} = {value}" + (f"   (default: {changed[key][0]})" if key in changed else ""))
    return 0


def requested(arguments: argparse.Namespace, words: list[str]) -> dict[str, list[Request]]:
    """Return {task: a Request for each seed}. Of several runs, each has a folder of its own in --output."""
    all_of_root = [task.name for task in tasks.TASKS.values() if not task.own]
    names = all_of_root if arguments.task == "all" else arguments.task.split(",")
    chosen = [tasks.find(name) for name in names]
    suite = arguments.task not in names
    pairs = tuple(arguments.pairs)
    if suite and (pairs or arguments.split_file is not None):
        raise ValueError("KEY VALUE pairs and --split-file belong to one task, found --task "
                         f"{arguments.task}")
    if arguments.split_file is not None:
        if "split" not in chosen[0].config.resolved():
            raise ValueError("--split-file is for the semi-supervised tasks (imagenet_semi...), found --task "
                             f"{arguments.task}")
        pairs += ("split", arguments.split_file)
    own = [arguments.train_json, arguments.train_images, arguments.val_json, arguments.val_images]
    if any(own):
        if not all(own) or not all(task.detects for task in chosen):
            raise ValueError("--train-json, --train-images, --val-json, --val-images: expected all four and "
                             f"a task of detection, found {sum(map(bool, own))} and --task {arguments.task}")
        if "dataset" in pairs[::2]:
            raise ValueError("--train-json: expected it or the pair dataset FILE, found both; leave one out")
        from transfer.detection.sets import declaration

        pairs = ("dataset", declaration(own[:2], own[2:]), *pairs)
    if arguments.seeds is not None:
        require_number("seeds", arguments.seeds, 1, 10_000)
    fields = {field.name for field in dataclasses.fields(Request)}
    given = {name: value for name, value in vars(arguments).items() if name in fields}

    def request(task: tasks.Task, seed: int) -> Request:
        output = arguments.output
        if output and (suite or arguments.seeds is not None):
            output = Path(output, f"{task.name}-s{seed}")
        rescale = arguments.rescale and (task.detects or not suite)  # of a suite, those that have the rule
        return Request(**given | {"task": task.name, "seed": seed, "output": output, "rescale": rescale,
                                  "weights": arguments.weights or "random", "pairs": pairs,
                                  "source": shlex.join(["python", "transfer/run.py", *words])})

    seeds = range(arguments.seeds) if arguments.seeds is not None else [arguments.seed]
    return {task.name: [request(task, seed) for seed in seeds] for task in chosen}


if __name__ == "__main__":
    sys.exit(last(main()))
