"""The record of one run: what was measured, on what, with what. Validated when made and when read.

A record file is the JSON object of `Result` plus `checksum`, the sha256 of the rest in canonical form, which
reveals an edit by hand. `from_json(to_json(result)) == result`.
"""

import hashlib
import json
import math
import numbers
import re
from dataclasses import dataclass, fields
from functools import cached_property

SCHEMA = 1

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")  # in a file's name
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UTC = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
                  r"T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?\+00:00")


@dataclass(frozen=True)
class Result:
    """One run of one task with one seed.

    schema: format of this record. task, version: the task and the version of its protocol.
    backbone: name (for people), format (reader), sha256 (64 hex digits) of the weights file; arch, the name
    of its architecture, where that is not resnet50.
    metrics: {flat name: percent, 0 to 100}, main one first; empty in a draft only, which cannot be stored.
    config: all that may change the number. scaled: {key: [paper's value, used value]}, {} where it is the
    paper's protocol.
    origin: always "measured". source: the command line. commit: of this suite, "" outside a checkout; dirty:
    whether it had uncommitted changes. packages: {name: version}. device: {"type", "name", "count"}.
    data: name, counts {split: images}, fingerprint. seconds: wall time. started: ISO 8601 in UTC.

    Raises ValueError, saying what was expected and found, when a field breaks these rules.
    """

    schema: int
    task: str
    version: int
    backbone: dict
    metrics: dict
    config: dict
    scaled: dict
    seed: int
    origin: str
    source: str
    commit: str
    dirty: bool
    packages: dict
    device: dict
    data: dict
    seconds: float
    started: str

    def __post_init__(self) -> None:
        for name in _TYPES:
            _check_type(name, getattr(self, name))
        metrics = {name: float(value) if _is_number(value) else value for name, value in self.metrics.items()}
        object.__setattr__(self, "metrics", metrics)  # NumPy's numbers become plain ones
        for name in ("backbone", "config", "scaled", "packages", "device", "data"):
            object.__setattr__(self, name, _plain(name, getattr(self, name)))
        for name in _TYPES:
            _check(name, getattr(self, name))

    @property
    def arch(self) -> str:
        """The name of the backbone's architecture, such as resnet18-cifar."""
        return self.backbone.get("arch", "resnet50")

    @property
    def paper_protocol(self) -> bool:
        """Whether nothing was scaled, so that the record may stand in a paper's table."""
        return not self.scaled

    @cached_property
    def config_hash(self) -> str:
        """The 12 hex digits of `config_hash` for this record."""
        return config_hash(self.version, self.config, self.data)

    @cached_property
    def place(self) -> str:
        """The path of the record's file below the folder of records; different runs have different ones."""
        name = _UNSAFE.sub("-", self.backbone["name"]).lstrip(".-")[:80] or "backbone"
        folder = f"{name}-{self.backbone['sha256'][:8]}"
        return f"{self.task}/{folder}/{self.config_hash}-s{self.seed}.json"


_TYPES = {field.name: field.type for field in fields(Result)}
_FIELDS = set(_TYPES)


def config_hash(version: int, config: dict, data: dict) -> str:
    """Return 12 hex digits that name a task version, a config and a data set together.

    Two runs share it only where their numbers may be averaged: another data set (name, counts or fingerprint)
    or another version of the protocol gives another hash. Independent of the order of keys.
    """
    texts = {"config": canonical(config), "data": canonical(data), "version": canonical(version)}
    return _sha256(texts, texts)[:12]


def canonical(value: object) -> str:
    """Return the one JSON text of a JSON value: sorted keys, no spaces, ASCII. NaN raises ValueError."""
    return _ENCODER.encode(value)


def to_json(result: Result) -> str:
    """Return the text of the record file, checksum included."""
    content = {field.name: getattr(result, field.name) for field in fields(result)}
    content["checksum"] = _sha256({name: canonical(value) for name, value in content.items()}, _FIELDS)
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> Result:
    """Return the Result of a record file's text. Raises ValueError where it is damaged, edited or newer."""
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError(f"found a {type(content).__name__}")
        checksum = content.pop("checksum", None)
        texts = {name: canonical(value) for name, value in content.items()}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"damaged: not JSON of a record ({error}); "
                         "restore the file or run the task again") from None
    if content.get("schema") != SCHEMA:  # first, for another schema may have other fields and checksums
        raise ValueError(f"expected schema {SCHEMA}, found {content.get('schema')!r}; "
                         "read it with the version of this suite that wrote it")
    if set(content) != _FIELDS:
        raise ValueError(f"damaged: fields differ by {', '.join(sorted(_FIELDS ^ set(content)))}; "
                         "restore the file or run the task again")
    if checksum != _sha256(texts, _FIELDS):
        raise ValueError("edited or damaged: the checksum does not fit the content; "
                         "restore the file or run the task again")
    for name, value in content.items():
        _check_type(name, value)
        _check(name, value)
    if not content["metrics"]:
        raise ValueError("damaged: no metrics; run the task again")
    # What came out of JSON is plain and nobody else's: Result's copies would take as long as all the rest.
    result = object.__new__(Result)
    vars(result).update(content, config_hash=_sha256(texts, ("config", "data", "version"))[:12])
    return result


def _sha256(texts, names):
    """Return the sha256 of the canonical text of an object, given those of its values by name."""
    items = ",".join(f'"{name}":{texts[name]}' for name in sorted(names))
    return hashlib.sha256(f"{{{items}}}".encode()).hexdigest()


def _plain(name, value):
    """Return a deep copy of plain JSON types (tuples become lists), so that a record equals its file."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected finite JSON values, found {value!r} ({error})") from None


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _check_type(name, value):
    kind = _TYPES[name]
    fits = _is_number(value) if kind is float else isinstance(value, kind)
    if not fits or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name}: expected {kind.__name__}, found {value!r}")


def _check(name, value):
    """Raise ValueError where the value of a field, which has the right type, is out of its range."""
    if name in _RULES:
        fits, expected = _RULES[name]
        _expect(name, value, fits(value), expected)
    elif name == "backbone":
        _check_lines(name, value, ("name", "format", *(["arch"] if "arch" in value else [])), "sha256")
        sha256 = value["sha256"]
        fits = isinstance(sha256, str) and _SHA256.fullmatch(sha256)
        _expect("backbone sha256", sha256, fits, "64 hex digits")
    elif name == "data":
        pixels = ["pixels"] if "pixels" in value else []
        _check_lines(name, value, ("name", "fingerprint", *pixels), "counts")
        counts = value["counts"]
        fits = isinstance(counts, dict) and all(type(number) is int and number >= 0
                                                for number in counts.values())
        _expect("data counts", counts, fits, "{split: number of images}")
    elif name == "metrics":
        for metric, figure in value.items():
            _expect("metric name", metric, isinstance(metric, str) and _NAME.fullmatch(metric),
                    "letters, digits, _")
            _expect(f"metric {metric}", figure, isinstance(figure, float) and 0 <= figure <= 100,
                    "percent, 0 to 100")
    elif name == "scaled":
        for key, pair in value.items():
            _expect(f"scaled {key}", pair, isinstance(pair, list) and len(pair) == 2 and pair[0] != pair[1],
                    "[paper's value, another value]")


def _check_lines(name, value, lines, other):
    """Raise ValueError where the keys of a dict are others, or one of `lines` is not a line of text."""
    _expect(name, value, set(value) == {*lines, other}, f"the keys {', '.join(sorted([*lines, other]))}")
    for key in lines:
        text = value[key]
        fits = isinstance(text, str) and text and text.isprintable()
        _expect(f"{name} {key}", text, fits, "one line of text")


def _expect(name, value, fits, expected):
    if not fits:
        raise ValueError(f"{name}: expected {expected}, found {value!r}")


_RULES = {"schema": (lambda schema: schema == SCHEMA, f"{SCHEMA}"),
          "task": (_NAME.fullmatch, "a name of letters, digits and _"),
          "version": (lambda version: version >= 1, "1 or more"),
          "seed": (lambda seed: seed >= 0, "0 or more"),
          "origin": (lambda origin: origin == "measured", "'measured'"),
          "seconds": (lambda seconds: 0 <= seconds < math.inf, "0 or more, finite"),
          "started": (_UTC.fullmatch, "UTC, 2026-01-31T12:00:00+00:00")}
