"""The papers' ablations: every declared run can be made, and a study runs, stops, goes on and skips."""

import json

import pytest

from pretrain import ablate
from pretrain import main as pretraining
from pretrain.experiments import EXPERIMENTS, SCALES

PAPERS = [(name, row) for name, experiment in EXPERIMENTS.items() for row in experiment.rows]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name, row", PAPERS, ids=lambda one: one if isinstance(one, str) else one.slug)
def test_each_row_is_a_recipe(name, row, scale):
    arguments = pretraining.parse(["DATA", *row.flags(SCALES[scale])])
    settings = {key: value for key, value in vars(arguments).items() if key in _fields(arguments)}
    pretraining.make_recipe(arguments.preset, **settings)


def _fields(arguments):
    return pretraining.method_named(getattr(arguments, "method", "barlow_twins")).Recipe.__dataclass_fields__


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_rows_differ_in_name_and_in_recipe(name):
    rows = EXPERIMENTS[name].rows
    assert len({row.slug for row in rows}) == len(rows)
    for scale in SCALES.values():
        assert len({tuple(row.flags(scale)) for row in rows}) == len(rows)
    numbers = [row.number for row in rows]
    assert all(number is None for number in numbers) or numbers == sorted(numbers)
    assert bool(EXPERIMENTS[name].varied) == (None not in numbers)


@pytest.mark.parametrize("name", [name for name, one in EXPERIMENTS.items()
                                  if any(row.published for row in one.rows)])
def test_published_rows_exist(name):
    published = json.loads((ablate.ROOT / "results" / "published.json").read_text("utf-8"))
    known = {(entry["row"], entry["metric"]) for entry in published
             if f"{entry['paper']}, {entry['table']}" == EXPERIMENTS[name].table}
    assert {row.published for row in EXPERIMENTS[name].rows} <= known
