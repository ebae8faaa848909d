"""All methods with their presets in a table: what each trains, what it costs and what was published of it."""
import json
from pathlib import Path

import torch
from tabulate import tabulate

from parallel.places import ROOT
from pretrain import methods
from pretrain.methods import METHODS
from pretrain.recipe import Recipe
from pretrain.upkeep.forecast import forward_flops

# Read as data: nothing of results is imported. `presets` of an entry names the recipes that it belongs to.
PUBLISHED = ROOT / "results" / "published.json"
HEADERS = ("--method", "--preset", "network", "pixels", "projector", "batch", "epochs", "optimizer",
           "trained", "kept")
LEGEND = ("trained, kept: millions of parameters that the gradient moves, and of numbers in a checkpoint's "
          "`model` (averaged networks and queues, too)\n"
          "forward: GFLOP of all forward passes of one picture, two for a multiplication and its addition\n"
          "linear: published top-1 accuracy (%) by linear evaluation on the preset's data, and its source\n"
          "docs/protocols.md has the presets' numbers and their sources.")


def overview(name: str | None = None) -> str:
    """Return the table of all presets, or of one method's, with the cost of its forward passes (which takes
    seconds)."""
    linear = published()
    rows = []
    for method, kind in METHODS.items():
        for preset in kind.PRESETS if name in (None, method) else ():
            recipe = methods.recipe(preset, method=method)
            stem = "" if recipe.stem == "imagenet" else f", {recipe.stem} stem"
            pixels = "+".join(dict.fromkeys(str(view.size) for view in recipe.view_recipes()))
            cost = (f"{forward_flops(recipe) / 1e9:.2f}",) if name else ()
            rows.append((method, preset, f"{recipe.arch}{stem}", pixels, recipe.projector,
                         recipe.batch_size, recipe.epochs, recipe.optimizer, *sizes(recipe), *cost,
                         linear.get(f"{method}/{preset}", "-")))
    headers = (*HEADERS, *(("forward",) if name else ()), "linear")
    left = ("left",) * 3 + ("right", "left", "right", "right", "left") + ("right",) * (len(headers) - 9)
    table = tabulate(rows, headers, "plain", disable_numparse=True, colalign=(*left, "left"))
    more = "" if name else "\n--list METHOD adds the cost of its forward passes."
    return f"{table}\n\n{LEGEND}{more}"


def sizes(recipe: Recipe) -> tuple[str, str]:
    """Return the numbers that are trained and that are in the state dict, in millions."""
    with torch.device("meta"):
        network = methods.build(recipe)
    trained = sum(one.numel() for one in network.parameters() if one.requires_grad)
    return f"{trained / 1e6:.1f}", f"{sum(one.numel() for one in network.state_dict().values()) / 1e6:.1f}"


def published(path: Path = PUBLISHED) -> dict[str, str]:
    """Return {"method/preset": figure and source} of the published figures that belong to a preset."""
    entries = json.loads(path.read_text(encoding="utf-8"))
    return {preset: f"{entry['value']:g} ({entry['source']})"
            for entry in entries for preset in entry.get("presets", ())}
