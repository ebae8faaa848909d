"""The page of the pretraining methods: what each is compared with, what was run here, what was published.

A row of METHODS belongs to a method of pretrain, which results do not import; a test compares the names.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from parallel.places import HOME
from parallel.reading import read_small_text
from results.catalogue import Column
from results.cells import Cell, Sheet
from results.pretraining import STATS
from results.published import read_published

ROOT = HOME / "results"
DEFAULT = "barlow_twins"  # of --method
COLUMNS = (Column("Method", align="l"), Column("Paper", align="l"),
           Column("Objective tested against", align="p{40mm}"), Column("Runs here", align="p{30mm}"),
           Column("Top-1", "imagenet_linear", "top1", "Published, linear"),
           Column("Epochs", group="Published, linear"), Column("On several processes", align="p{45mm}"))


class Row(NamedTuple):
    """name: of --method. compared: what the tests compare its objective with. exact: what it needs to be the
    same on any number of processes."""

    name: str
    title: str
    paper: str
    compared: str
    exact: str


DECORRELATION = "values by hand; the plain D x D form; finite differences"
METHODS = (
    Row("barlow_twins", "Barlow Twins", "arXiv 2103.03230", DECORRELATION,
        "mean, variance and C of all rows; joint batch norm"),
    Row("vicreg", "VICReg", "arXiv 2105.04906", "its code restated; lightly",
        "variance and covariance of all rows; joint batch norm"),
    Row("hsic", "HSIC", "arXiv 2104.13712", DECORRELATION,
        "as Barlow Twins"),
    Row("simsiam", "SimSiam", "arXiv 2011.10566", "the paper's formula row by row; lightly",
        "a mean over images; joint batch norm"),
    Row("byol", "BYOL", "arXiv 2006.07733", "the paper's formula row by row",
        "a mean over images; joint batch norm; the average's rate by the global step"),
    Row("simclr", "SimCLR", "arXiv 2002.05709", "the paper's formula row by row; lightly",
        "all rows as negatives; joint batch norm"),
    Row("supcon", "SupCon", "arXiv 2004.11362", "the paper's formula row by row",
        "all rows and their labels; joint batch norm"),
    Row("mixed_barlow_twins", "Mixed Barlow Twins", "arXiv 2312.02151", "its code restated, D x D matrices",
        "as Barlow Twins, for three passes; one permutation of the joint batch"),
    Row("moco", "MoCo v2", "arXiv 2003.04297", "its code on 8 processes restated, three steps",
        "batch norm in fixed groups of 32, not joint; shuffle and queue of the joint batch"),
    Row("swav", "SwAV", "arXiv 2006.09882", "its code restated, seven steps; lightly",
        "assignments and queue of all rows; joint batch norm; freezing by the global step"),
    Row("supervised", "Supervised", "torchvision's recipe", "torchvision's network, torch's cross-entropy",
        "a mean over images; joint batch norm"),
    Row("amcl_simclr", "AMCL on SimCLR", "arXiv 2310.05615", "the paper's formula pair by pair",
        "all rows as negatives; joint batch norm"),
    Row("amcl_barlow_twins", "AMCL on Barlow Twins", "arXiv 2310.05615", "the paper's formula pair by pair",
        "all rows in the batch's order; the temperatures' network by all alike; joint batch norm"),
)
VARIANTS = ("barlow_twins_ablated", "vicreg_ablated", "simsiam_regularised", "byol_regularised")


def sheet(published: Sequence[dict] | None = None, runs: Mapping[str, Iterable[str]] | None = None) -> Sheet:
    """Return the page. published: as read_published returns it. runs: {name of a method: places}."""
    runs = done() if runs is None else runs
    linked = {preset: entry for entry in (read_published() if published is None else published)
              for preset in entry.get("presets", ())}
    body, facts = [], []
    for row in METHODS:
        entry = linked.get(f"{row.name}/code")
        cell = _cell(entry) if entry else None
        epochs = str(cell.epochs) if cell and cell.epochs else None
        places = ", ".join(runs.get(row.name, ())) or None
        body.append((row.title, row.paper, row.compared, places, cell, epochs, row.exact))
        facts += [(row.title, entry["task"], "top1", cell)] if entry else []
    notes = ("runs here: folders of results; each run's stats.txt begins with its command",
             "published: the figure that belongs to the preset `code`, on ImageNet unless remarked otherwise",
             f"only for ablations: {', '.join(VARIANTS)}")
    return Sheet("methods", "Methods of pretraining", COLUMNS, (tuple(body),), notes, tuple(facts))


def done(root: Path = ROOT) -> dict[str, list[str]]:
    """Return {name of a method: folders of pretraining runs in results}, an ablation's but once."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for stats in sorted([*root.glob("pretraining/*/stats.txt"), *root.glob("ablations/*/*/stats.txt")]):
        command, _, _ = read_small_text(stats, STATS).partition("\n")
        method = re.search(r"--method[ =](\S+)", command)
        found[method[1] if method else DEFAULT]["/".join(stats.relative_to(root).parts[:2])] = None
    return {name: list(places) for name, places in found.items()}


def _cell(entry):
    data = entry["task"].removesuffix("_linear")
    remarks = ([] if data == "imagenet" else [f"on {data}"]) + ([entry["note"]] if entry["note"] else [])
    return Cell(entry["value"], None, None, "published", entry["source"], note="; ".join(remarks),
                epochs=entry["epochs"])
