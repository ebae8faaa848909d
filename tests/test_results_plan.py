"""Whose times a plan goes by (results/plan.py); what it says is in test_results_show.py."""

import pytest

from results import plan
from tests.test_results_record import toy

WHOLE = {"name": "imagenet", "counts": {"train": 1281167, "val": 50000}, "fingerprint": "a"}
SMALL = {"name": "imagenet", "counts": {"train": 500, "val": 50000}, "fingerprint": "b"}


@pytest.mark.parametrize("changes", [
    {"data": SMALL}, {"task": "imagenet_linear"}, {"version": 2}, {"config": {"k": [10]}},
    {"device": {"type": "cuda", "name": "x86_64", "count": 1}},
    {"device": {"type": "cpu", "name": "x", "count": 2}}])
def test_time_is_estimated_from_runs_of_one_kind_only(changes):
    known = {"task": "imagenet_knn", "metrics": {"top1_k20": 1.0}, "data": WHOLE}
    other, same = toy(**{**known, **changes}), toy(**known)
    assert plan.estimate(same, [other]) == (None, 0)
    moved = toy(**{**known, "data": {**WHOLE, "fingerprint": "copied"}}, seconds=20.0)
    assert plan.estimate(same, [other, moved, same]) == (16.25, 2)
