"""What this suite's own runs show: a table of each study in docs/evidence.md, a row for each backbone.

A study is a choice among the stored records, which are scaled: by task and data set. Random weights come
first. What every row of a column departs from stands below the table.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from parallel.attachments import parse_attachments
from results import store, verdicts
from results.assembly import average, group_runs
from results.catalogue import Column
from results.cells import Sheet, backbone_text, changes, data_text
from results.pretraining import Pretraining
from results.record import Result

Row = dict[str, list[Result]]  # of a backbone: {task: its seeds}


@dataclass(frozen=True)
class Study:
    """columns: what its table shows, of records of that data set (as a record names it; () for any).

    compared: metrics whose difference from random weights has columns of its own.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    data: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


STUDIES = (
    Study("evidence_cifar10", "CIFAR-10 after short pretraining: top-1 accuracy (%)", (
        Column("200-NN", "cifar10_knn", "top1"), Column("online", "cifar10_online", "top1", "linear"),
        Column("offline", "cifar10_linear", "top1", "linear"),
        Column("1%", "cifar10_semi1", "top1", "labels"), Column("10%", "cifar10_semi10", "top1", "labels"))),
    Study("evidence_bccd", "Detection of blood cells (BCCD) after short pretraining (%)", (
        Column("AP", "voc_det", "AP"), Column("AP_50", "voc_det", "AP50"),
        Column("AP_75", "voc_det", "AP75")),
        data=("bccd_train, bccd_test", "bccd_trainval, bccd_test"), compared=("AP", "AP50")),
)


def sheets(results: Iterable[Result], runs: Sequence[Pretraining], ranks: dict[str, float]) -> list[Sheet]:
    """Return the Sheet of each study. runs: of pretraining, named as the backbones that they made. ranks:
    {place of a record: effective rank of the features}."""
    groups = group_runs(results)
    return [sheet(study, groups, {run.name: run for run in runs}, ranks) for study in STUDIES]


def ranks(results: Iterable[Result], root: Path) -> tuple[dict[str, float], list[str]]:
    """Return ({place: effective rank} of the studies' records in a folder, a line for each damaged file)."""
    tasks = {column.task for study in STUDIES for column in study.columns}
    found, problems = {}, []
    for result in results:
        if result.task in tasks:
            contents, damaged = store.read_kept(result, root)
            features = {name: text for name, text in contents.items() if name == "features.json"}
            attached, torn = parse_attachments(features, store.files_of(result, root))
            problems += damaged + torn
            if attached.features:
                found[result.place] = attached.features["effective_rank"]
    return found, problems


def sheet(study: Study, groups: list[list[Result]], runs: dict[str, Pretraining],
          ranks: dict[str, float]) -> Sheet:
    """Return the Sheet of a study. Raises ValueError where a backbone has runs of a task by two configs."""
    tasks = {column.task for column in study.columns}
    chosen: dict[tuple[str, str], Row] = defaultdict(dict)
    for group in groups:
        first = group[0]
        if first.task in tasks and (not study.data or first.data["name"] in study.data):
            row = chosen[first.backbone["name"], backbone_text(first)]
            if first.task in row:
                raise ValueError(f"{study.name}: expected one config of {first.task} for "
                                 f"{backbone_text(first)}, found {row[first.task][0].place} and "
                                 f"{first.place}; keep one")
            row[first.task] = group
    order = sorted(chosen, key=lambda key: (not is_random(chosen[key]), key))
    base = next((chosen[key] for key in order if is_random(chosen[key])), None)
    ranked = {key: rank_of(study, chosen[key], ranks) for key in order}
    columns = [Column("Backbone", align="p{40mm}"), Column("epochs"), *study.columns,
               *([Column("rank")] if any(ranked.values()) else []),
               *(Column(f"{metric} less random", align="p{30mm}") for metric in study.compared)]
    body, facts = [], []
    for key in order:
        row, (name, label) = chosen[key], key
        cells = [average(row[column.task], column.metric) if column.task in row else None
                 for column in study.columns]
        compared = [difference(row, base, metric) if base and row is not base else None
                    for metric in study.compared]
        body.append((label, epochs_of(runs.get(name)), *cells,
                     *([ranked[key]] if any(ranked.values()) else []), *compared))
        facts += [(label, column.task, column.metric, cell)
                  for column, cell in zip(study.columns, cells) if cell]
    return Sheet(study.name, study.title, tuple(columns), (tuple(body),),
                 (*notes_of(study, chosen.values()), *study.notes), tuple(facts))


def is_random(row: Row) -> bool:
    return next(iter(row.values()))[0].backbone["format"] == "random"


def rank_of(study: Study, row: Row, ranks: dict[str, float]) -> str | None:
    """Return the effective rank that the first of the study's tasks left, of the first seed."""
    places = [row[column.task][0].place for column in study.columns if column.task in row]
    return next((f"{ranks[place]:.0f}" for place in places if place in ranks), None)


def epochs_of(run: Pretraining | None) -> str | None:
    """Return how many epochs a pretraining took, None where it is not known."""
    return str(max(row["epoch"] for row in run.rows) + 1) if run and run.rows else None


def difference(row: Row, base: Row, metric: str) -> str | None:
    """Return a mean less that of random weights, with its 95 % interval, as text."""
    ours, theirs = ([run.metrics[metric] for group in one.values() for run in group if metric in run.metrics]
                    for one in (row, base))
    if not ours or not theirs:
        return None
    between = verdicts.welch(ours, theirs)
    mean = verdicts.mean_std(ours)[0] - verdicts.mean_std(theirs)[0]
    return f"{mean:+.1f}" + (f" ({between[0]:+.1f} to {between[1]:+.1f})" if between else "")


def notes_of(study: Study, rows: Iterable[Row]) -> list[str]:
    """Return a line for each task: its data, and where it departs from the published protocol."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    seeds: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        for task, group in row.items():
            first = group[0]
            settings = ", ".join(changes(first)) or "settings of its protocol"
            found[task][f"{data_text(first.data)}; {settings}"] = None
            seeds[task].add(len(group))
    notes = [f"{task}: {' | '.join(texts)}; seeds: {' or '.join(map(str, sorted(seeds[task])))}"
             for task, texts in found.items()]
    if notes:
        notes.append("epochs: of pretraining; rank: effective rank of the frozen features of training "
                     "pictures; mean ± sample standard deviation over seeds")
    if study.compared and notes:
        notes.append("less random: difference of the means, with its 95 % interval by Welch's t test")
    return notes
