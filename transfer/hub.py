"""A folder to give a backbone away, as Hugging Face's hub and timm expect it; the user's client uploads it.

    python transfer/convert.py checkpoint.pth FOLDER --to hub --license mit
    hf upload USER/NAME FOLDER

model.safetensors has timm's names and is proven like every file of convert.py; config.json is what
timm.create_model("local-dir:FOLDER", pretrained=True) reads (huggingface/pytorch-image-models
timm/models/_hub.py); README.md is the model card. The card takes its figures from the stored records of these
weights, known by their hash, and the training from the checkpoint. What neither says is said to be unknown.
"""
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from parallel.files import write_whole
from parallel.pixels import MEAN, STD
from results import assembly, render, store
from results.cells import Sheet, changes, data_text
from transfer.weights import inspection
from transfer.weights.backbone import Backbone
from transfer.weights.files import load
from transfer.weights.proof import convert
from transfer.weights.readers import read
from transfer.weights.report import Report

MODEL = "model.safetensors"
SIDE = 224  # pixels of a picture in the tasks of ImageNet
CROP = 0.875  # of the side of the resized picture, 256 there
IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # of a license
UNKNOWN = "unknown"  # one of the hub's identifiers, too


@dataclass(frozen=True)
class Training:
    """What a checkpoint says of its run; a file of another program says less, or nothing.

    epoch: finished ones. images: how many it was trained on. settings: {name: value} of the recipe.
    """
    method: str = UNKNOWN
    epoch: int | None = None
    images: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def side(self) -> int:
        """Pixels of a picture that the network is meant for."""
        return self.settings.get("image_size", SIDE)


def write(backbone: Backbone, output: Path, records: str | Path, license: str | None = None,
          datasets: Sequence[str] = (), checkpoint: str | Path | None = None) -> Report:
    """Write the folder, whole or not at all. Of one that exists the files of the same names are removed, then
    written: what ends the process in between leaves some out, but never a card beside other weights.

    records: folder of the stored records. license, datasets: of the weights and of the training pictures, as
    the hub names them. checkpoint: of the run that left the weights, which are bit-equal then.
    Raises ValueError for a network that timm does not have, damaged records and another checkpoint.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: expected a folder, found a file; name another")
    if license and not IDENTIFIER.fullmatch(license):
        raise ValueError(f"--license: expected an identifier such as mit or cc-by-nc-4.0, found {license!r}; "
                         "the hub's documentation lists them")
    run = read(checkpoint) if checkpoint else backbone
    require_same(backbone, run)
    found, problems = store.load(records)
    if problems:
        raise ValueError(problems[0])
    own = [result for result in found if result.backbone["sha256"] in (backbone.sha256, run.sha256)]
    sheet = assembly.run_sheet("card", "Records of these weights", assembly.group_runs(own),
                               "percent, mean ± sample standard deviation over seeds")
    training = training_of(run)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as draft:
        folder = Path(draft, "whole")
        folder.mkdir()
        report = convert(backbone, folder / MODEL, "timm")
        config = configuration(backbone, training, license)
        write_whole(folder / "config.json", json.dumps(config, indent=2) + "\n")
        write_whole(folder / "README.md", card(backbone, training, sheet, license, datasets))
        if output.exists():
            files = list(folder.iterdir())
            for file in files:
                (output / file.name).unlink(missing_ok=True)
            for file in files:
                os.replace(file, output / file.name)
        else:
            folder.rename(output)
    return report


def require_same(backbone: Backbone, run: Backbone) -> None:
    """ValueError unless the checkpoint of a run holds the same weights."""
    for name, tensor in backbone.state.items():
        if name not in run.state or not tensor.equal(run.state[name]):
            raise ValueError(f"{run.path}: expected the checkpoint of the run that left {backbone.path}, "
                             f"found other weights, first {name}; name that run's or leave --checkpoint out")


def training_of(run: Backbone) -> Training:
    """What the file of a backbone says of its training."""
    raw: Any = load(run.path)[0] if run.format != "random" else None
    method = inspection.METHODS.get(run.format.partition(":")[0], UNKNOWN)
    config = raw.get("config") if isinstance(raw, Mapping) else None
    if not isinstance(config, Mapping) or "method" not in config:  # not of this suite's pretraining
        return Training(method, inspection.epoch(raw))
    data = raw.get("data")
    images = data.get("images") if isinstance(data, Mapping) else None
    settings = {str(name): value for name, value in config.items()
                if isinstance(value, (str, int, float, tuple, list))}
    if type(settings.get("image_size")) is not int:
        settings.pop("image_size", None)
    return Training(str(config["method"]), inspection.epoch(raw), images if type(images) is int else None,
                    settings)


def configuration(backbone: Backbone, training: Training, license: str | None) -> dict[str, Any]:
    """config.json: the network and how it is to see pictures, named as in timm/models/_pretrained.py."""
    return {"architecture": backbone.arch.model, "num_classes": 0, "num_features": backbone.arch.width,
            "global_pool": "avg",
            "pretrained_cfg": {
                "custom_load": False, "input_size": [3, training.side, training.side],
                "fixed_input_size": False, "interpolation": "bilinear", "crop_pct": CROP,
                "crop_mode": "center", "mean": list(MEAN), "std": list(STD), "num_classes": 0,
                "pool_size": [backbone.arch.side(training.side)] * 2, "first_conv": "conv1",
                "classifier": "fc", "license": license or UNKNOWN}}


def card(backbone: Backbone, training: Training, sheet: Sheet, license: str | None,
         datasets: Sequence[str]) -> str:
    """The model card: the hub's front matter in YAML, then Markdown."""
    results = index(sheet)
    named = [re.sub(r"[^a-z0-9]+", "-", training.method.lower())] if training.method != UNKNOWN else []
    front = {"license": license or UNKNOWN, "library_name": "timm",
             "pipeline_tag": "image-feature-extraction",
             "tags": ["timm", "image-feature-extraction", *named],
             **({"datasets": list(datasets)} if datasets else {}),
             **({"model-index": [{"name": backbone.name, "results": results}]} if results else {})}
    return "\n\n".join([
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# {_text(backbone.name)}",
        f"A {backbone.arch.model} without classifier: pictures to {backbone.arch.width} features. What this "
        "page says was taken from the weights file and from the stored records of its evaluations.",
        "## Loading",
        "```python\nimport timm\n"
        'model = timm.create_model("hf-hub:USER/NAME", pretrained=True)  # or "local-dir:FOLDER"\n```',
        f"It takes RGB pictures of {training.side} x {training.side} pixels, normalised by the mean "
        f"{list(MEAN)} and the deviation {list(STD)}.",
        "## Training", *_training_lines(training, datasets),
        "## Results", _results(sheet),
        "## License", license or "Unknown: say it before you publish, here and in this file's first lines.",
        "## Origin",
        f"{MODEL} holds, bit for bit, the tensors of a file with the sha256 `{backbone.sha256}`, read as "
        f"{_text(backbone.format)}; {MODEL}.proof.json says so."]) + "\n"


def _training_lines(training: Training, datasets: Sequence[str]) -> Iterator[str]:
    total = f" of {_text(training.settings['epochs'])}" if "epochs" in training.settings else ""
    epochs = UNKNOWN if training.epoch is None else f"{training.epoch}{total}"
    pictures = ", ".join(map(_text, datasets)) or UNKNOWN
    yield (f"- method: {_text(training.method)}\n- finished epochs: {epochs}\n- training pictures: {pictures}"
           + (f" ({training.images:,} pictures)" if training.images else "")
           + ("\n- recipe: as the checkpoint has it" if training.settings else f"\n- recipe: {UNKNOWN}"))
    if training.settings:
        yield tabulate([(_text(name), _text(value)) for name, value in training.settings.items()],
                       ("setting", "value"), "pipe", disable_numparse=True)


def _results(sheet: Sheet) -> str:
    if not sheet.facts:
        return "Unknown: no record of these weights is stored."
    scaled = any(cell.runs[0].scaled for *_, cell in sheet.facts)
    return render.markdown(sheet) + (
        "\nScaled rows depart from the papers' protocols and do not compare with published figures."
        if scaled else "")


def index(sheet: Sheet) -> list[dict[str, Any]]:
    """The figures as the hub reads them (huggingface/huggingface_hub, repocard_data.py)."""
    found = []
    for runs, facts in groupby(sheet.facts, lambda fact: fact[3].runs):
        first = runs[0]
        departs = f"scaled: {', '.join(changes(first)) or 'data only'}"
        found.append({
            "task": {"type": "object-detection" if "_det" in first.task else "image-classification",
                     "name": f"{first.task}, version {first.version}, "
                             f"{departs if first.scaled else 'by its protocol'}"},
            "dataset": {"type": first.data["name"], "name": data_text(first.data)},
            "metrics": [{"type": "accuracy" if metric == "top1" else metric,
                         "name": f"{metric} (%), seeds: {cell.n}", "value": round(cell.mean, 2)}
                        for _, _, metric, cell in facts]})
    return found


def _text(value: object) -> str:
    """A text of a file on one line of Markdown, where it marks nothing up."""
    return render.MARKDOWN.escape(str(value)[:inspection.LONGEST])
