"""One run: its config, the conditions of its data, the record it is to become; then checked, evaluated or
carried out."""

import dataclasses
import datetime
import os
import time
from pathlib import Path
from typing import Any

import torch

from parallel.collectives import agree, gather, of_main, require_same
from parallel.groups import joined
from parallel.launch import launch
from parallel.memory import within_memory
from parallel.process import is_main
from results import store
from results.cells import data_text
from results.protocols import departing
from results.record import SCHEMA, Result
from transfer import workspace
from transfer.request import Request
from transfer.settings import Conditions, Context, TaskConfig, data_root
from transfer.tasks import Task, find
from transfer.weights.architectures import RESNET50
from transfer.weights.backbone import Backbone
from transfer.weights.readers import read

# Detection has better advice of its own.
SMALLER = "more --num-gpus share the work; a smaller batch_size, where there is one, makes a scaled run"


def run(request: Request) -> Result:
    """Carry out a request and return its record: the stored one where it is there already, one that is not
    stored after `eval_only`, one without metrics after `check`.

    Raises ValueError and FileNotFoundError for bad input, in one line: what was expected, what was found,
    what to do. Under torchrun or srun every process calls it, and all get the same record; after an error
    there, the process is to end, see `groups.joined`. Several GPUs without these are processes that it
    spawns, for which the calling script needs the usual `if __name__ == "__main__":`.
    """
    with joined():
        return run_one(request, agree(opened, request))


def opened(request: Request) -> Backbone:
    """Return the backbone of a request, once it is known that its records can be read."""
    workspace.require_records(Path(request.results))
    return read(request.weights, request.format, request.name, request.encoder, request.stem)


def run_one(request: Request, backbone: Backbone) -> Result:
    """`run` with a backbone that is read already, in a group that is joined already."""
    task = find(request.task)
    config, conditions, draft, identity = agree(drafted, request, backbone)
    require_same(identity, workspace.another)  # each host reads its own copy of data and weights
    record = store.path_of(draft, request.results)
    out = output_folder(record, request)
    if not request.output and (request.resume or request.eval_only):
        out = of_main(workspace.continued, out, identity)
    if request.check:
        say(check_text(draft, record, out))
        return draft
    if request.eval_only:
        return evaluate_again(task, backbone, config, conditions, draft, identity, out)
    stored = None if request.rerun else of_main(store.find, draft, request.results)
    if stored:
        say(f"{task.name} seed {draft.seed}: {numbers(task, stored.metrics)}  (stored already; --rerun "
            f"replaces it)\n  record {record}")
        return stored
    of_main(workspace.require_writable, record.parent)
    context = claimed(task, conditions, identity, out, request.resume, request.rerun,
                      about={"record": str(record.resolve()), "processes": conditions.gpus})
    if task.own:
        say(f"{task.name} seed {draft.seed}: {data_text(draft.data)}")
    if draft.scaled:
        departures = ", ".join(draft.scaled)
        say(f"{task.name} seed {draft.seed}: scaled run, not the default protocol's {departures}")
    start = time.time()
    metrics = launch(within_memory, context.gpus, SMALLER, task.protocol.run, backbone, config, context)
    seconds = round(time.time() - start, 1)
    # Shown first: even if storing them fails, the figures of a long run are not lost.
    say(f"{task.name} seed {draft.seed}: {numbers(task, metrics)}  ({seconds:.0f} s)\n  files  {out}")
    return of_main(keep, draft, metrics, seconds, request, out)


def drafted(request: Request, backbone: Backbone) -> tuple[TaskConfig, Conditions, Result, dict[str, Any]]:
    """Return config, conditions, record to be and identity of a run; bad settings and bad data stop here.

    identity: what an output folder must share with the run that continues in it.
    """
    config, conditions = configured(request).fitted(backbone), conditions_of(request)
    data = find(request.task).protocol.data(config, conditions)
    training = {workspace.TRAINING: data.pop("training")} if "training" in data else {}
    draft = make_draft(request, backbone, config, conditions, data)
    return config, conditions, draft, {
        "task": draft.task, "version": draft.version, "weights": draft.backbone["sha256"],
        "config": draft.config, "data": data, "seed": draft.seed, **training}


def claimed(task: Task, conditions: Conditions, identity: dict, out: Path, resume: bool, rerun: bool,
            eval_only: bool = False, about: dict | None = None) -> Context:
    """Make the output folder this run's, and return its context. about: see workspace.claim."""
    continues = of_main(workspace.claim, out, identity, resume, rerun, task.config.resolved(), about,
                        not eval_only)
    if continues and not resume:
        say(f"{task.name} seed {conditions.seed}: the job was started again, its run in {out} continues")
    return Context(**vars(conditions), out=out, resume=continues, eval_only=eval_only)


def keep(draft: Result, metrics: dict[str, float], seconds: float, request: Request, out: Path) -> Result:
    """Store the record of a run and the files that it leaves."""
    result = dataclasses.replace(draft, metrics=metrics, seconds=seconds)
    say(f"  record {store.save(result, request.results, rerun=request.rerun)}")
    store.keep(result, request.results, out / "record")
    return result


def evaluate_again(task: Task, backbone: Backbone, config: TaskConfig, conditions: Conditions, draft: Result,
                   identity: dict, out: Path) -> Result:
    """Say the figures of a detection run's newest checkpoint, proven to be this run's; store nothing.

    They are those of the test data as it is now; the run may have begun with another state of it.
    """
    if not task.detects:
        raise ValueError(f"--eval-only is for detection; {task.name} evaluates within its run")
    agree(require_checkpoint, out)
    context = claimed(task, conditions, identity, out, resume=True, rerun=False, eval_only=True)
    metrics = launch(task.protocol.run, context.gpus, backbone, config, context)
    say(f"{task.name} seed {draft.seed}: {numbers(task, metrics)}  (evaluated again)\n  data   "
        f"{draft.data['name']}, fingerprint {draft.data['fingerprint'][:12]}\n  files  {out}")
    return dataclasses.replace(draft, metrics=gather(metrics)[0])


def require_checkpoint(out: Path) -> None:
    """ValueError where a folder holds no checkpoint of a detection run."""
    if not (out / "last_checkpoint").is_file():
        raise ValueError(f"{out}: expected the checkpoint of a detection run, found none; "
                         "run the same command without --eval-only first")


def configured(request: Request) -> TaskConfig:
    """Return the config of a run: the task's, --smoke, the user's KEY VALUE pairs, and then --rescale."""
    task = find(request.task)
    config = task.config.override([*(task.smoke if request.smoke else ()), *request.pairs])
    return config.rescaled(processes(request)) if request.rescale else config


def processes(request: Request) -> int:
    """Return the number of processes of a run: torchrun's, else --num-gpus."""
    return int(os.environ.get("WORLD_SIZE", request.num_gpus))


def conditions_of(request: Request) -> Conditions:
    """Return what a request's data is checked under. Raises ValueError where there are too few GPUs, or no
    --data for a task on a set of one's own, which has no usual place."""
    if find(request.task).own and request.data is None:
        raise ValueError(f"{request.task}: expected --data FOLDER, the labelled pictures themselves, found "
                         "none; name them")
    device = request.device or ("cuda" if torch.cuda.is_available() else "cpu")
    spawned = int(os.environ.get("WORLD_SIZE", 1)) == 1
    found = torch.cuda.device_count()
    meant = device == "cuda" or not request.device and request.num_gpus > 1
    if spawned and meant and request.num_gpus > found:
        raise ValueError(f"expected {request.num_gpus} GPUs (--num-gpus), found {found}; pass --device "
                         "cpu, with which that is a number of processes")
    return Conditions(data=data_root(request.data), gpus=processes(request), workers=request.workers,
                      seed=request.seed, device=device, cache=Path(request.cache) if request.cache else None)


def make_draft(request: Request, backbone: Backbone, config: TaskConfig, conditions: Conditions,
               data: dict[str, Any]) -> Result:
    """Return the record to be, with metrics still empty. data: what the protocol says of it."""
    task = find(request.task)
    usual, used = task.config.fitted(backbone).resolved(), config.resolved()
    return Result(
        schema=SCHEMA, task=task.name, version=task.version,
        backbone={"name": backbone.name, "format": backbone.format, "sha256": backbone.sha256,
                  **({} if backbone.arch == RESNET50 else {"arch": backbone.arch.name})}, metrics={},
        config=used, scaled=departing(usual, used, task.counts, data), seed=request.seed,
        origin="measured",
        source=request.source or f"transfer.execution.run({request})", **workspace.code_version(),
        packages=workspace.packages(), device=workspace.describe_device(conditions.device, conditions.gpus),
        data=data, seconds=0.0,
        started=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"))


def output_folder(record: Path, request: Request) -> Path:
    """Return the folder that was asked for, else one that follows the record."""
    if request.output:
        return Path(request.output)
    return Path("output") / record.relative_to(request.results).with_suffix("")


def check_text(draft: Result, record: Path, out: Path) -> str:
    """Return the text of --check: what would run, on what, and in what it departs from the task's default."""
    backbone = draft.backbone
    lines = [f"{draft.task} seed {draft.seed}",
             f"  weights {backbone['name']} ({backbone['format']}, {draft.arch}, sha256"
             f" {backbone['sha256'][:12]})",
             f"  data    {draft.data['name']} {draft.data['counts']}",
             f"  record  {record}{' (stored)' if record.exists() else ''}", f"  output  {out}"]
    lines += [f"  scaled  {key}: default {usual}, here {used}" for key, (usual, used) in draft.scaled.items()]
    return "\n".join(lines)


def numbers(task: Task, metrics: dict[str, float]) -> str:
    """Return a task's metrics as one line; one that could not be measured is a dash. A run without any of
    them, such as a sweep, shows its own."""
    known = {name: f"{value:.2f}" for name, value in metrics.items()}
    names = task.metrics if known.keys() & set(task.metrics) else known
    return "  ".join(f"{name} {known.get(name, '-')}" for name in names)


def say(line: str) -> None:
    """Print a line on the main process."""
    if is_main():
        print(line, flush=True)
