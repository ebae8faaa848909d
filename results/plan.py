"""What a suite of runs would do: which records exist, and how long the others may take."""

import statistics
from collections.abc import Iterable

from results import assembly, render
from results.record import Result


def estimate(draft: Result, records: Iterable[Result]) -> tuple[float | None, int]:
    """Return (seconds of a run, the median of earlier ones; number of those), (None, 0) without any.

    Only records of the same task, version, architecture, configuration, number of images and devices count: a
    rehearsal says nothing about a run of the paper's protocol.
    """
    def kind(run):
        device = run.device.get("type"), run.device.get("count")
        return run.task, run.version, run.arch, run.config, run.data["counts"], device

    seconds = [run.seconds for run in records if kind(run) == kind(draft)]
    return (statistics.median(seconds), len(seconds)) if seconds else (None, 0)


def line(drafts: list[Result], records: list[Result], rerun: bool) -> tuple[str, float | None]:
    """Return (text, seconds to go or None) for one task: drafts of its seeds against the stored records.

    rerun: whether stored ones are run again. seconds is 0 where nothing is to be run and None where no
    earlier record tells.
    """
    stored = set() if rerun else {record.place for record in records}
    missing = [draft for draft in drafts if draft.place not in stored]
    if not missing:
        return f"{len(drafts)} stored", 0.0
    text = f"{len(drafts) - len(missing)} stored, {len(missing)} to run"
    seconds, count = estimate(missing[0], records)
    if seconds is None:
        return f"{text}, time -", None
    seconds *= len(missing)
    return f"{text}, about {duration(seconds)} (from {count} earlier)", seconds


def total(seconds: list[float | None]) -> str:
    """Return a line on the seconds of the tasks that can run; None among them: one of unknown duration."""
    if not seconds:
        return "nothing can run"
    unknown = seconds.count(None)
    if unknown and unknown == len(seconds):
        return f"no earlier run shows how long; tasks: {unknown}"
    text = f"in all about {duration(sum(filter(None, seconds)))}"
    return f"{text}; tasks of unknown time: {unknown}" if unknown else text


def closing(records: list[Result], sha256: str, command: str) -> str:
    """Return the tables that hold a figure of one backbone, as text for a terminal, and the command that
    writes them."""
    sheets = [sheet for sheet in assembly.build(records)
              if any(run.backbone["sha256"] == sha256 for *_, cell in sheet.facts for run in cell.runs)]
    return "\n" + "\n".join(map(render.plain, sheets)) + f"{command} writes the tables"


def duration(seconds: float) -> str:
    """Return e.g. "45 s", "12 min" or "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
