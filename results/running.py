"""What runs below some folders, and how far it is, read off the files that runs leave while they work.

A folder with stats.txt is a pretraining run, one with run.json alone a task's; suite-*.json is the plan of
several tasks. Others write to these files meanwhile: of a long one the end is read, and what is no line of a
log is left out.
"""

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parallel.process import lives
from parallel.reading import MEGABYTE, read_small_text, read_tail
from results.record import Result, from_json

PATIENCE = 600.0  # seconds without a line, or three times the longest pause so far, and a run counts as quiet
LOST = 86_400.0  # seconds without a line, and a run whose process cannot be seen from here counts as stopped
SPAN = 50  # lines from which the speed is taken
RUNNING, QUIET, STOPPED, FINISHED, WAITING = "running", "quiet", "stopped", "finished", "waiting"


@dataclass(frozen=True)
class Job:
    """A run. state: one of the above but `waiting`; stopped: its process is gone, or at another run, and left
    no result. record: of a task, where its record belongs. process, started: as run.json has them. axis: what
    its rows are counted in. done: share. eta, seconds (so far), age (of the last line): seconds. cost: hours
    of all its devices. rows: {name: number or None}."""

    folder: str
    task: str
    state: str
    record: str
    process: dict[str, str | int]
    started: float
    axis: str
    done: float | None
    eta: float | None
    seconds: float
    cost: float
    age: float
    changed: float
    rows: tuple[dict, ...]
    result: Result | None = None

    def last(self, *names: str) -> float | None:
        """Return the newest figure that has one of these names."""
        return next((row[name] for row in reversed(self.rows) for name in names if row.get(name) is not None),
                    None)


@dataclass(frozen=True)
class Place:
    """A run that a suite has planned. seconds: it took, or may take if that is known."""

    task: str
    seed: str
    state: str
    seconds: float | None
    problem: str = ""
    result: Result | None = None
    job: Job | None = None


def find(roots: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Return (folders of runs, plans of suites) below some folders; links to folders are not followed."""
    folders, plans = {}, {}
    for root in roots:
        for name, below, files in os.walk(root):
            below[:] = sorted(one for one in below if not one.startswith("."))
            if "stats.txt" in files or "run.json" in files:
                folders[os.path.realpath(name)] = Path(name)
                below.clear()
            plans.update({os.path.realpath(os.path.join(name, one)): Path(name, one) for one in sorted(files)
                          if one.startswith("suite-") and one.endswith(".json")})
    return list(folders.values()), list(plans.values())


def read(folder: Path, now: float) -> Job:
    """Return the run in a folder. Raises OSError where the folder goes meanwhile."""
    mark = _object(folder / "run.json")
    if (folder / "stats.txt").exists():
        return _pretraining(folder, mark, now)
    config = mark["config"] if isinstance(mark.get("config"), dict) else {}
    detects = (folder / "metrics.json").exists()
    axis = "iteration" if detects else "epoch"
    rows, changed = _rows(folder / ("metrics.json" if detects else "log.txt"), axis)
    started = os.stat(folder / "run.json").st_mtime
    whole = _number(config.get("SOLVER.MAX_ITER" if detects else "epochs"))
    done = (rows[-1][axis] + detects) / whole if rows and whole else None
    eta = rows[-1].get("eta_seconds") if rows and detects else _eta(
        [(row[axis] / whole, row.get("seconds")) for row in rows] if whole else [])
    record = str(mark.get("record") or "")
    result = _record(record, since=started)
    age = now - max(changed or 0, started)
    state = FINISHED if result else _state(mark, age, [row.get("seconds") for row in rows], bool(rows))
    seconds = result.seconds if result else (now if state == RUNNING else now - age) - started
    return Job(str(folder), str(mark.get("task", "?")), state, record, _process(mark), started, axis,
               1.0 if result else done, _left(eta, age, state), seconds, _cost(mark, seconds), age, now - age,
               rows, result)


def _pretraining(folder, mark, now):
    rows, changed = _rows(folder / "stats.txt", "step")
    if changed is None:
        raise FileNotFoundError(folder / "stats.txt")
    whole = _number(mark.get("steps"))
    points = [((row["step"] + 1) / whole if whole else None, row.get("time")) for row in rows]
    age = now - changed
    backbones = [path for path in folder.glob("*.pth") if not path.name.startswith("checkpoint")]
    exported = any(path.stat().st_mtime >= changed for path in backbones)
    state = FINISHED if exported else _state(mark, age, [when for _, when in points], True)
    # The clock of stats.txt begins anew with each start.
    times = [when for _, when in points if when is not None]
    seconds = sum(a for a, b in zip(times, [*times[1:], -1]) if b < a) + (age if state == RUNNING else 0)
    done = points[-1][0] if points else None
    eta = _left(_eta(points) if whole else None, age, state)
    started = os.stat(folder / "run.json").st_mtime if mark else 0.0
    return Job(str(folder), "pretraining", state, "", _process(mark), started, "step",
               1.0 if exported else done, eta, seconds, _cost(mark, seconds), age, changed, rows)


def plan(path: Path, jobs: Sequence[Job], now: float) -> tuple[str, list[Place]]:
    """Return (name of the backbone, the runs) of a suite's plan, in its order."""
    content = _object(path)
    by_record = {job.record: job for job in jobs if job.record}
    alive, since, places = lives(content.get("process")), _number(content.get("since")) or 0, []
    tasks = content["tasks"] if isinstance(content.get("tasks"), dict) else {}
    for task, row in tasks.items():
        row = row if isinstance(row, dict) else {}
        listed = row["places"] if isinstance(row.get("places"), list) else []
        problem = str(row.get("problem") or "")
        records = [os.path.join(str(content.get("results")), str(place)) for place in listed]
        results = [_record(record, since) for record in records]
        # `seconds` are of what was to run when the plan was written.
        to_go, planned = _number(row.get("seconds")), len(listed) - (_number(row.get("stored")) or 0)
        each = to_go / planned if to_go and planned > 0 else None
        for record, result in zip(records, results):
            job, seed = by_record.get(record), Path(record).stem.rpartition("-s")[2]
            if result:
                places.append(Place(task, seed, FINISHED, result.seconds, result=result))
            elif job and job.state in (RUNNING, QUIET) and not problem:
                places.append(Place(task, seed, job.state, job.seconds, job=job))
            else:
                state = STOPPED if problem or alive is False else WAITING
                places.append(Place(task, seed, state, each, problem))
        if not records:
            places.append(Place(task, "", STOPPED, None, problem))
    return str(content.get("backbone", "?")), places


def _state(mark, age, times, speaks):
    """The state of a run that has no result. speaks: whether it has written a line; before that only its
    process tells."""
    alive = lives(mark.get("process"))
    if alive is False or alive is None and age > LOST:
        return STOPPED
    known = [when for when in times if when is not None]
    pause = max([b - a for a, b in zip(known, known[1:])], default=0.0)
    return QUIET if (speaks or alive is None) and age > max(PATIENCE, 3 * pause) else RUNNING


def _eta(points):
    """Seconds that were left at the last of [(share that is done, seconds since this start or None)]."""
    kept = []
    for share, when in reversed(points):
        if when is not None:
            if len(kept) == SPAN or kept and (when >= kept[-1][1] or share >= kept[-1][0]):
                break
            kept.append((share, when))
    if len(kept) < 2:
        return None
    (share, when), (earlier, before) = kept[0], kept[-1]
    return max(0.0, 1 - share) * (when - before) / (share - earlier)


def _left(eta, age, state):
    return max(0.0, eta - age) if eta is not None and state == RUNNING else None


def _process(mark):
    """What a mark says of the process, as far as that is plain; {} for nothing."""
    said = mark.get("process")
    return {name: value for name, value in said.items() if type(value) in (str, int)} \
        if isinstance(said, dict) else {}


def _cost(mark, seconds):
    return seconds * (_number(mark.get("processes")) or 1) / 3600


def _rows(path, axis):
    """(rows with a whole number on the axis, time of the last change), ((), None) without the file."""
    try:
        lines, changed = read_tail(path), os.stat(path).st_mtime
    except (ValueError, OSError):
        return (), None
    return tuple(row for row in _numbers(lines) if type(row.get(axis)) is int and row[axis] >= 0), changed


def _numbers(lines: Iterable[str]) -> Iterator[dict[str, float | None]]:
    """Yield each line that is a JSON object, with what in it is a finite number; NaN is None."""
    for line in lines:
        try:
            row = json.loads(line, parse_constant=lambda name: None) if line.startswith("{") else None
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield {name: value for name, value in row.items() if value is None or _number(value) is not None}


def _number(value: Any) -> Any:
    """value if it is a finite number of a sensible size, else None."""
    fits = type(value) in (int, float) and -1e15 < value < 1e15 and math.isfinite(value)
    return value if fits else None


def _object(path) -> dict:
    """The JSON object in a small file; {} for anything else."""
    try:
        content = json.loads(read_small_text(path, MEGABYTE))
    except (ValueError, OSError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _record(path: str, since: float = 0) -> Result | None:
    """The record in a file that is not older than `since`; None without a good one."""
    try:
        return from_json(read_small_text(path)) if path and os.stat(path).st_mtime >= since else None
    except (ValueError, OSError):
        return None


def state(roots: Iterable[Path]) -> tuple[list[Job], list[tuple[str, list[Place]]]]:
    """Return (runs, those that work first, then the newest; (backbone, what its suite has planned) each)."""
    now, jobs = time.time(), []
    folders, plans = find(roots)
    for folder in folders:
        try:
            jobs.append(read(folder, now))
        except OSError:  # it went meanwhile
            continue
    # A process that went on to its next run has failed in this one.
    newest = {frozenset(job.process.items()): job.started
              for job in sorted(jobs, key=lambda job: job.started)}
    jobs = [replace(job, state=STOPPED, eta=None) if job.process and job.state in (RUNNING, QUIET)
            and job.started < newest[frozenset(job.process.items())] else job for job in jobs]
    jobs.sort(key=lambda job: (0, 0, job.folder) if job.state in (RUNNING, QUIET) else (1, -job.changed, ""))
    return jobs, [suite for suite in (plan(path, jobs, now) for path in plans) if suite[1]]
