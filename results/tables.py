"""The tables, declared in one place: published rows in the paper's order, then ours. Knows no file format.

A paper's table takes only records of the paper's protocol; what was scaled goes to the rehearsal table.
A cell is the mean over seeds of one task version, one weights file, one config and one data set; mixing is an
error. To add a table, add one `Table(...)` to TABLES, and its figures to published.json if not there yet.
"""

import json
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

PUBLISHED = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    header, group (several columns may share one): text in which `_` and `^` set the word after them low and
    high. task, metric: what its cells hold. align: "l", "r" or, for long text, a LaTeX width, "p{30mm}".
    """

    header: str
    task: str = ""
    metric: str = ""
    group: str = ""
    align: str = "r"


@dataclass(frozen=True)
class Table:
    """A table of a paper. rows: the published tables, "<paper>, <table>", whose rows open it, in order."""

    name: str
    title: str
    paper: str
    rows: tuple
    columns: tuple


@dataclass(frozen=True)
class Cell:
    """A figure in percent. std: sample standard deviation, None for one seed and for published figures.

    n: number of seeds, None where published. origin: "published", "measured" or "scaled". source: where it
    was printed, or the records it is the mean of. mark: "best", "second" or "". note: a remark printed below.
    """

    mean: float
    std: float | None
    n: int | None
    origin: str
    source: str = ""
    mark: str = ""
    note: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table filled in, ready for any format.

    body: sections (published, ours) of rows; a row has an entry a column: text, Cell, or None where missing.
    notes: lines below. facts: (row label, task, metric, Cell) of each figure, for formats that are read by
    programs.
    """

    name: str
    title: str
    columns: tuple
    body: tuple
    notes: tuple
    facts: tuple


def _detection(group, task, prefix="", mark=""):
    names = (("AP", f"AP{mark}" if mark else "AP_all"), ("AP50", f"AP{mark}_50"), ("AP75", f"AP{mark}_75"))
    return tuple(Column(header, task, prefix + metric, group) for metric, header in names)


BARLOW_TWINS = "Barlow Twins (arXiv 2103.03230, ICML 2021)"
VICREG = "VICReg (arXiv 2105.04906, ICLR 2022)"

TABLES = (
    Table("linear", "Linear evaluation on ImageNet: accuracy (%), ResNet-50",
          f"{BARLOW_TWINS}, Table 1", ("Barlow Twins, Table 1",),
          (Column("Top-1", "imagenet_linear", "top1"), Column("Top-5", "imagenet_linear", "top5"))),
    Table("semi", "Semi-supervised learning on ImageNet, 1% and 10% of the labels: accuracy (%), ResNet-50",
          f"{BARLOW_TWINS}, Table 2", ("Barlow Twins, Table 2",),
          (Column("1%", "imagenet_semi1", "top1", "Top-1"),
           Column("10%", "imagenet_semi10", "top1", "Top-1"),
           Column("1%", "imagenet_semi1", "top5", "Top-5"),
           Column("10%", "imagenet_semi10", "top5", "Top-5"))),
    Table("transfer", "Transfer: image classification on fixed features (%), ResNet-50",
          f"{BARLOW_TWINS}, Table 3", ("Barlow Twins, Table 3",),
          (Column("Top-1", "places205_linear", "top1", "Places-205"),
           Column("mAP", "voc07_svm", "mAP", "VOC07"),
           Column("Top-1", "inat18_linear", "top1", "iNat18"))),
    Table("detection", "Transfer: object detection and instance segmentation (%), fine-tuned ResNet-50 C4",
          f"{BARLOW_TWINS}, Table 4", ("Barlow Twins, Table 4",),
          (*_detection("VOC07+12 det", "voc_det"), *_detection("COCO det", "coco_det", "box_", "^bb"),
           *_detection("COCO instance seg", "coco_det", "mask_", "^mk"))),
    Table("knn", "k nearest neighbours on ImageNet: top-1 accuracy (%), ResNet-50",
          f"{VICREG}, Table 11", ("VICReg, Table 11",),
          (Column("20-NN", "imagenet_knn", "top1_k20"), Column("200-NN", "imagenet_knn", "top1_k200"))),
)

REHEARSAL = (Column("Task", align="l"), Column("Backbone", align="p{24mm}"), Column("Data", align="p{30mm}"),
             Column("Scaled: used (paper)", align="p{42mm}"), Column("Seeds"),
             Column("Result", align="p{34mm}"))

_ORDER = list(dict.fromkeys(column.task for table in TABLES for column in table.columns))


def build(results, published=None):
    """Return the sheets of all tables and the rehearsal table. The order of `results` does not matter.

    Raises ValueError where a cell would mix versions, configs or data sets, or count a seed twice.
    """
    published = read_published() if published is None else published
    groups = group_runs(results)
    paper = [runs for runs in groups if runs[0].paper_protocol]
    scaled = [runs for runs in groups if not runs[0].paper_protocol]
    return [*(fill(table, paper, published) for table in TABLES), rehearsal(scaled)]


def group_runs(results):
    """Return lists of the runs that differ in nothing but the seed, in a fixed order, by ascending seed."""
    groups = defaultdict(list)
    for result in results:
        weights = (result.backbone["name"], result.backbone["sha256"])
        groups[_rank(result.task), *weights, result.version, result.config_hash].append(result)
    return [sorted(groups[key], key=lambda result: result.seed) for key in sorted(groups)]


def average(runs, metric):
    """Return the Cell of a metric over runs that differ in nothing but the seed; None where none has it.

    Raises ValueError for anything else: a mean over unlike runs says nothing.
    """
    first = runs[0]
    for what, of in (("tasks", lambda run: run.task), ("task versions", lambda run: run.version),
                     ("weights", lambda run: run.backbone["sha256"]), ("data sets", lambda run: run.data),
                     ("configs", lambda run: run.config), ("scalings", lambda run: run.scaled),
                     ("sets of metrics", lambda run: metric in run.metrics)):
        odd = next((run for run in runs if of(run) != of(first)), None)
        if odd:
            raise ValueError(f"{first.task} {metric}: expected runs that differ by seed, found two {what}: "
                             f"{first.place} and {odd.place}; move one out of the folder of records")
    if len({run.seed for run in runs}) < len(runs):
        raise ValueError(f"{first.task} {metric}: expected each seed once, found one twice beside "
                         f"{first.place}; remove the copy")
    if metric not in first.metrics:
        return None
    values = [run.metrics[metric] for run in runs]
    mean = math.fsum(values) / len(values)
    std = None
    if len(values) > 1:
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    origin = "measured" if first.paper_protocol else "scaled"
    return Cell(mean, std, len(values), origin, " ".join(sorted(run.place for run in runs)))


def fill(table, groups, published):
    """Return the Sheet of a paper's table: published rows, then a row for each backbone that was measured."""
    theirs, competing = _published_rows(table, published)
    ours, older = _measured_rows(table, groups)
    rows = mark_best(theirs + ours, competing + [True] * len(ours))
    notes = []
    if ours:
        notes.append("ours: measured with this suite by the paper's protocol; in brackets the weights' "
                     "sha256; mean ± sample standard deviation over n seeds")
    if older:
        notes.append(f"left out: {older} of our records, of earlier versions of these tasks")
    facts = [(row[0], column.task, column.metric, cell)
             for row in rows for column, cell in zip(table.columns, row[1:]) if cell]
    return Sheet(table.name, f"{table.title}. {table.paper}", (Column("Method", align="l"), *table.columns),
                 (rows[:len(theirs)], rows[len(theirs):]), tuple(notes), tuple(facts))


def mark_best(rows, competing):
    """Return rows with the best and the second best figure of each column marked, by the figure as printed.

    rows: lists of text, Cell or None. competing: a bool a row. Ties share a mark. A column with fewer than
    two competing figures stays unmarked.
    """
    rows = [list(row) for row in rows]
    for column in range(max(map(len, rows), default=0)):
        cells = {index: row[column] for index, row in enumerate(rows)
                 if competing[index] and isinstance(row[column], Cell)}
        printed = sorted({round(cell.mean, 1) for cell in cells.values()}, reverse=True)
        marks = dict(zip(printed, ("best", "second"))) if len(cells) > 1 else {}
        for index, cell in cells.items():
            rows[index][column] = replace(cell, mark=marks.get(round(cell.mean, 1), ""))
    return tuple(map(tuple, rows))


def rehearsal(groups):
    """Return the Sheet of the scaled runs, a row for each task, backbone and config."""
    body, facts = [], []
    for runs in groups:
        first = runs[0]
        cells = {metric: average(runs, metric) for metric in _shown(first)}
        version = f" v{first.version}" if first.version > 1 else ""
        figures = ", ".join(f"{metric} {figure(cell)}" for metric, cell in cells.items())
        body.append((first.task + version, backbone_text(first), _data_text(first.data),
                     _scaled_text(first.scaled), str(len(runs)), figures))
        facts += [(backbone_text(first), first.task, metric, cell) for metric, cell in cells.items()]
    notes = ("scaled runs show that the pipeline works and compare with each other only, never with the "
             "paper's figures; percent, mean ± sample standard deviation over seeds",)
    return Sheet("rehearsal", "Rehearsals: runs that depart from the paper's protocol", REHEARSAL,
                 (tuple(body),), notes, tuple(facts))


def figure(cell):
    """Return a cell as it is printed: one decimal, ± the spread over seeds where there are several."""
    return f"{cell.mean:.1f}" if cell.std is None else f"{cell.mean:.1f} ± {cell.std:.1f}"


def backbone_text(result):
    """Return how tables name a backbone: its name and the first digits of its weights' sha256."""
    return f"{result.backbone['name']} [{result.backbone['sha256'][:8]}]"


def read_published(path=PUBLISHED):
    """Return the published figures, one dict each, in the papers' order. Raises ValueError for a bad one."""
    entries = json.loads(Path(path).read_text(encoding="utf-8"))
    seen = set()
    for entry in entries:
        value = entry["value"]
        if entry["id"] in seen or not (value is None or 0 <= value <= 100):
            raise ValueError(f"{path}: {entry['id']}: expected one entry, percent or null, found {value!r}")
        seen.add(entry["id"])
    return entries


def _published_rows(table, published):
    """Return (rows, whether each competes for the marks) of the published part, in the paper's order."""
    found = {}
    for place in table.rows:
        for entry in published:
            if f"{entry['paper']}, {entry['table']}" == place:
                found.setdefault((place, entry["row"]), {})[entry["task"], entry["metric"]] = entry
    rows = []
    for (_, label), entries in found.items():
        wanted = [entries.get((column.task, column.metric)) for column in table.columns]
        rows.append([label, *(_published_cell(entry) for entry in wanted)])
    return rows, [all(entry["competes"] for entry in entries.values()) for entries in found.values()]


def _published_cell(entry):
    if entry is None or entry["value"] is None:
        return None
    return Cell(entry["value"], None, None, "published", entry["source"], note=entry["note"])


def _measured_rows(table, groups):
    """Return (rows, number of records left out) of the measured part, a row for each backbone.

    Of each task only the newest version in the store counts: figures of different versions do not compare.
    """
    tasks = {column.task for column in table.columns}
    groups = [runs for runs in groups if runs[0].task in tasks]
    newest = {}
    for runs in groups:
        newest[runs[0].task] = max(runs[0].version, newest.get(runs[0].task, 0))
    backbones = defaultdict(lambda: defaultdict(list))
    older = 0
    for runs in groups:
        first = runs[0]
        if first.version < newest[first.task]:
            older += len(runs)
        else:
            backbones[first.backbone["name"], first.backbone["sha256"]][first.task] += runs
    rows = []
    for key in sorted(backbones):
        runs = backbones[key]
        cells = [average(runs[column.task], column.metric) if column.task in runs else None
                 for column in table.columns]
        counts = sorted({cell.n for cell in cells if cell})
        if counts:
            seeds = " to ".join(map(str, sorted({counts[0], counts[-1]})))
            label = backbone_text(next(iter(runs.values()))[0])
            rows.append([f"ours: {label}, n = {seeds}", *cells])
    return rows, older


def _rank(task):
    """Return a sort key that puts tasks in the order of the tables' columns, unknown ones last by name."""
    return (_ORDER.index(task), "") if task in _ORDER else (len(_ORDER), task)


def _shown(result):
    """Return the metrics of a record that the tables show; its first six where its task is in no table."""
    wanted = dict.fromkeys(column.metric for table in TABLES for column in table.columns
                           if column.task == result.task and column.metric in result.metrics)
    return list(wanted) or list(result.metrics)[:6]


def _data_text(data):
    return f"{data['name']}: {', '.join(f'{split} {count}' for split, count in data['counts'].items())}"


def _scaled_text(scaled):
    """Return e.g. "epochs 1 (100), batch_size 32 (256)"; sizes of the data have a column of their own."""
    changes = [f"{key} {_short(used)} ({_short(paper)})" for key, (paper, used) in scaled.items()
               if not key.startswith("data.")]
    return ", ".join(changes) or "data only"


def _short(value):
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 24 else text[:21] + "..."
