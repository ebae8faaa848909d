"""Several tasks in one command: the plan, the runs that can be made, and the tables in the end.

`arguments` is the parsed command line of transfer/run.py.
"""

import dataclasses
import shlex
import sys
from pathlib import Path

from parallel.collectives import in_group, is_main
from results import plan, store
from transfer.execution import make_context, make_draft, one_line, run_config, run_one, say
from transfer.workspace import ROOT

RUNS = ROOT / "results" / "runs"  # the records that results/make.py reads unless told otherwise


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
            if in_group() and not getattr(error, "agreed", False):
                raise  # only this process came to it: the others are in the middle of the task
            status = 1
            if is_main():
                print(f"{task.name}: not run: {one_line(error)}", file=sys.stderr, flush=True)
    if not arguments.check:
        show_tables(backbone, arguments)
    return status


def show_tables(backbone, arguments):
    """Print the tables that hold a figure of this backbone, and the command that writes them."""
    own = Path(arguments.results).resolve() != RUNS
    command = shlex.join(["python", "results/make.py",
                          *(["--runs", arguments.results, "--out", "TABLES"] if own else [])])
    say(plan.closing(store.load(arguments.results)[0], backbone.sha256, command))


def missing_seeds(task, backbone, seeds, arguments):
    """Return the seeds of a task that have no record yet; all with --rerun and --eval-only, and where the
    backbone is None because it is yet to be made. Raises ValueError or OSError where the task cannot run."""
    config, context = run_config(task, arguments), make_context(seeds[0], arguments)
    if backbone is None:
        task.data(config, context)  # the listing is read, so bad data stops here
        return list(seeds)
    draft = make_draft(task, backbone, config, context)
    again = arguments.rerun or arguments.eval_only
    return [seed for seed in seeds
            if again or not store.find(dataclasses.replace(draft, seed=seed), arguments.results)]


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
