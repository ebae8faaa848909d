"""Means, intervals and verdicts against hand-computed values and scipy's own tests (results/verdicts.py)."""

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from results import verdicts

percents = st.lists(st.floats(0, 100), min_size=2, max_size=8)


@settings(max_examples=50, deadline=None)
@given(percents)
def test_mean_spread_and_interval_are_those_of_the_libraries(values):
    mean, std = verdicts.mean_std(values)
    assert mean == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert std == pytest.approx(statistics.stdev(values), abs=1e-9)
    if std > 1e-6:
        low, high = stats.t.interval(0.95, len(values) - 1, mean, std / math.sqrt(len(values)))
        assert verdicts.interval(mean, std, len(values)) == pytest.approx((low, high), rel=1e-9)


def test_one_figure_has_neither_spread_nor_interval():
    assert verdicts.mean_std([5.0]) == (5.0, None) and verdicts.interval(5.0, None, 1) is None


@pytest.mark.parametrize("mean, std, count, known, expected", [
    # five seeds of VOC AP: 1.96 * 0.2 * sqrt(1.2) + 0.05 = 0.479
    (56.33, 0.2, 5, 0.2, "reproduced"), (57.27, 0.2, 5, 0.2, "reproduced"),
    (56.31, 0.2, 5, 0.2, "below"), (57.29, 0.2, 5, 0.2, "above"),
    (56.33, 0.01, 5, 0.2, "reproduced"),  # seeds that happen to agree do not make the bound narrower
    # own spread, Student's t 2.776 for 4 degrees: 2.776 * 0.2 * sqrt(1.2) + 0.05 = 0.658
    (57.45, 0.2, 5, None, "reproduced"), (57.47, 0.2, 5, None, "above"),
    # twice the known spread is believed; more is not: 2.776 * 0.41 * sqrt(1.2) + 0.05 = 1.297, over one point
    (56.33, 0.4, 5, 0.2, "reproduced"), (56.33, 0.41, 5, 0.2, "inconclusive"), (55.4, 0.41, 5, 0.2, "below"),
    # two seeds, t 12.706: 12.706 * 0.1 * sqrt(1.5) + 0.05 = 1.606
    (56.8, 0.1, 2, None, "inconclusive"), (58.5, 0.1, 2, None, "above"),
    # no spread at all, and none known: chance is not known either, but a point or more is no chance
    (56.84, 0.0, 2, None, "reproduced"), (56.9, 0.0, 5, None, "inconclusive"),
    (56.1, 0.0, 5, None, "inconclusive"), (56.9, 0.04, 5, None, "reproduced"),
    (57.3, 0.04, 5, None, "inconclusive"), (57.3, 0.05, 5, None, "above"), (57.9, 0.0, 5, None, "above"),
    (55.7, 0.0, 5, None, "below"), (57.4, 0.0, 5, 0.2, "above"),
    (56.8, None, 1, 0.2, "inconclusive"), (10.0, None, 1, 0.2, "inconclusive"),
])
def test_verdict(mean, std, count, known, expected):
    assert verdicts.verdict(mean, std, count, 56.8, known) == expected


@pytest.mark.parametrize("difference, std, count", [
    (1.0, 1.0, 10), (0.5, 1.0, 34), (0.8, 1.0, 15), (2.0, 1.0, 5),  # Cohen's tables of the paired t test
    (-0.5, 1.0, 34), (1.0, 0.0, 2), (100.0, 0.1, 2), (0.001, 1.0, None)])
def test_seeds_needed(difference, std, count):
    assert verdicts.seeds_needed(difference, std) == count


def test_seeds_needed_have_the_power_in_a_simulation():
    sample = stats.norm(0.5, 1).rvs((4000, 34), random_state=0)
    power = (stats.ttest_1samp(sample, 0, axis=1).pvalue < 0.05).mean()
    assert power == pytest.approx(0.81, abs=0.02)
