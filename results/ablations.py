"""The papers' ablations as pretrain/ablate.py ran them: a table of each, and plots for the report.

results/ablations/<experiment>-<scale>/ has experiment.json (what was declared), <row>/stats.txt of each
pretraining run, and the records of the probe. Ours stand beside the published figures, which belong to
another data set wherever the scale is not the paper's.
"""

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parallel.places import HOME
from parallel.reading import read_small_text
from results import store
from results.catalogue import Column
from results.cells import Cell, Sheet, changes, data_text
from results.pretraining import Pretraining, read_run
from results.published import read_published
from results.record import Result

ROOT = HOME / "results" / "ablations"
KEYS = {"experiment", "scale", "flags", "title", "table", "task", "varied", "log", "notes", "rows"}


@dataclass(frozen=True)
class Row:
    """label, number: as declared. run: of its pretraining. cell: its top-1, None where the run failed.
    published: that row's figure, None where there is none."""

    label: str
    number: float | None
    run: Pretraining
    cell: Cell | None
    published: Cell | None

    def first(self, name: str) -> Cell | None:
        """Return a figure before the first step."""
        epochs, values = self.run.by_epoch(name)
        return self._cell(values[0] if epochs[:1] == [0] else None)

    def last(self, name: str) -> Cell | None:
        """Return a figure at the end of the run."""
        return self._cell((self.run.by_epoch(name)[1] or [None])[-1])

    def _cell(self, value: float | None) -> Cell | None:
        return None if value is None else Cell(value, None, 1, "scaled", f"{self.run.name}/stats.txt")


@dataclass(frozen=True)
class Ablation:
    """An experiment with those of its rows that were run. declared: of experiment.json."""

    name: str
    declared: dict[str, Any]
    rows: tuple[Row, ...]

    def at_start(self) -> float | None:
        """Return the median of the rows' kNN accuracies before their first step."""
        known = [cell.mean for row in self.rows if (cell := row.first("knn"))]
        return statistics.median(known) if known else None


def load(root: str | os.PathLike[str] = ROOT) -> tuple[list[Ablation], list[str]]:
    """Return (ablations, problems) of a folder, by name; a line for each file that cannot be trusted."""
    ablations, problems = [], []
    published = {(f"{one['paper']}, {one['table']}", one["row"], one["metric"]): one
                 for one in read_published()}
    for path in sorted(Path(root).glob("*/experiment.json")):
        try:
            records, damaged = store.load(path.parent / "records")
            problems += damaged
            ablations.append(_read(path, {one.backbone["name"]: one for one in records}, published))
        except (ValueError, OSError) as error:
            problems.append(str(error))
    return ablations, problems


def _read(path, records, published):
    try:
        declared = json.loads(read_small_text(path))
        complete = KEYS <= set(declared)
    except (ValueError, TypeError):
        complete = False
    if not complete:
        raise ValueError(f"{path}: expected a JSON object with {', '.join(sorted(KEYS))}, found another; run "
                         "pretrain/ablate.py again")
    rows = []
    for row in declared["rows"]:
        folder = path.parent / row["name"]
        if (folder / "stats.txt").exists():
            figure = published.get((declared["table"], *(row["published"] or ())))
            rows.append(Row(row["label"], row["number"], read_run(folder), _ours(records.get(row["name"])),
                            _theirs(figure)))
    return Ablation(path.parent.name, declared, tuple(rows))


def _ours(record: Result | None) -> Cell | None:
    if record is None:
        return None
    origin = "measured" if record.paper_protocol else "scaled"
    return Cell(record.metrics["top1"], None, 1, origin, record.place, runs=(record,))


def _theirs(figure):
    if figure is None or figure["value"] is None:
        return None
    return Cell(figure["value"], None, None, "published", figure["source"], epochs=figure["epochs"])


def sheets(ablations: Sequence[Ablation]) -> list[Sheet]:
    """Return the table of each ablation."""
    return [sheet(one) for one in ablations]


def sheet(ablation: Ablation) -> Sheet:
    """Return the Sheet of an ablation: ours, kNN and rank at the end of pretraining, and the published."""
    declared, task = ablation.declared, ablation.declared["task"]
    compared = any(row.published for row in ablation.rows)
    columns = [Column("Pretraining", align="p{52mm}"), Column("Top-1", task, "top1", "ours"),
               Column("kNN, random weights", "pretraining", "knn_at_start", "ours"),
               Column("kNN", "pretraining", "knn", "ours"),
               Column("effective rank", "pretraining", "effective_rank", "ours"),
               *([Column("Top-1", "imagenet_linear", "top1", "published")] if compared else [])]
    body = [(row.label, row.cell, row.first("knn"), row.last("knn"), row.last("effective_rank"),
             *([row.published] if compared else [])) for row in ablation.rows]
    facts = [(row[0], column.task, column.metric, cell) for row in body
             for column, cell in zip(columns[1:], row[1:]) if isinstance(cell, Cell)]
    scale = "" if declared["scale"] == "paper" else f", scaled: {declared['scale']}"
    return Sheet(f"ablation_{ablation.name.replace('-', '_')}", f"{declared['title']}{scale} (%)",
                 tuple(columns), (tuple(body),), _notes(ablation), tuple(facts))


def _notes(ablation):
    declared, notes = ablation.declared, []
    if ablation.rows and (records := [row.cell.runs[0] for row in ablation.rows if row.cell]):
        notes.append(f"Top-1: {declared['task']} on {data_text(records[0].data)}; "
                     f"{', '.join(changes(records[0])) or 'its whole protocol'}")
    if declared["flags"]:
        notes.append(f"of every row: {declared['flags']}")
    missing = len(declared["rows"]) - len(ablation.rows)
    if missing:
        notes.append(f"{missing} of the experiment's {len(declared['rows'])} rows were not run")
    notes.append("kNN: of the online curve, before the first step and after the last; effective rank: of the "
                 "embeddings of the last batch that was logged; one seed")
    if any(row.published for row in ablation.rows):
        notes.append(f"published: {declared['table']}, ResNet-50 on ImageNet")
    return (*notes, *declared["notes"])
