"""One run: its config and context, the record it is to become, and then checked, evaluated or carried out.

`arguments` is everywhere the parsed command line of transfer/run.py.
"""

import dataclasses
import datetime
import os
import shlex
import sys
import time
from pathlib import Path

import torch

from parallel.collectives import agree, is_main, of_main, require_same
from parallel.launch import launch
from results import store
from results.record import SCHEMA, Result
from transfer import workspace
from transfer.settings import Context, data_root, differences, override, resolved


def run_one(task, backbone, seed, arguments):
    """Run one task with one seed and store its record, unless it is stored already and not to be rerun."""
    config, context, draft = agree(drafted, task, backbone, seed, arguments)
    require_same(identity(draft), workspace.another)  # each host reads its own copy of data and weights
    record = store.path_of(draft, arguments.results)
    context = dataclasses.replace(context, out=output_folder(record, draft, arguments))
    if arguments.check:
        return say(check_text(draft, record, context.out))
    if arguments.eval_only:
        return evaluate_again(task, backbone, config, draft, context)
    stored = not arguments.rerun and of_main(agree(store.find, draft, arguments.results, main_only=True))
    if stored:
        return say(f"{task.name} seed {seed}: {numbers(task, stored.metrics)}  (stored already; --rerun "
                   f"replaces it)\n  record {record}")
    agree(workspace.require_writable, record.parent, main_only=True)
    context = claimed(task, context, draft, arguments.resume, arguments.rerun)
    if draft.scaled:
        say(f"{task.name} seed {seed}: scaled run, not the default protocol's {', '.join(draft.scaled)}")
    start = time.time()
    metrics = launch(task.run, context.gpus, backbone, config, context)
    seconds = round(time.time() - start, 1)
    if is_main():
        # Shown first: whatever may go wrong with storing them, the figures of a long run are not lost.
        say(f"{task.name} seed {seed}: {numbers(task, metrics)}  ({seconds:.0f} s)\n  files  {context.out}")
    agree(keep, draft, metrics, seconds, context, arguments, main_only=True)


def drafted(task, backbone, seed, arguments):
    """Return config, context and record to be of a run; bad settings and bad data stop here."""
    config = run_config(task, arguments)
    context = make_context(seed, arguments)
    return config, context, make_draft(task, backbone, config, context)


def claimed(task, context, draft, resume, rerun):
    """Make the output folder this run's, and return the context with whether it continues there."""
    continues = of_main(agree(workspace.claim, context.out, identity(draft), resume, rerun,
                              resolved(task.config), main_only=True))
    if continues and not resume:
        say(f"{draft.task} seed {draft.seed}: the job was started again, its run in {context.out} continues")
    return dataclasses.replace(context, resume=continues)


def keep(draft, metrics, seconds, context, arguments):
    """Store the record of a run and the files that it leaves."""
    result = dataclasses.replace(draft, metrics=metrics, seconds=seconds)
    say(f"  record {store.save(result, arguments.results, rerun=arguments.rerun)}")
    store.keep(result, arguments.results, context.out / "record")


def evaluate_again(task, backbone, config, draft, context):
    """Print the figures of a detection run's newest checkpoint, proven to be this run's; store nothing."""
    if not hasattr(config, "rescaled"):
        raise ValueError(f"--eval-only is for detection; {task.name} evaluates within its run")
    agree(require_checkpoint, context.out)
    context = claimed(task, context, draft, resume=True, rerun=False)
    metrics = launch(task.run, context.gpus, backbone, config, context)
    say(f"{task.name} seed {draft.seed}: {numbers(task, metrics)}  (evaluated again)\n  files  {context.out}")


def require_checkpoint(out):
    """ValueError where a folder holds no checkpoint of a detection run."""
    if not (out / "last_checkpoint").is_file():
        raise ValueError(f"{out}: expected the checkpoint of a detection run, found none; "
                         "run the same command without --eval-only first")


def run_config(task, arguments):
    """Return the config of a run: the task's, --smoke, the user's KEY VALUE pairs, and then --rescale."""
    pairs = [*(task.smoke if arguments.smoke else ()), *arguments.pairs]
    if arguments.split_file is not None:
        if not hasattr(task.config, "split"):
            raise ValueError("--split-file is for the semi-supervised tasks (imagenet_semi...), found --task "
                             f"{task.name}")
        pairs += ["split", arguments.split_file]
    config = override(task.config, pairs)
    if arguments.rescale and hasattr(config, "rescaled"):
        return config.rescaled(processes(arguments))
    if arguments.rescale and arguments.task == task.name:
        raise ValueError(f"--rescale is for detection; {task.name} has the same batch on any number of GPUs")
    return config


def processes(arguments):
    """Return the number of processes of a run: torchrun's, else --num-gpus."""
    return int(os.environ.get("WORLD_SIZE", arguments.num_gpus))


def make_context(seed, arguments):
    """Return the Context of a run; its output folder follows from the record and is filled in later."""
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    spawned = int(os.environ.get("WORLD_SIZE", 1)) == 1
    found = torch.cuda.device_count()
    meant = device == "cuda" or not arguments.device and arguments.num_gpus > 1
    if spawned and meant and arguments.num_gpus > found:
        raise ValueError(f"expected {arguments.num_gpus} GPUs (--num-gpus), found {found}; pass --device "
                         "cpu, with which that is a number of processes")
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


def check_text(draft, record, out):
    """Return the text of --check: what would run, on what, and in what it departs from the task's default."""
    backbone = draft.backbone
    lines = [f"{draft.task} seed {draft.seed}",
             f"  weights {backbone['name']} ({backbone['format']}, sha256 {backbone['sha256'][:12]})",
             f"  data    {draft.data['name']} {draft.data['counts']}",
             f"  record  {record}{' (stored)' if record.exists() else ''}", f"  output  {out}"]
    lines += [f"  scaled  {key}: default {usual}, here {used}" for key, (usual, used) in draft.scaled.items()]
    return "\n".join(lines)


def numbers(task, metrics):
    """Return a task's metrics as one line; one that could not be measured is a dash. A run without any of
    them, such as a sweep, shows its own."""
    known = {name: f"{value:.2f}" for name, value in metrics.items()}
    names = task.metrics if known.keys() & set(task.metrics) else known
    return "  ".join(f"{name} {known.get(name, '-')}" for name in names)


def one_line(error):
    """Return an error's own message: one of a data loader's process comes wrapped in its traceback."""
    text = str(error).strip()
    return text.splitlines()[-1].split("Error: ", 1)[-1] if "Original Traceback" in text else text


def say(line):
    """Print a line on the main process."""
    if is_main():
        print(line, flush=True)
