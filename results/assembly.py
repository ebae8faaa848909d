"""Tables from records: published rows in the paper's order, then ours. Knows no file format.

A paper's table takes only records of the paper's protocol and of its own architecture; scaled records go to
the rehearsal table. A cell is the mean over seeds of one task version, one weights file, one config and one
data set; mixing is an error.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest

from results import verdicts
from results.catalogue import SPREADS, TABLES, Column, Table
from results.cells import Cell, Noted, Sheet, backbone_text, changes, data_text, figure
from results.protocols import OF_WEIGHTS
from results.published import published_rows, read_published
from results.record import Result

# The row of Barlow Twins, and the other name and the format of weights by which a backbone is known as that.
REFERENCE, SHORT, FORMAT = "Barlow Twins", "bt", "barlowtwins_checkpoint"
USUAL = "imagenet"  # the normalisation that a row does not state
RUNS = (Column("Task", align="l"), Column("Backbone", align="p{24mm}"), Column("Data", align="p{30mm}"),
        Column("Scaled", align="p{30mm}"), Column("Seeds"), Column("Result", align="p{46mm}"))
VERDICTS = (Column("Task", align="l"), Column("Metric", align="l"), Column("Backbone", align="p{24mm}"),
            Column("Seeds"), Column("Ours"), Column("95% interval"), Column("Published", align="p{44mm}"),
            Column("Verdict", align="l"))
KNOWN = "known spreads: " + ", ".join(f"{task} {metric} {std}" for (task, metric), std in SPREADS.items())

# What `transfer` can run; it cannot be asked, since it needs torch. Tasks without a column in any table:
OTHERS = ("voc07_lowshot", "food101_probe", "cifar10_probe", "cifar100_probe", "sun397_probe", "cars_probe",
          "aircraft_probe", "dtd_probe", "pets_probe", "caltech101_probe", "flowers102_probe",
          "voc2007_probe", "cifar10_semi1", "cifar10_semi10", "cifar100_semi1", "cifar100_semi10",
          "folder_linear", "folder_knn", "folder_probe", "folder_semi", "voc07_det", "voc_det_fpn",
          "coco_det_2x")

_ORDER = list(dict.fromkeys(column.task for table in TABLES for column in table.columns))
TASKS = (*_ORDER, *OTHERS)


def build(results: Iterable[Result], published: list[dict] | None = None) -> list[Sheet]:
    """Return the sheets of all tables: the papers', verdicts, runs without a published figure, rehearsals.

    The order of `results` does not matter. Raises ValueError where a cell would mix versions, configs or data
    sets, or count a seed twice.
    """
    published = read_published() if published is None else published
    groups = group_runs(results)
    paper = [runs for runs in groups if runs[0].paper_protocol]
    scaled = [runs for runs in groups if not runs[0].paper_protocol]
    sheets = [fill(table, paper, published) for table in TABLES]
    held = set().union(*(table.cells for table in TABLES))
    others = [runs for runs in paper
              if not any((runs[0].arch, runs[0].task, metric) in held for metric in runs[0].metrics)]
    return [*sheets, verdict_sheet(sheets),
            run_sheet("others", "Measured by this suite's protocols, without a published figure here", others,
                      "percent, mean ± sample standard deviation over seeds"),
            run_sheet("rehearsal", "Rehearsals: runs that depart from the paper's protocol", scaled,
                      "scaled runs show that the pipeline works and compare with each other only, never with "
                      "the paper's figures; percent, mean ± sample standard deviation over seeds")]


def group_runs(results: Iterable[Result]) -> list[list[Result]]:
    """Return lists of the runs that differ in nothing but the seed, in a fixed order, by ascending seed."""
    groups = defaultdict(list)
    for result in results:
        key = (_rank(result.task), result.backbone["name"], result.backbone["sha256"], result.version,
               result.config_hash)
        groups[key].append(result)
    return [sorted(groups[key], key=lambda result: result.seed) for key in sorted(groups)]


def average(runs: list[Result], metric: str) -> Cell | None:
    """Return the Cell of a metric over runs that differ in nothing but the seed; None where none has it.

    Raises ValueError for anything else: a mean over unlike runs says nothing.
    """
    first = runs[0]
    alike = [("tasks", lambda run: run.task), ("weights", lambda run: run.backbone["sha256"]),
             ("scalings", lambda run: run.scaled), ("sets of metrics", lambda run: metric in run.metrics)]
    if any(run.config_hash != first.config_hash for run in runs):  # of all three; comparing them takes longer
        alike[1:1] = [("task versions", lambda run: run.version), ("data sets", lambda run: run.data),
                      ("configs", lambda run: run.config)]
    for what, of in alike:
        odd = next((run for run in runs[1:] if of(run) != of(first)), None)
        if odd:
            raise ValueError(f"{first.task} {metric}: expected runs that differ by seed, found two {what}: "
                             f"{first.place} and {odd.place}; move one out of the folder of records")
    if len({run.seed for run in runs}) < len(runs):
        raise ValueError(f"{first.task} {metric}: expected each seed once, found one twice beside "
                         f"{first.place}; remove the copy")
    if metric not in first.metrics:
        return None
    mean, std = verdicts.mean_std([run.metrics[metric] for run in runs])
    low, high = verdicts.interval(mean, std, len(runs)) or (None, None)
    return Cell(mean, std, len(runs), "measured" if first.paper_protocol else "scaled",
                " ".join(sorted(run.place for run in runs)), runs=tuple(runs), low=low, high=high)


def fill(table: Table, groups: list[list[Result]], published: list[dict]) -> Sheet:
    """Return the Sheet of a paper's table: published rows, then a row for each backbone that was measured."""
    theirs, competing = published_rows(table, published)
    ours, older = _measured_rows(table, groups, {_key(row[0]): row for row in theirs})
    # A name does not compete that does not in its published row, be it in another table.
    outside = {_key(entry["row"].partition(" (")[0]) for entry in published if not entry["competes"]}
    competing += [_key(_backbone(row)["name"]) not in outside for row in ours]
    rows = mark_best(theirs + ours, competing)
    notes = list(table.notes)
    if ours:
        notes.append("ours: measured with this suite by the paper's protocol; in brackets the weights' "
                     "sha256; mean ± sample standard deviation over n seeds")
    if older:
        notes.append(f"left out: {older} of our records, of earlier versions of these tasks")
    facts = [(row[0], column.task, column.metric, cell)
             for row in rows for column, cell in zip(table.columns, row[1:]) if cell]
    return Sheet(table.name, f"{table.title}. {table.paper}", (Column("Method", align="l"), *table.columns),
                 (rows[:len(theirs)], rows[len(theirs):]), tuple(notes), tuple(facts))


def mark_best(rows: Sequence[Sequence], competing: Sequence[bool]) -> tuple[tuple, ...]:
    """Return rows with the best and the second best figure of each column marked, by the figure as printed.

    rows: lists of text, Cell or None. competing: a bool a row. Ties share a mark. A column with fewer than
    two competing figures stays unmarked.
    """
    marked = [list(row) for row in rows]
    for column in range(max(map(len, rows), default=0)):
        cells = {index: row[column] for index, row in enumerate(rows)
                 if competing[index] and isinstance(row[column], Cell)}
        printed = sorted({round(cell.mean, 1) for cell in cells.values()}, reverse=True)
        marks = dict(zip(printed, ("best", "second"))) if len(cells) > 1 else {}
        for index, cell in cells.items():
            if round(cell.mean, 1) in marks:
                marked[index][column] = replace(cell, mark=marks[round(cell.mean, 1)])
    return tuple(map(tuple, marked))


def verdict_sheet(sheets: Iterable[Sheet]) -> Sheet:
    """Return the Sheet with a row for each measured figure that has a published one.

    Where several tables have it, the first row with the backbone's own name counts, else the first table's.
    """
    facts, own = {}, set()
    for label, task, metric, cell in (fact for sheet in sheets for fact in sheet.facts if fact[3].verdict):
        key = backbone_text(cell.runs[0]), task, metric
        named = _key(cell.reference[1].partition(";")[0]) == _key(cell.runs[0].backbone["name"])
        if key not in facts or named and key not in own:
            facts[key] = replace(cell, mark="") if cell.mark else cell
        if named:
            own.add(key)
    body = [(task, metric, backbone, str(cell.n), figure(cell),
             None if cell.low is None else f"{cell.low:.1f} to {cell.high:.1f}",
             f"{cell.reference[0]:.1f} ({cell.reference[1]})", cell.verdict)
            for (backbone, task, metric), cell in facts.items()]
    return Sheet("verdicts", "Verdicts: our means against the published figures (%)", VERDICTS,
                 (tuple(body),), (verdicts.RULE, KNOWN), tuple((*key, cell) for key, cell in facts.items()))


def run_sheet(name: str, title: str, groups: list[list[Result]], note: str) -> Sheet:
    """Return a Sheet with a row for each task, backbone and config; a long list of changes goes below it."""
    body, facts = [], []
    for runs in groups:
        first = runs[0]
        cells = {metric: cell for metric in _shown(first) if (cell := average(runs, metric))}
        version = f" v{first.version}" if first.version > 1 else ""
        figures = ", ".join(f"{metric} {figure(cell)}" for metric, cell in cells.items())
        body.append((first.task + version, backbone_text(first), data_text(first.data), _changes(first),
                     str(len(runs)), figures))
        facts += [(backbone_text(first), first.task, metric, cell) for metric, cell in cells.items()]
    notes = ("scaled: value used (the paper's)", note) if any(runs[0].scaled for runs in groups) else (note,)
    return Sheet(name, title, RUNS, (tuple(body),), notes, tuple(facts))


def _measured_rows(table, groups, theirs):
    """Return (rows, number of records left out) of the measured part, a row for each backbone.

    theirs: the published rows by the key of their label. Of each task only the newest version in the store
    counts: figures of different versions do not compare.
    """
    held = {(arch, task) for arch, task, _ in table.cells}
    groups = [runs for runs in groups if (runs[0].arch, runs[0].task) in held
              and (not table.ablation or _key(runs[0].backbone["name"]) in theirs)]
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
            own = "".join(f", {key} {first.config[key]}" for key in OF_WEIGHTS
                          if first.config.get(key, USUAL) != USUAL)
            backbones[first.backbone["name"], first.backbone["sha256"], own][first.task] += runs
    rows = []
    for key in sorted(backbones):
        runs = backbones[key]
        label, *published = _compared(next(iter(runs.values()))[0].backbone, theirs)
        cells = [average(runs[column.task], column.metric) if column.task in runs else None
                 for column in table.columns]
        cells = [_judged(cell, column, f"{label}; {table.rows[0]}", other) if cell and other else cell
                 for cell, column, other in zip_longest(cells, table.columns, published)]
        counts = sorted({cell.n for cell in cells if cell})
        if counts:
            seeds = " to ".join(map(str, sorted({counts[0], counts[-1]})))
            label = backbone_text(next(iter(runs.values()))[0])
            rows.append([f"ours: {label}{key[2]}, n = {seeds}", *cells])
    return rows, older


def _backbone(row):
    """Return the backbone of a measured row."""
    return next(cell for cell in row[1:] if cell).runs[0].backbone


def _compared(backbone, theirs):
    """Return the published row that a backbone is judged against, [""] for none: see verdicts.RULE."""
    key = _key(backbone["name"])
    if key not in theirs and (key == SHORT or backbone["format"] == FORMAT):
        key = _key(REFERENCE)
    return theirs.get(key) or [""]


def _judged(cell, column, where, published):
    """Return our cell with the verdict on it against a published cell; where: that one's row and table."""
    known = SPREADS.get((column.task, column.metric))
    verdict = verdicts.verdict(cell.mean, cell.std, cell.n, published.mean, known)
    return replace(cell, verdict=verdict, reference=(published.mean, where))


def _key(name):
    """Return a name without case, blanks and signs: "Barlow Twins" and "barlow-twins" are one."""
    return re.sub(r"\W|_", "", name).casefold()


def _rank(task):
    """Return a sort key that puts tasks in the order of the tables' columns, unknown ones last by name."""
    return (_ORDER.index(task), "") if task in _ORDER else (len(_ORDER), task)


def _shown(result):
    """Return the metrics of a record that the tables show. Where its task is in no table, those are its first
    six, but each mAP with its spread of low-shot VOC07."""
    wanted = dict.fromkeys(column.metric for table in TABLES for column in table.columns
                           if column.task == result.task and column.metric in result.metrics)
    shots = [f"{name}{metric[3:]}" for metric in result.metrics if metric.startswith("std_n")
             for name in ("mAP", "std")]
    return list(wanted) or shots or list(result.metrics)[:6]


def _changes(result):
    """Return what was scaled, or how much and a remark that says what; None where nothing was."""
    settings = changes(result)
    if len(", ".join(settings)) <= 60:
        return ", ".join(settings) or ("data only" if result.scaled else None)
    return Noted(f"{len(settings)} settings", ", ".join(settings))
