"""Early warning: losses and AP of a run beside those of our finished runs at the same iteration.

The bands are data, expected.json: groups of runs that share their settings, each with the source of its
figures and rows {"iteration", "metric", "weights": "trained" or "random", "low", "high"}. Finished runs give
a group by their output folders (several seeds at best; after --random, those of runs from random weights):

    python -m transfer.detection.expected output/voc_det/A output/voc_det/B --random output/voc_det/C \\
        --source "results/runs/voc_det/..., seeds 0 and 1"

A band reaches from the lowest to the highest value found, widened by that width on both sides. The values are
the losses in the log (medians of 20 iterations) of the WINDOW iterations before a check, and the AP of each
run. With random runs, only losses that separate the two kinds are kept; without them, only the total loss.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from parallel.files import write_whole
from parallel.mappings import differences
from transfer.detection import configuration
from transfer.detection.curves import read_metrics

FILE = Path(__file__).with_name("expected.json")
CHECKS = (200, 500, 1000, 2000)  # iterations after which losses are looked at
WINDOW = 100                     # iterations before a check
PRECISIONS = ("bbox/AP", "bbox/AP50", "segm/AP", "segm/AP50")  # Detectron2's names in metrics.json
# How long a run is changes neither its losses nor its AP at an iteration.
WITHOUT_EFFECT = {*configuration.WITHOUT_EFFECT, "SOLVER.MAX_ITER"}


def settings(cfg: CfgNode) -> dict[str, Any]:
    """Return {key: JSON value} of all that decides the losses of a run besides its weights, its seed and the
    images behind the names of its data sets: where a CfgNode differs from Detectron2's defaults."""
    usual = configuration.flat(configuration.defaults())
    return {key: value for key, value in configuration.flat(cfg, WITHOUT_EFFECT).items()
            if value != usual[key]}


def bands_of(cfg: CfgNode, path: Path = FILE) -> tuple[list[dict], str]:
    """Return (rows, source) of the group in expected.json that fits a CfgNode; ([], "") if there is none."""
    own = settings(cfg)
    for group in json.loads(path.read_text()):
        if group["settings"] == own:
            return group["bands"], group["source"]
    return [], ""


def verdict(values: Mapping[str, float], rows: list[dict], weights: str,
            iteration: int) -> tuple[bool, str] | None:
    """Return (inside, line): whether all values lie in their bands, and what was found and expected.

    values: {metric: number} of a run after `iteration` iterations. rows: see bands_of. weights: "trained" or
    "random", what the run began from. None where no band is for this iteration.
    """
    own, other = ({row["metric"]: (row["low"], row["high"]) for row in rows if row["iteration"] == iteration
                   and row["metric"] in values and (row["weights"] == weights) is same}
                  for same in (True, False))
    if not own:
        return None
    outside = [metric for metric, band in own.items() if not _within(values[metric], band)]
    swapped = [metric for metric in outside if metric in other and _within(values[metric], other[metric])]
    told = ", ".join(f"{metric} {values[metric]:.3g} (expected {own[metric][0]:.3g} to {own[metric][1]:.3g})"
                     for metric in outside or own)
    if not outside:
        return True, f"iteration {iteration}: as expected: {told}"
    cause = "; a run whose weights did not arrive looks like this" if swapped and weights == "trained" else ""
    return False, f"iteration {iteration}: not as in earlier runs: {told}{cause}"


def _within(value, band):
    return band[0] <= value <= band[1]


def blind_loss(objects: float, classes: int) -> float:
    """Return the classification loss (nats) of a head that ignores the image and treats all classes alike.

    It knows only `objects`, the share (0-1) of the regions that are objects: the entropy of that guess.
    """
    guesses = ((objects, objects / classes), (1 - objects, 1 - objects))
    return -sum(share * math.log(guess) for share, guess in guesses if share > 0)


def measure(trained: Sequence[Path], random: Sequence[Path], source: str) -> dict[str, Any]:
    """Return the group of expected.json that finished runs give. trained, random: lists of output folders."""
    groups = [settings(_config(folder)) for folder in [*trained, *random]]
    for folder, found in zip([*trained, *random], groups):
        for key, (first, other) in differences(groups[0], found).items():
            raise ValueError(f"{folder}: expected the settings of {trained[0]}, found another {key} "
                             f"({other}, not {first}; None is the default); give runs of one kind")
    rows, of_random = [], _bands(random)
    for (iteration, metric), (low, high) in _bands(trained).items():
        other = of_random.get((iteration, metric))
        apart = other and (other[1] < low or high < other[0])
        if apart or metric in PRECISIONS or not random and metric == "total_loss":
            rows.append(_row(iteration, metric, "trained", low, high))
            rows += [_row(iteration, metric, "random", *other)] if other else []
    if not rows:
        raise ValueError(f"{trained[0]}: expected losses at iteration {CHECKS[0]} or later that random "
                         "weights do not have, found none; give longer runs")
    return {"settings": groups[0], "source": source, "bands": rows}


def _row(iteration, metric, weights, low, high):
    return {"iteration": iteration, "metric": metric, "weights": weights,
            "low": float(f"{low:.4g}"), "high": float(f"{high:.4g}")}


def _config(folder):
    try:
        return CfgNode(yaml.safe_load((folder / "config.yaml").read_text()))
    except (ValueError, AttributeError, AssertionError, yaml.YAMLError) as error:
        raise ValueError(f"{folder / 'config.yaml'}: expected the configuration of a finished run, found a "
                         f"damaged or foreign file ({type(error).__name__}); name another folder") from None


def _bands(folders):
    """Return {(iteration, metric): (low, high)} of what runs logged; two values at least make a band."""
    values = {}
    for folder in folders:
        last = _config(folder).SOLVER.MAX_ITER
        for row in read_metrics(folder / "metrics.json"):
            done = min(row["iteration"] + 1, last)
            checks = [check for check in CHECKS if check - WINDOW < done <= check]
            for metric, value in row.items():
                for check in checks if "loss" in metric else [done] if metric in PRECISIONS else []:
                    values.setdefault((check, metric), []).append(value)
    width = {key: max(found) - min(found) for key, found in values.items()}
    return {key: (max(0.0, min(found) - width[key]), max(found) + width[key])
            for key, found in values.items() if len(found) > 1}


def add(group: dict[str, Any], path: Path) -> None:
    """Write a group into the file of bands, in place of an earlier one of the same settings."""
    groups = [old for old in json.loads(path.read_text()) if old["settings"] != group["settings"]]
    texts = []
    for item in [*groups, group]:
        head = ",\n".join(f'  "{key}": {json.dumps(item[key])}' for key in ("settings", "source"))
        rows = ",\n".join(f"   {json.dumps(row)}" for row in item["bands"])
        texts.append(f' {{\n{head},\n  "bands": [\n{rows}\n  ]\n }}')
    write_whole(path, "[\n" + ",\n".join(texts) + "\n]\n")


def main(argv: list[str] | None = None) -> int:
    """Add the bands of finished runs; one line says what was kept."""
    parser = argparse.ArgumentParser(description="Keep what finished runs logged as expected bands.")
    parser.add_argument("trained", type=Path, nargs="+", help="output folders, trained weights")
    parser.add_argument("--random", type=Path, nargs="+", default=[], help="the same, random weights")
    parser.add_argument("--source", required=True, help="where the runs' records are")
    arguments = parser.parse_args(argv)
    try:
        group = measure(arguments.trained, arguments.random, arguments.source)
        add(group, FILE)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(group['bands'])} bands of {len(arguments.trained) + len(arguments.random)} runs: {FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
