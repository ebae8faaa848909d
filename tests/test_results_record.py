"""The record: what it accepts, its hash, and that a changed file is noticed (results/record.py)."""

import dataclasses
import hashlib
import json
import math
import re

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.protocols import protocols
from results.record import SCHEMA, Result, config_hash, from_json, to_json

SHA256 = "1a2b3c4d" * 8


def toy(task="voc_det", metrics=None, seed=0, name="bt", sha256=SHA256, **changes):
    """Return a valid record of the paper's protocol, with changes; of another task, a small one."""
    protocol = protocols()["tasks"].get(task, {}).get("1", {"config": {"epochs": 1}, "counts": {"train": 1}})
    fields = dict(
        schema=SCHEMA, task=task, version=1,
        backbone={"name": name, "format": "torchvision", "sha256": sha256},
        metrics={"AP": 56.0, "AP50": 82.5, "AP75": 63.25} if metrics is None else metrics,
        config=protocol["config"], scaled={}, seed=seed, origin="measured",
        source="python transfer/run.py --task voc_det", commit="c" * 40, dirty=False,
        packages={"torch": "2.14.1"}, device={"type": "cpu", "name": "x86_64", "count": 1},
        data={"name": "voc0712", "counts": protocol["counts"], "fingerprint": "f00d"},
        seconds=12.5, started="2026-01-31T12:00:00+00:00")
    return Result(**{**fields, **changes})


def departing(task="voc_det", metrics=None, **changes):
    """Return a record like `toy`, with changes of the paper's config."""
    usual = protocols()["tasks"][task]["1"]["config"]
    return toy(task, metrics, config=usual | changes,
               scaled={key: [usual.get(key), value] for key, value in changes.items()})


def test_file_gives_the_record_back_with_its_order_of_metrics():
    result = toy(metrics={"z": 1.0, "a": 2.0}, config={"steps": (18000, 22000)},
                 scaled={"epochs": [100, 1], "steps": [None, (1, 2)]})
    assert from_json(to_json(result)) == result
    assert list(from_json(to_json(result)).metrics) == ["z", "a"]
    assert result.config["steps"] == [18000, 22000]  # a tuple is stored as JSON has it


def test_numpy_figures_become_plain_numbers():
    assert type(toy(metrics={"AP": numpy.float32(50)}).metrics["AP"]) is float


def test_scaled_or_paper():
    assert toy().paper_protocol
    assert not toy(scaled={"epochs": [100, 1]}).paper_protocol


def test_a_record_does_not_share_its_callers_dicts():
    config = {"epochs": [1]}
    result = toy(config=config)
    config["epochs"].append(2)
    assert result.config == {"epochs": [1]}


@pytest.mark.parametrize("changes, message", [
    ({"metrics": {"AP": math.nan}}, "metric AP: expected percent"),
    ({"metrics": {"AP": math.inf}}, "metric AP: expected percent"),
    ({"metrics": {"AP": 100.1}}, "metric AP: expected percent"),
    ({"metrics": {"AP": -0.1}}, "metric AP: expected percent"),
    ({"metrics": {"AP": True}}, "metric AP: expected percent"),
    ({"metrics": {"AP": None}}, "metric AP: expected percent"),
    ({"metrics": {"box/AP": 1.0}}, "metric name"),
    ({"task": "voc det"}, "task: expected a name"),
    ({"version": 0}, "version: expected 1"),
    ({"seed": -1}, "seed: expected 0"),
    ({"seed": True}, "seed: expected int"),
    ({"seed": 1.0}, "seed: expected int"),
    ({"origin": "guessed"}, "origin: expected 'measured'"),
    ({"seconds": -1.0}, "seconds: expected 0"),
    ({"seconds": math.nan}, "seconds: expected 0"),
    ({"started": "2026-01-31T12:00:00"}, "started: expected UTC"),
    ({"started": "2026-01-31T12:00:00+01:00"}, "started: expected UTC"),
    ({"started": "2026-13-31T12:00:00+00:00"}, "started: expected UTC"),
    ({"schema": SCHEMA + 1}, "schema: expected"),
    ({"sha256": "1a2b"}, "backbone sha256: expected 64"),
    ({"sha256": "1A2B3C4D" * 8}, "backbone sha256: expected 64"),
    ({"name": "two\nlines"}, "backbone name: expected one line"),
    ({"backbone": {"name": "bt"}}, "backbone: expected the keys"),
    ({"data": {"name": "x", "counts": {"train": -1}, "fingerprint": "f"}}, "data counts"),
    ({"data": {"name": "x", "counts": {}, "fingerprint": ""}}, "data fingerprint"),
    ({"config": {"rate": math.nan}}, "config: expected finite"),
    ({"config": {"path": object()}}, "config: expected finite"),
    ({"scaled": {"epochs": [1]}}, "scaled epochs"),
    ({"scaled": {"epochs": [1, 1]}}, "scaled epochs"),
    ({"dirty": "no"}, "dirty: expected bool"),
])
def test_a_bad_value_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        toy(**changes)


def test_a_name_with_other_letters_gives_a_safe_path():
    assert toy(name="../my net (v2)").place.startswith("voc_det/my-net-v2--1a2b3c4d/")
    assert toy(name="...").place.startswith("voc_det/backbone-1a2b3c4d/")


@pytest.mark.parametrize("changes", [
    {"version": 2}, {"config": {"yaml": "other.yaml"}}, {"seed": 1}, {"task": "other_det"},
    {"sha256": "f" * 64},
    {"data": {"name": "voc0712", "counts": {"train": 16551, "test": 4952}, "fingerprint": "beef"}},
    {"data": {"name": "voc0712", "counts": {"train": 16550, "test": 4952}, "fingerprint": "f00d"}},
], ids=lambda changes: next(iter(changes)))
def test_runs_that_differ_have_different_places(changes):
    assert toy(**changes).place != toy().place


def test_the_architecture_is_named_where_it_is_no_resnet50():
    other = toy(backbone={**toy().backbone, "arch": "resnet18-cifar"})
    assert (toy().arch, other.arch) == ("resnet50", "resnet18-cifar")
    assert from_json(to_json(other)) == other
    with pytest.raises(ValueError, match="backbone arch: expected one line"):
        toy(backbone={**toy().backbone, "arch": ""})


@pytest.mark.parametrize("changes", [
    {"metrics": {"AP": 1.0}}, {"seconds": 1.0}, {"commit": ""}, {"device": {"type": "cuda"}},
    {"config": dict(reversed(toy().config.items()))},
], ids=lambda changes: next(iter(changes)))
def test_what_is_no_setting_does_not_move_a_record(changes):
    assert toy(**changes).place == toy().place


def test_config_hash_is_golden():
    # a changed hash would orphan every stored record
    data = {"name": "d", "counts": {}, "fingerprint": "f"}
    assert config_hash(1, {"b": [1, 2.5], "a": "x"}, data) == "4098bc55f6d9"


def edited(change):
    content = json.loads(to_json(toy()))
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize("text, message", [
    ("", "not JSON"),
    (to_json(toy())[:-20], "not JSON"),
    ("[]", "not JSON of a record .found a list"),
    (edited(lambda record: record["metrics"].update(AP=57.0)), "edited or damaged"),
    (edited(lambda record: record.update(seed=1)), "edited or damaged"),
    (edited(lambda record: record.pop("checksum")), "edited or damaged"),
    (edited(lambda record: record["metrics"].update(AP=math.nan)), "not JSON of a record"),
    (edited(lambda record: record.pop("commit")), "fields differ by commit"),
    (edited(lambda record: record.update(extra=1)), "fields differ by extra"),
    (edited(lambda record: record.update(schema=2)), "expected schema 1, found 2"),
    (edited(lambda record: record.pop("schema")), "found None"),
    (to_json(dataclasses.replace(toy(), metrics={})), "no metrics"),
], ids=["empty", "torn", "list", "metric", "seed", "checksum", "nan", "missing", "extra", "newer",
        "schemaless", "draft"])
def test_a_file_that_cannot_be_trusted_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        from_json(text)


def forged(**changes):
    """Return the file of a record with values that `Result` refuses, but with the checksum that fits them."""
    content = {**vars(toy()), **changes}
    rest = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return json.dumps({**content, "checksum": hashlib.sha256(rest.encode()).hexdigest()}, indent=1) + "\n"


def test_values_out_of_range_are_refused_in_a_file_too():
    with pytest.raises(ValueError, match="seconds: expected 0 or more"):
        from_json(forged(seconds=-1.0))
    assert from_json(forged(seconds=1.0)) == toy(seconds=1.0)


@pytest.mark.parametrize("text", [
    to_json(toy()), edited(lambda record: None), json.dumps(json.loads(to_json(toy())), indent=4),
    re.sub("\n +", "\n ", to_json(toy())), to_json(toy()).replace("\n", "\r\n"),
    json.dumps(dict(reversed(json.loads(to_json(toy())).items())), indent=1) + "\n",
], ids=["ours", "one line", "deep", "flat", "windows", "reversed"])
def test_the_layout_of_a_file_does_not_matter(text):
    assert from_json(text) == toy()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_an_edited_file_is_noticed(data):
    text = to_json(toy(config={"rate": 0.5, "steps": [1, 2], "name": "x"}))
    place, length = data.draw(st.integers(0, len(text) - 1)), data.draw(st.integers(0, 3))
    signs = ["", "0", "1", '"', ",", "\n", ' "', ',\n "', "{", "}", "\\", "NaN"]
    inserted = data.draw(st.sampled_from(signs))
    other = text[:place] + inserted + text[place + length:]
    try:
        # As text: Python takes 56 and 56.0 for the same number, and the checksum does not.
        same = json.dumps(json.loads(other), sort_keys=True) == json.dumps(json.loads(text), sort_keys=True)
    except ValueError:
        same = False
    if same:
        assert from_json(other) == from_json(text)
    else:
        with pytest.raises(ValueError, match="damaged|schema"):
            from_json(other)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2**53, 2**53) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner), max_leaves=5)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4), st.floats(0, 100))
def test_any_json_config_and_percentage_survives_the_file(config, value):
    result = toy(config=config, metrics={"AP": value})
    assert from_json(to_json(result)) == result
    assert from_json(to_json(result)).place == result.place


percent = st.floats(0, 100)
bad = st.one_of(st.floats(max_value=0, exclude_max=True), st.floats(min_value=100, exclude_min=True),
                st.just(math.nan), st.booleans(), st.text(max_size=3))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.from_regex("[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True), percent, min_size=1,
                       max_size=5), st.data())
def test_only_percent_is_accepted_and_nothing_is_lost_in_the_file(metrics, data):
    assert from_json(to_json(toy(metrics=metrics))) == toy(metrics=metrics)
    spoiled = {**metrics, data.draw(st.sampled_from(sorted(metrics))): data.draw(bad)}
    with pytest.raises(ValueError, match="expected percent"):
        toy(metrics=spoiled)


def test_nesting_that_no_reader_stands_is_damage():
    with pytest.raises(ValueError, match="damaged"):
        from_json("[" * 200_000)
