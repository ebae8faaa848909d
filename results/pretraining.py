"""What a pretraining run left for the report: results/pretraining/<name>/{stats.txt,correlation.npz}.

stats.txt is that of the run (pretrain/upkeep/logbook.py): its commands, and one JSON object a line.
correlation.npz, which may be missing, is written at the end of each epoch (pretrain/upkeep/health.py): step,
diagonal, corner and singular_values of the last batch's cross-correlation.
"""

import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from parallel.places import HOME
from parallel.reading import MEGABYTE, read_small, read_small_text

ROOT = HOME / "results" / "pretraining"
STATS = 256 * MEGABYTE  # of a long run that logs each step
ARRAYS = 64 * MEGABYTE  # unpacked


@dataclass(frozen=True)
class Pretraining:
    """One run. commands: in order, one for each start. rows: the dicts of stats.txt, null where a figure was
    not finite. correlation: {name of the array: NumPy array}, {} where the run left none.
    """

    name: str
    commands: tuple
    rows: tuple
    correlation: dict

    def series(self, name: str) -> tuple[list[int], list[float | None]]:
        """Return (steps, values) of a figure, over the rows that have it."""
        rows = [row for row in self.rows if name in row]
        return [row["step"] for row in rows], [row[name] for row in rows]

    def by_epoch(self, name: str) -> tuple[list[int], list[float | None]]:
        """Return (epochs done, values) of a figure, the last one of each epoch."""
        values = {0 if row["step"] == 0 else row["epoch"] + 1: row[name] for row in self.rows if name in row}
        return list(values), list(values.values())


def load(root: str | os.PathLike = ROOT) -> tuple[list[Pretraining], list[str]]:
    """Return (runs, problems) of a folder of runs, by name; a line for each run that cannot be read."""
    runs, problems = [], []
    for stats in sorted(Path(root).glob("*/stats.txt")):
        try:
            runs.append(read_run(stats.parent))
        except (ValueError, OSError) as error:
            problems.append(str(error))
    return runs, problems


def read_run(folder: Path) -> Pretraining:
    """Return the Pretraining in a folder. Raises ValueError, naming the file, where it is damaged."""
    path = folder / "stats.txt"
    commands, rows = [], []
    for number, line in enumerate(read_small_text(path, STATS).splitlines(), start=1):
        if not line.startswith("{"):
            commands += [line] if line.strip() else []
            continue
        try:
            row = json.loads(line, parse_constant=lambda name: None)
        except (ValueError, RecursionError):
            raise ValueError(f"{path}:{number}: expected a JSON object, found a damaged line; "
                             "copy the file of the run again") from None
        if type(row.get("step")) is not int:
            raise ValueError(f"{path}:{number}: expected a line with its step, found none; copy it again")
        odd = [name for name, value in row.items() if type(value) not in (int, float, type(None))]
        if odd:
            raise ValueError(f"{path}:{number}: expected a number for {odd[0]}, found another value; "
                             "copy it again")
        rows.append(row)
    return Pretraining(folder.name, tuple(commands), tuple(rows), _correlation(folder / "correlation.npz"))


def _correlation(path):
    if not path.exists():
        return {}
    import numpy

    try:
        file = io.BytesIO(read_small(path, ARRAYS))
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > ARRAYS:
                raise ValueError
        with numpy.load(file, allow_pickle=False) as file:
            arrays = dict(file)
            corner, diagonal = arrays["corner"], arrays["diagonal"]
            if corner.ndim != 2 or diagonal.ndim != 1 or arrays["singular_values"].ndim != 1:
                raise ValueError
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise ValueError(f"{path}: expected the arrays corner, diagonal and singular_values, found another "
                         "or a damaged file; copy that of the run again") from None
    return arrays
