"""Two backbones, pair by pair: the same task, configuration, data and seed.

    python results/compare.py bt vicreg                      # names, or first digits of the weights' sha256
    python results/compare.py bt vicreg --difference 0.3     # how many seeds would show 0.3 points
    python results/compare.py bt vicreg --json               # the rows as a JSON list
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import tabulate

from parallel.places import RUNS
from parallel.process import one_line
from results import store, verdicts
from results.catalogue import SPREADS
from results.cells import backbone_text
from results.record import Result

HEADERS = ("Task", "Metric", "Protocol", "Pairs", "A", "B", "A - B", "95% interval", "Seeds needed")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, compare, print. Returns the exit status; 1 where records had to be left out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("a", metavar="A", help="a backbone's name or the first digits of its sha256")
    parser.add_argument("b", metavar="B", help="the other one")
    parser.add_argument("--difference", type=float, default=0.5, metavar="X",
                        help="points that 'seeds needed' should show (default: 0.5)")
    parser.add_argument("--json", action="store_true", help="print the rows as a JSON list")
    parser.add_argument("--runs", type=Path, default=RUNS, help="records (default: results/runs)")
    arguments = parser.parse_args(argv)
    try:
        if not 0 < arguments.difference <= 100:
            raise ValueError(f"--difference: expected 0 to 100 points, found {arguments.difference}")
        results, problems = store.load(arguments.runs)
        for problem in problems:
            print(f"left out: {problem}", file=sys.stderr)
        a, b = (choose(results, text) for text in (arguments.a, arguments.b))
        text = report(a, b, arguments.difference)
        if arguments.json:
            text = json.dumps(as_json(a, b), indent=1)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    print(text)
    return 1 if problems else 0


def choose(results: list[Result], text: str) -> list[Result]:
    """Return the records of one backbone. Raises ValueError where a text fits none, or several.

    Weights that are stored under two names are two backbones: their runs may be the same ones.
    """
    fitting = ([run for run in results if text in (run.backbone["name"], backbone_text(run))]
               or [run for run in results if run.backbone["sha256"].startswith(text)])
    names = sorted({backbone_text(run) for run in fitting})
    if len({(run.backbone["name"], run.backbone["sha256"]) for run in fitting}) != 1:
        known = names or sorted({backbone_text(run) for run in results})
        raise ValueError(f"{text!r}: expected one backbone, found {len(names)}; " + (
            f"name one of {', '.join(known)}" if known else "there are no records, check --runs"))
    return fitting


def report(a: list[Result], b: list[Result], difference: float) -> str:
    """Return the comparison of two backbones' records. Raises ValueError where no two runs pair up."""
    if a[0].backbone["sha256"] == b[0].backbone["sha256"]:
        names = " and ".join(dict.fromkeys(backbone_text(runs[0]) for runs in (a, b)))
        raise ValueError(f"expected two backbones, found the same weights twice ({names}); name another")
    rows = []
    means: dict[bool, dict] = {True: defaultdict(list), False: defaultdict(list)}  # by protocol, then by task
    for (task, _, metric), pairs in paired(a, b).items():
        values = [(x.metrics[metric], y.metrics[metric]) for x, y in pairs]
        mean, std = verdicts.mean_std([x - y for x, y in values])
        paper = pairs[0][0].paper_protocol
        means[paper][task].append(mean)
        rows.append((task, metric, "paper" if paper else "scaled", len(values),
                     *(f"{verdicts.mean_std(side)[0]:.2f}" for side in zip(*values)), f"{mean:+.2f}",
                     between(verdicts.interval(mean, std, len(values))),
                     needed(difference, std, SPREADS.get((task, metric)) if paper else None)))
    if not rows:
        raise ValueError(f"{backbone_text(a[0])} and {backbone_text(b[0])}: expected records of the same "
                         "task, configuration, data and seed, found none; run both alike")
    text = (f"A: {backbone_text(a[0])}   B: {backbone_text(b[0])}\n\n"
            f"{tabulate.tabulate(rows, HEADERS, disable_numparse=True)}\n\n"
            f"seeds needed: pairs that show a difference of {difference:g} points in a two-sided paired t\n"
            f"test at {verdicts.ALPHA} with power {verdicts.POWER}, "
            "from the spread of the pairs or, marked ~,\n"
            "from the task's known one\n")
    tasks = [verdicts.mean_std(same)[0] for same in (means[True] or means[False]).values()]
    ahead = sum(mean > 0 for mean in tasks)
    mean, std = verdicts.mean_std(tasks)
    which = f"{len(tasks)} tasks, {'paper' if means[True] else 'scaled'} protocol"
    return text + (f"over {which}: A ahead in {ahead}, mean difference {mean:+.2f}, 95% interval "
                   f"{between(verdicts.interval(mean, std, len(tasks)))} (the tasks as the sample)")


def as_json(a: list[Result], b: list[Result]) -> list[dict]:
    """Return the rows of `report` as JSON values: both sides' figures by seed, and the interval of the mean
    difference, null for a single pair."""
    rows = []
    for (task, config, metric), pairs in paired(a, b).items():
        values = [[x.metrics[metric], y.metrics[metric]] for x, y in pairs]
        mean, std = verdicts.mean_std([x - y for x, y in values])
        rows.append({"task": task, "config": config, "metric": metric,
                     "protocol": "paper" if pairs[0][0].paper_protocol else "scaled",
                     "seeds": [x.seed for x, _ in pairs], "pairs": values, "difference": mean,
                     "interval": verdicts.interval(mean, std, len(pairs))})
    return rows


def paired(a: list[Result], b: list[Result]) -> dict[tuple[str, str, str], list[tuple[Result, Result]]]:
    """Return {(task, config hash, main metric): [(run of a, run of b), ...]}, paired by seed."""
    others = {(run.task, run.config_hash, run.seed): run for run in b}
    pairs = defaultdict(list)
    for run in a:
        other = others.get((run.task, run.config_hash, run.seed))
        metric = next(iter(run.metrics))
        if other and metric in other.metrics:
            pairs[run.task, run.config_hash, metric].append((run, other))
    return dict(sorted(pairs.items()))


def between(interval: tuple[float, float] | None) -> str:
    """Return an interval as text, a dash for None."""
    return "-" if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"


def needed(difference: float, std: float | None, known: float | None) -> str:
    """Return the number of seeds as text, with ~ from the task's known spread over seeds.

    The known spread counts unless the pairs' differences spread more than twice as much as it predicts, since
    a few pairs may agree by luck. If none is known and the pairs do not differ at all, the answer is a dash.
    """
    if known and (std is None or std <= 2 * known * 2 ** 0.5):
        return "~" + needed(difference, known * 2 ** 0.5, None)
    if not std:
        return "-"
    count = verdicts.seeds_needed(difference, std)
    return f"{count}" if count else f"over {verdicts.MOST_SEEDS}"


if __name__ == "__main__":
    sys.exit(main())
