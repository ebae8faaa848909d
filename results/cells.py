"""What a filled table is made of: cells, with where they come from, and the sheet that holds them."""

import json
import unicodedata
from dataclasses import dataclass
from itertools import count, product
from string import ascii_lowercase

from results.record import Result

# How a table marks the verdict on a figure.
SIGNS = {"reproduced": "≈", "below": "↓", "above": "↑", "inconclusive": "?"}


@dataclass(frozen=True)
class Cell:
    """A figure in percent. std: sample standard deviation, None for one seed and for published figures.

    n: number of seeds, None where published. origin: "published", "measured" or "scaled". source: where it
    was printed, or the places of the records it is the mean of. mark: "best", "second" or "". note: a remark
    printed below. epochs, settings: of pretraining, of a published figure that says so. runs: the records.
    low, high: 95 % interval of the mean, None for one seed. verdict: on a measured figure, "" without a
    published one; reference: that one's value, row and table.
    """

    mean: float
    std: float | None
    n: int | None
    origin: str
    source: str = ""
    mark: str = ""
    note: str = ""
    epochs: int | None = None
    runs: tuple = ()
    low: float | None = None
    high: float | None = None
    verdict: str = ""
    reference: tuple = ()
    settings: str = ""


@dataclass(frozen=True)
class Noted:
    """A text with a remark that is printed below the table."""

    text: str
    note: str


@dataclass(frozen=True)
class Sheet:
    """A table filled in, ready for any format.

    body: sections (published, ours) of rows; a row has an entry a column: text, Noted, Cell, or None where
    missing. notes: lines below. facts: (row label, task, metric, Cell) of each figure, for formats that are
    read by programs.
    """

    name: str
    title: str
    columns: tuple
    body: tuple
    notes: tuple
    facts: tuple


def figure(cell: Cell) -> str:
    """Return a cell as it is printed: one decimal, ± the spread over seeds where there are several."""
    return f"{cell.mean:.1f}" if cell.std is None else f"{cell.mean:.1f} ± {cell.std:.1f}"


def backbone_text(result: Result) -> str:
    """Return how tables name a backbone: its name, the first digits of its weights' sha256 and, where it is
    no ResNet-50, its architecture."""
    arch = "" if result.arch == "resnet50" else f" {result.arch}"
    return f"{result.backbone['name']} [{result.backbone['sha256'][:8]}]{arch}"


def changes(result: Result) -> list[str]:
    """Return e.g. ["epochs 1 (100)", "batch_size 32 (256)"]: what was scaled, the value used and the paper's.

    Sizes of the data are not among them: tables have a column for those.
    """
    return [f"{key} {_text(used)} ({_text(paper)})" for key, (paper, used) in result.scaled.items()
            if not key.startswith("data.")]


def data_text(data: dict) -> str:
    """Return a record's data as text: name, whether the pixels are copies, number of images."""
    counts = ", ".join(f"{split} {count}" for split, count in data["counts"].items())
    return ", ".join([data["name"], *([data["pixels"]] if "pixels" in data else [])]) + f": {counts}"


def visible(text: str) -> str:
    """Return text with control characters and marks of direction as \\u202e is: none acts on what is around.

    Blanks of other scripts stay.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or unicodedata.category(sign) == "Zs"
                   else sign.encode("unicode_escape", "surrogatepass").decode() for sign in text)


def remarks(sheet: Sheet) -> dict[str, str]:
    """Return {remark: its mark} over the entries of a sheet, in order: a, b, ... z, aa, ab, ..."""
    noted = [entry.note for section in sheet.body for row in section for entry in row
             if isinstance(entry, (Cell, Noted)) and entry.note]
    marks = ("".join(letters) for length in count(1) for letters in product(ascii_lowercase, repeat=length))
    return dict(zip(dict.fromkeys(noted), marks))


def provenance(cell: Cell) -> dict[str, str]:
    """Return {what: one line of text} of what stands behind a measured figure; {} for a published one."""
    if not cell.runs:
        return {}
    first = cell.runs[0]

    def each(of):
        return " ".join(dict.fromkeys(str(of(run)) for run in cell.runs))

    return {"weights": first.backbone["sha256"], "data": f"{first.data['name']} {first.data['fingerprint']}",
            "config": first.config_hash, "scaled": ", ".join(changes(first)),
            "commits": each(lambda run: (run.commit[:12] or "none") + ("+changes" if run.dirty else "")),
            "devices": ", ".join(dict.fromkeys(f"{run.device.get('count', 1)} x {run.device.get('name', '?')}"
                                               for run in cell.runs)),
            "seconds": f"{sum(run.seconds for run in cell.runs):.1f}"}


def _text(value):
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
