"""Records as a pandas DataFrame, for notebooks and questions that no table asks.

    from results.frame import frame
    table = frame().query("task == 'voc_det' and metric == 'AP'")
    table.groupby("backbone").value.agg(["mean", "std", "count"])
"""

from pathlib import Path
from typing import TYPE_CHECKING

from parallel.places import RUNS
from results import store

if TYPE_CHECKING:
    import pandas

COLUMNS = ("task", "version", "backbone", "arch", "sha256", "seed", "config_hash", "paper_protocol", "data",
           "metric", "value", "seconds", "device", "commit", "dirty", "started")


def frame(root: Path = RUNS) -> "pandas.DataFrame":
    """Return one row for each figure of each record under root; value is percent, started a UTC time.

    Raises ValueError naming the first record that cannot be trusted: an average over the others would not
    show what is missing.
    """
    import pandas  # half a second, which the tables do not need

    results, problems = store.load(root)
    if problems:
        raise ValueError(f"{problems[0]} ({len(problems)} records in all cannot be trusted)")
    rows = [(result.task, result.version, result.backbone["name"], result.arch, result.backbone["sha256"],
             result.seed, result.config_hash, result.paper_protocol, result.data["name"], metric, value,
             result.seconds, result.device["name"], result.commit, result.dirty, result.started)
            for result in results for metric, value in result.metrics.items()]
    table = pandas.DataFrame(rows, columns=list(COLUMNS))
    return table.assign(started=pandas.to_datetime(table.started, utc=True))
