"""Several tasks in one command: the plan, the possible runs, and finally the tables.

`requests` is always {task: a Request for each seed}.
"""

import contextlib
import dataclasses
import hashlib
import json
import shlex
import sys
import time
from pathlib import Path

from parallel.collectives import of_main
from parallel.files import write_whole
from parallel.places import RUNS, TABLES
from parallel.process import in_group, is_main, one_line, this_process
from results import plan, store
from results.webpage import slug
from transfer import execution
from transfer.execution import say
from transfer.request import Request
from transfer.tasks import find
from transfer.weights.backbone import Backbone


def run_suite(requests: dict[str, list[Request]], backbone: Backbone) -> int:
    """Print the plan, run what can run, end with the tables. Returns the exit status: 1 if a task failed."""
    first = next(iter(requests.values()))[0]
    rows = {} if first.check else show_plan(requests, backbone)
    began = time.time()
    of_main(note, requests, backbone, rows, began)
    status = 0
    for task, of_seeds in requests.items():
        try:
            for request in of_seeds:
                execution.run_one(request, backbone)
        except (ValueError, OSError, RuntimeError) as error:
            if in_group() and not getattr(error, "agreed", False):
                raise  # only this process came to it: the others are in the middle of the task
            status = 1
            if is_main():
                print(f"{task}: not run: {one_line(error)}", file=sys.stderr, flush=True)
            if rows:
                rows[task]["problem"] = one_line(error)
                of_main(note, requests, backbone, rows, began)
    if not first.check:
        show_tables(backbone, first.results)
    return status


def show_tables(backbone: Backbone, results: str | Path) -> None:
    """Print the tables that hold a figure of this backbone, and the command that writes them."""
    own = Path(results).resolve() != RUNS.resolve()
    command = shlex.join([*TABLES.split(), *(["--runs", str(results), "--out", "TABLES"] if own else [])])
    say(plan.closing(store.load(results)[0], backbone.sha256, command))


def missing(of_seeds: list[Request], backbone: Backbone | None) -> list[Request]:
    """Return those requests of a task that have no record yet; all with --rerun and --eval-only, and where
    the backbone is None because it is yet to be made. Raises ValueError or OSError where the task cannot
    run."""
    first = of_seeds[0]
    if backbone is None:  # the listing is read, so bad data stops here
        find(first.task).protocol.data(execution.configured(first), execution.conditions_of(first))
        return of_seeds
    draft = execution.drafted(first, backbone)[2]
    return [request for request in of_seeds if request.rerun or request.eval_only
            or not store.find(dataclasses.replace(draft, seed=request.seed), request.results)]


def note(requests: dict[str, list[Request]], backbone: Backbone, rows: dict[str, dict], began: float,
         **process: str | int) -> None:
    """Leave the plan of a suite beside its runs' folders, for results/watch.py; the runs go on where it
    cannot be written. rows: of show_plan, none for nothing. began: when; with --rerun, older records are not
    its own. process: the one that works through it, if it is not this one."""
    if not rows:
        return
    first = next(iter(requests.values()))[0]
    # Suites of other tasks and seeds may be at work beside it.
    asked = [(task, request.seed, request.smoke) for task in requests for request in requests[task]]
    name = f"{backbone.sha256[:8]}-{hashlib.sha256(repr(asked).encode()).hexdigest()[:8]}"
    folder = Path(first.output).parent if first.output else Path("output")
    with contextlib.suppress(OSError):
        write_whole(folder / f"suite-{slug(backbone.name)}-{name}.json", json.dumps({
            "backbone": backbone.name, "source": first.source, "results": str(Path(first.results).resolve()),
            "since": began if first.rerun else 0, "process": process or this_process(),
            "tasks": rows}, indent=1) + "\n")


def show_plan(requests: dict[str, list[Request]], backbone: Backbone, quiet: bool = False) -> dict[str, dict]:
    """Say what is stored of each task and what is to be run, a line each, unless `quiet`. Returns {task:
    {"places" of the records, number "stored", "seconds" to go or None}}, or {"problem"} of a task that cannot
    run."""
    first = next(iter(requests.values()))[0]
    records = store.load(first.results)[0]
    stored = set() if first.rerun else {one.place for one in records}
    to_go, rows = [], dict[str, dict]()
    for task, of_seeds in requests.items():
        try:
            draft = execution.drafted(of_seeds[0], backbone)[2]
            drafts = [dataclasses.replace(draft, seed=request.seed) for request in of_seeds]
            text, seconds = plan.line(drafts, records, first.rerun)
            to_go.append(seconds)
            places = [one.place for one in drafts]
            rows[task] = {"places": places, "seconds": seconds, "stored": len(stored.intersection(places))}
        except (ValueError, OSError, RuntimeError) as error:
            text = f"cannot run: {one_line(error)}"
            rows[task] = {"problem": one_line(error)}
        if not quiet:
            say(f"{task:20} {text}")
    if not quiet:
        say(plan.total(to_go))
    return rows
