"""The published figures of published.json, as rows of tables. Each cites its paper, table and epochs.

An entry: id, paper, table, row (label as it is shown), method, backbone, task, metric, value (percent, null
where the source prints none), epochs of pretraining (null where not said), competes (whether the row may be
marked best), settings (of pretraining), note (a footnote), source. Some have presets, too: the recipes of
pretrain/main.py that the figure belongs to, "method/preset" each.
"""

import json
from pathlib import Path

from results.catalogue import Table
from results.cells import Cell

PATH = Path(__file__).with_name("published.json")


def read_published(path: Path = PATH) -> list[dict]:
    """Return the published figures, one dict each, in the papers' order. Raises ValueError for a bad one."""
    entries = json.loads(Path(path).read_text(encoding="utf-8"))
    seen = set()
    for entry in entries:
        value = entry["value"]
        if entry["id"] in seen or not (value is None or 0 <= value <= 100):
            raise ValueError(f"{path}: {entry['id']}: expected one entry, percent or null, found {value!r}")
        seen.add(entry["id"])
    return entries


def published_rows(table: Table, entries: list[dict]) -> tuple[list[list], list[bool]]:
    """Return (rows, whether each competes for the marks) of a table's published part, as in the paper."""
    found: dict[tuple, dict] = {}
    for place in table.rows:
        for entry in entries:
            if f"{entry['paper']}, {entry['table']}" == place:
                found.setdefault((place, entry["row"]), {})[entry["task"], entry["metric"]] = entry
    rows = [[label, *(_cell(row.get((column.task, column.metric))) for column in table.columns)]
            for (_, label), row in found.items()]
    return rows, [all(entry["competes"] for entry in row.values()) for row in found.values()]


def _cell(entry):
    if entry is None or entry["value"] is None:
        return None
    settings = ", ".join(f"{name} {value}" for name, value in entry["settings"].items())
    return Cell(entry["value"], None, None, "published", entry["source"], note=entry["note"],
                epochs=entry["epochs"], settings=settings)
