"""Run transfer tasks on a backbone and store one record for each seed.

    python transfer/run.py --task coco_det --weights bt.pth
    python transfer/run.py --task voc_det --weights bt.pth --num-gpus 8 --seeds 5
    python transfer/run.py --task imagenet_linear --weights bt.pth --data /data learning_rate 0.1
"""

import argparse
import dataclasses
import datetime
import os
import shlex
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if not __package__:
    sys.path[0] = str(ROOT)

import torch  # noqa: E402

from pretrain import distributed  # noqa: E402
from results import plan, store  # noqa: E402
from results.record import SCHEMA, Result  # noqa: E402
from transfer import workspace  # noqa: E402
from transfer.config import Context, data_root, differences, nearest, override, resolved  # noqa: E402
from transfer.tasks import TASKS  # noqa: E402
from transfer.weights.readers import read  # noqa: E402


def parser():
    """Return the argument parser; the README shows each flag in use."""
    parser = argparse.ArgumentParser(
        description="Run transfer tasks on a ResNet-50 backbone.", allow_abbrev=False,
        epilog="KEY VALUE pairs change the task's config; such a run is recorded as scaled.")
    parser.add_argument("--list", action="store_true", help="list the tasks and exit")
    parser.add_argument("--task", help="a task's name, several with commas between, or 'all'")
    parser.add_argument("--weights", help="checkpoint of a ResNet-50, or 'random' for random initialisation")
    parser.add_argument("--format", help="checkpoint format, where it is not recognised by itself")
    parser.add_argument("--encoder", help="which encoder, where the checkpoint holds two (docs/weights.md)")
    parser.add_argument("--name", help="name of the backbone in tables (default: the file's stem)")
    parser.add_argument("--data", help="data root (default: $DETECTRON2_DATASETS, else datasets/)")
    parser.add_argument("--output", help="folder for logs, checkpoints, pictures (default: output/TASK/...)")
    parser.add_argument("--results", default=str(ROOT / "results" / "runs"),
                        help="folder of the records (default: results/runs)")
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
                        help="check weights, data and config, say where they depart from the paper's; "
                             "run nothing")
    parser.add_argument("--plan", action="store_true",
                        help="say what is stored, what would run and for how long; run nothing")
    parser.add_argument("--show-config", action="store_true",
                        help="print the task's config and where it departs from the paper's, and exit")
    parser.add_argument("--cache", default="output/features", metavar="DIR",
                        help="frozen features of kNN, SVM, probes and of linear's validation images, 8 kB an "
                             "image; '' for none (default: output/features)")
    parser.add_argument("--split-file", metavar="FILE",
                        help="semi-supervised: list of labelled images, as `split FILE`; needs no network")
    parser.add_argument("pairs", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser


def main(argv=None):
    """Parse, run, report. Returns the exit status: 0 only when everything asked for is done."""
    arguments = parser().parse_args(argv)
    if arguments.split_file:
        arguments.pairs += ["split", arguments.split_file]
    try:
        if arguments.list:
            return list_tasks()
        return show_config(arguments) if arguments.show_config else run(arguments)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: no record was written; --resume continues the run", file=sys.stderr)
        return 130


def list_tasks():
    """Print each task with its place in the paper and its metrics, the main one first."""
    for task in TASKS.values():
        print(f"{task.name:16} {task.paper:36} {' '.join(task.metrics)}")
    return 0


def show_config(arguments):
    """Print the config that KEY VALUE pairs give, with the paper's value where it differs."""
    if arguments.task not in TASKS:
        raise ValueError(f"--show-config: expected one task, found {arguments.task!r}; --list shows them")
    task = TASKS[arguments.task]
    used = resolved(run_config(task, arguments))
    changed = differences(resolved(task.config), used)
    for key, value in used.items():
        print(f"{key} = {value}" + (f"   (default: {changed[key][0]})" if key in changed else ""))
    return 0


def run_config(task, arguments):
    """Return the config of a run: the task's, --smoke, the user's KEY VALUE pairs, and then --rescale."""
    config = override(task.config, [*task.smoke, *arguments.pairs] if arguments.smoke else arguments.pairs)
    if arguments.rescale and hasattr(config, "rescaled"):
        return config.rescaled(processes(arguments))
    if arguments.rescale and arguments.task == task.name:
        raise ValueError(f"--rescale is for detection; {task.name} has the same batch on any number of GPUs")
    return config


def processes(arguments):
    """Return the number of processes of a run: torchrun's, else --num-gpus."""
    return int(os.environ.get("WORLD_SIZE", arguments.num_gpus))


def run(arguments):
    """Run every (task, seed) that is asked for. Of several tasks, those that cannot run are named."""
    if not arguments.task or not arguments.weights:
        raise ValueError("expected --task NAME and --weights FILE; --list shows the tasks")
    tasks = chosen(arguments.task)
    suite = arguments.task != tasks[0].name
    for flag, least in (("seed", 0), ("seeds", 1), ("num_gpus", 1), ("workers", 0)):
        value = getattr(arguments, flag)
        if value is not None and not least <= value < 2**31:
            raise ValueError(f"--{flag.replace('_', '-')}: expected {least} or more, found {value}")
    if suite and arguments.pairs:
        raise ValueError(f"KEY VALUE pairs ({arguments.pairs[0]} ...) belong to one task, found --task "
                         f"{arguments.task}")
    backbone = read(arguments.weights, arguments.format, arguments.name, arguments.encoder)
    seeds = range(arguments.seeds) if arguments.seeds is not None else [arguments.seed]
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


def run_suite(tasks, backbone, seeds, arguments):
    """Say the plan, run what can run, end with the tables. Returns the exit status: 1 where a task failed."""
    if not arguments.check:
        show_plan(tasks, backbone, seeds, arguments)
    status = 0
    for task in tasks:
        try:
            for seed in seeds:
                run_one(task, backbone, seed, arguments)
        except (ValueError, OSError, RuntimeError) as error:
            status = 1
            if distributed.is_main():
                print(f"{task.name}: not run: {one_line(error)}", file=sys.stderr, flush=True)
    if not arguments.check:
        own = arguments.results != parser().get_default("results")
        command = shlex.join(["python", "results/make.py",
                              *(["--runs", arguments.results, "--out", "TABLES"] if own else [])])
        say(plan.closing(store.load(arguments.results)[0], backbone.sha256, command))
    return status


def show_plan(tasks, backbone, seeds, arguments):
    """Say what is stored of each task and what is to be run, a line each. Returns the exit status, 0."""
    records = store.load(arguments.results)[0]
    to_go = []
    for task in tasks:
        try:
            draft = make_draft(task, backbone, run_config(task, arguments), make_context(seeds[0], arguments))
            drafts = [dataclasses.replace(draft, seed=seed) for seed in seeds]
            text, seconds = plan.line(drafts, records, arguments.rerun)
            to_go.append(seconds)
        except (ValueError, OSError, RuntimeError) as error:
            text = f"cannot run: {one_line(error)}"
        say(f"{task.name:16} {text}")
    say(plan.total(to_go))
    return 0


def run_one(task, backbone, seed, arguments):
    """Run one task with one seed and store its record, unless it is stored already and not to be rerun."""
    config = run_config(task, arguments)
    context = make_context(seed, arguments)
    draft = make_draft(task, backbone, config, context)
    record = store.path_of(draft, arguments.results)
    context = dataclasses.replace(context, out=output_folder(record, draft, arguments))
    if arguments.check:
        return say(describe_plan(draft, record, context.out))
    if arguments.eval_only:
        return evaluate_again(task, backbone, config, draft, context)
    if not arguments.rerun and (stored := store.find(draft, arguments.results)):
        return say(f"{task.name} seed {seed}: {numbers(task, stored.metrics)}  (stored already; --rerun "
                   f"replaces it)\n  record {record}")
    if distributed.is_main():
        workspace.require_writable(record.parent)
        workspace.claim(context.out, identity(draft), arguments.resume, arguments.rerun)
    if draft.scaled:
        say(f"{task.name} seed {seed}: scaled run, not the paper's {', '.join(draft.scaled)}")
    start = time.time()
    metrics = distributed.launch(task.run, context.gpus, backbone, config, context)
    seconds = round(time.time() - start, 1)
    if distributed.is_main():
        # Shown first: whatever may go wrong with storing them, the figures of a long run are not lost.
        say(f"{task.name} seed {seed}: {numbers(task, metrics)}  ({seconds:.0f} s)\n  files  {context.out}")
        result = dataclasses.replace(draft, metrics=metrics, seconds=seconds)
        say(f"  record {store.save(result, arguments.results, rerun=arguments.rerun)}")
        store.keep(result, arguments.results, context.out / "record")


def evaluate_again(task, backbone, config, draft, context):
    """Print the figures of a detection run's newest checkpoint, proven to be this run's; store nothing."""
    if not hasattr(config, "rescaled"):
        raise ValueError(f"--eval-only is for detection; {task.name} evaluates within its run")
    if not (context.out / "last_checkpoint").is_file():
        raise ValueError(f"{context.out}: expected the checkpoint of a detection run, found none; "
                         "run the same command without --eval-only first")
    if distributed.is_main():
        workspace.claim(context.out, identity(draft), resume=True, rerun=False)
    metrics = distributed.launch(task.run, context.gpus, backbone, config, context)
    say(f"{task.name} seed {draft.seed}: {numbers(task, metrics)}  (evaluated again)\n  files  {context.out}")


def numbers(task, metrics):
    """Return a task's metrics as one line; one that could not be measured is a dash. A run without any of
    them, such as a sweep, shows its own."""
    known = {name: f"{value:.2f}" for name, value in metrics.items()}
    names = task.metrics if known.keys() & set(task.metrics) else known
    return "  ".join(f"{name} {known.get(name, '-')}" for name in names)


def make_context(seed, arguments):
    """Return the Context of a run; its output folder follows from the record and is filled in later."""
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    spawned = int(os.environ.get("WORLD_SIZE", 1)) == 1
    found = torch.cuda.device_count()
    meant = device == "cuda" or not arguments.device and arguments.num_gpus > 1
    if spawned and meant and arguments.num_gpus > found:
        raise ValueError(f"--num-gpus {arguments.num_gpus}: expected at most the {found} GPUs found here; "
                         "with --device cpu it counts processes")
    return Context(out=Path(), data=data_root(arguments.data), workers=arguments.workers, seed=seed,
                   gpus=processes(arguments), device=device,
                   resume=arguments.resume, eval_only=arguments.eval_only,
                   cache=Path(arguments.cache) if arguments.cache else None)


def make_draft(task, backbone, config, context):
    """Return the record to be, with metrics still empty. Reads the data's listing, so bad data stops here."""
    data = task.data(config, context)
    used = resolved(config)
    counts = differences(task.counts, data["counts"])
    scaled = differences(resolved(task.config), used)
    scaled.update({f"data.{key}": pair for key, pair in counts.items()})
    return Result(
        schema=SCHEMA, task=task.name, version=task.version,
        backbone={"name": backbone.name, "format": backbone.format, "sha256": backbone.sha256}, metrics={},
        config=used, scaled=scaled, seed=context.seed, origin="measured",
        source=shlex.join(["python", "transfer/run.py", *sys.argv[1:]]), **workspace.code_version(),
        packages=workspace.packages(), device=workspace.describe_device(context.device, context.gpus),
        data=data, seconds=0.0,
        started=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"))


def output_folder(record, draft, arguments):
    """Return --output itself for a single run, a folder in it for each of several; else follow the record."""
    if not arguments.output:
        return Path("output") / record.relative_to(arguments.results).with_suffix("")
    single = arguments.task == draft.task and arguments.seeds is None
    return Path(arguments.output) if single else Path(arguments.output) / f"{draft.task}-s{draft.seed}"


def identity(draft):
    """Return what an output folder must share with the run that continues in it."""
    return {"task": draft.task, "version": draft.version, "weights": draft.backbone["sha256"],
            "config": draft.config, "data": draft.data, "seed": draft.seed}


def describe_plan(draft, record, out):
    """Return the text of --check: what would run, on what, and in what it departs from the paper."""
    backbone = draft.backbone
    lines = [f"{draft.task} seed {draft.seed}",
             f"  weights {backbone['name']} ({backbone['format']}, sha256 {backbone['sha256'][:12]})",
             f"  data    {draft.data['name']} {draft.data['counts']}",
             f"  record  {record}{' (stored)' if record.exists() else ''}", f"  output  {out}"]
    lines += [f"  scaled  {key}: paper {paper}, here {used}" for key, (paper, used) in draft.scaled.items()]
    return "\n".join(lines)


def one_line(error):
    """Return an error's own message: one of a data loader's process comes wrapped in its traceback."""
    text = str(error).strip()
    return text.splitlines()[-1].split("Error: ", 1)[-1] if "Original Traceback" in text else text


def say(line):
    """Print a line on the main process."""
    if distributed.is_main():
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
