"""What flows into a task: config (may change the number), context (must not), and KEY VALUE pairs."""

import dataclasses
import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from parallel.resnets import SIDES
from transfer.limits import require_possible

if TYPE_CHECKING:
    from transfer.weights.backbone import Backbone

Own = TypeVar("Own", bound="TaskConfig")


@dataclass(frozen=True)
class TaskConfig:
    """The base of every protocol's Config: its fields are all that may change a task's number.

    Raises ValueError for a value that limits.py rules out.
    """

    def __post_init__(self) -> None:
        require_possible(vars(self))

    @property
    def PRESETS(self) -> Mapping[str, Mapping[str, Any]]:
        """name -> {field: value}, for a Config with a field `preset`."""
        return {}

    def override(self: Own, pairs: Sequence[str]) -> Own:
        """Return this config with trailing KEY VALUE pairs applied; a value takes the type of the default.

        pairs: flat, e.g. ["epochs", "3", "milestones", "1,2"]. The key `preset` names one of PRESETS, which
        other pairs then change further, wherever it stands. Raises ValueError for an odd count, an unknown
        key or preset (naming the nearest), a value that does not parse.
        """
        given = paired(pairs)
        defaults = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        presets = [text for key, text in given if key == "preset" and key in defaults]
        if presets and presets[-1] not in self.PRESETS:
            raise ValueError(f"unknown preset {presets[-1]!r}; {nearest(presets[-1], self.PRESETS)}")
        changes = dict(self.PRESETS[presets[-1]]) if presets else {}
        for key, text in given:
            if key not in defaults:
                raise ValueError(f"unknown key {key!r}; {nearest(key, defaults)}")
            changes[key] = _parse(key, text, defaults[key])
        if presets and not self.PRESETS[presets[-1]]:  # another name of the config as it is: one row
            del changes["preset"]
        return dataclasses.replace(self, **changes)

    def resolved(self) -> dict[str, Any]:
        """Return the config as a flat dict of JSON values, as it is compared and recorded."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    def fitted(self: Own, backbone: "Backbone") -> Own:
        """Return this config as it is for a Backbone, whose architecture decides some settings of detection,
        and an image_size of 0: that which its stem is made for. Raises ValueError where the two do not go
        together."""
        if getattr(self, "image_size", None) == 0:
            side: dict[str, Any] = {"image_size": SIDES[backbone.arch.stem]}  # which not every Own has
            return dataclasses.replace(self, **side)
        return self

    def rescaled(self: Own, processes: int) -> Own:
        """Return this config for another number of processes than the protocol's, by the linear rule.
        Raises ValueError where the protocol has no such rule."""
        raise ValueError("--rescale is for detection; this task has the same batch on any number of GPUs")


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What data is checked under: all of Context that is known before a run has its folder.

    data: the data root. gpus: the number of processes, one per GPU, or CPU processes where device is "cpu".
    workers: loader processes per rank. cache: folder of frozen features that tasks share, and of notes on
    checked data, None for none.
    """

    data: Path
    gpus: int
    workers: int
    seed: int
    device: str
    cache: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Context(Conditions):
    """All that must not change a task's number, and the seed, which is recorded separately.

    out: the run's own folder for logs, checkpoints and pictures (exists). resume: continue from what `out`
    holds. eval_only: train nothing, evaluate what it holds (detection).
    """

    out: Path
    resume: bool = False
    eval_only: bool = False


def data_root(given: str | Path | None) -> Path:
    """Return the data root: `given` (of --data), else $DETECTRON2_DATASETS, else datasets/."""
    return Path(given or os.environ.get("DETECTRON2_DATASETS") or "datasets")


def paired(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return flat KEY VALUE words as (key, value) pairs. Raises ValueError for KEY=VALUE and an odd count."""
    words = list(words)
    with_sign = [word for word in words[::2] if "=" in word]
    if with_sign:
        raise ValueError(f"expected KEY VALUE pairs, found {with_sign[0]!r}; write a space instead of the =")
    if len(words) % 2:
        raise ValueError(f"expected KEY VALUE pairs, found {words[-1]!r} left over; give every key a value")
    return list(zip(words[::2], words[1::2]))


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "did you mean ...?" with the known names nearest to word, or the whole list if none is near."""
    matches = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    known = ", ".join(sorted(known)) or "none"
    return f"did you mean {' or '.join(matches)}?" if matches else f"known are {known}"


def _parse(key: str, text: str, default: Any) -> Any:
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
