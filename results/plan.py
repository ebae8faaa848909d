"""What a suite of runs would do: which records are there already, and how long the others may take."""

import statistics


def estimate(draft, records):
    """Return (seconds of a run, the median of earlier ones; number of those), (None, 0) without any.

    Only records of the same task, version, configuration and devices count: a rehearsal says nothing about a
    run of the paper's protocol.
    """
    def kind(run):
        return run.task, run.version, run.config, run.device.get("type"), run.device.get("count")

    seconds = [run.seconds for run in records if kind(run) == kind(draft)]
    return (statistics.median(seconds), len(seconds)) if seconds else (None, 0)


def line(drafts, records):
    """Return (text, seconds to go or None) for one task: drafts of its seeds against the stored records.

    seconds is 0 where all are stored and None where no earlier record tells.
    """
    stored = {record.place for record in records}
    missing = [draft for draft in drafts if draft.place not in stored]
    if not missing:
        return f"{len(drafts)} stored", 0.0
    text = f"{len(drafts) - len(missing)} stored, {len(missing)} to run"
    seconds, count = estimate(missing[0], records)
    if count:
        seconds *= len(missing)
        return f"{text}, about {duration(seconds)} (from {count} earlier)", seconds
    return f"{text}, time -", None


def total(seconds):
    """Return a line on the seconds of all tasks; None among them stands for a task of unknown duration."""
    unknown = seconds.count(None)
    text = f"in all about {duration(sum(filter(None, seconds)))}"
    return f"{text}, without {unknown} tasks that no earlier record tells of" if unknown else text


def duration(seconds):
    """Return e.g. "45 s", "12 min" or "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
