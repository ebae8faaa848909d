"""What flows into a task: config (may change the number), context (must not), and KEY VALUE overrides."""

import dataclasses
import difflib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Context:
    """All that must not change a task's number, plus the seed, which is recorded by itself.

    out: the run's own folder for logs, checkpoints and pictures (exists). data: the data root.
    gpus: the number of processes, one per GPU, or CPU processes where device is "cpu".
    workers: loader processes per rank. resume: continue from what `out` holds. eval_only: train nothing,
    evaluate what it holds (detection). cache: folder of frozen features that tasks share, None for none.
    """

    out: Path
    data: Path
    gpus: int
    workers: int
    seed: int
    device: str
    resume: bool = False
    eval_only: bool = False
    cache: Path | None = None


def data_root(given):
    """Return the data root: `given` (of --data), else $DETECTRON2_DATASETS, else datasets/."""
    return Path(given or os.environ.get("DETECTRON2_DATASETS") or "datasets")


def override(config, pairs):
    """Return config with trailing KEY VALUE pairs applied; a value takes the type of the default.

    pairs: flat sequence of strings, e.g. ["epochs", "3", "milestones", "1,2"]. The key `preset` names one of
    config.PRESETS (name -> {field: value}), which other pairs then change further, wherever it stands. A
    config with an `override` method of its own (detection: Detectron2's KEY VALUE) is asked instead. Raises
    ValueError for an odd count, an unknown key or preset (naming the nearest), a value that does not parse.
    """
    pairs = list(pairs)
    joined = [word for word in pairs[::2] if "=" in word]
    if joined:
        raise ValueError(f"expected KEY VALUE pairs, found {joined[0]!r}; write a space instead of the =")
    if len(pairs) % 2:
        raise ValueError(f"expected KEY VALUE pairs, found {pairs[-1]!r} left over; give every key a value")
    if hasattr(config, "override"):
        return config.override(pairs)
    defaults = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    presets = [text for key, text in zip(pairs[::2], pairs[1::2]) if key == "preset" and key in defaults]
    if presets and presets[-1] not in config.PRESETS:
        raise ValueError(f"unknown preset {presets[-1]!r}; {nearest(presets[-1], config.PRESETS)}")
    changes = dict(config.PRESETS[presets[-1]]) if presets else {}
    for key, text in zip(pairs[::2], pairs[1::2]):
        if key not in defaults:
            raise ValueError(f"unknown key {key!r}; {nearest(key, defaults)}")
        changes[key] = _parse(key, text, defaults[key])
    return dataclasses.replace(config, **changes)


def nearest(word, known):
    """Return "did you mean ...?" with the known names nearest to word, or the whole list if none is near."""
    matches = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(matches)}?" if matches else f"known are {', '.join(sorted(known))}"


def resolved(config):
    """Return a config as a flat dict of JSON values, as it is compared and recorded."""
    if hasattr(config, "resolved"):
        return config.resolved()
    values = dataclasses.asdict(config)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def differences(paper, used):
    """Return {key: [paper value, used value]} where two flat dicts differ; a missing value is None."""
    keys = sorted({*paper, *used})
    return {key: [paper.get(key), used.get(key)] for key in keys if paper.get(key) != used.get(key)}


def _parse(key, text, default):
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is tuple:
            element = type(default[0]) if default else float
            return tuple(element(part) for part in text.strip("()[]").split(",") if part.strip())
        return kind(text)
    except (KeyError, ValueError):
        example = {bool: "true or false", tuple: "1,2"}.get(kind, repr(default))
        raise ValueError(f"{key}: expected {kind.__name__} such as {example}, found {text!r}") from None
