"""The tables of the studies: a row for each backbone, and its difference from random weights."""
import dataclasses

import pytest

from parallel.places import RUNS
from results import evidence, verdicts
from results.pretraining import Pretraining
from results.store import load

STUDY = evidence.STUDIES[0]
DETECTION = evidence.STUDIES[1]


@pytest.fixture
def record():
    """A function that makes a scaled record of a task, backbone, seed and figures."""
    stored = next(run for run in load(RUNS)[0] if not run.paper_protocol)

    def made(task, name, seed=0, data="cifar10", format="barlowtwins_checkpoint", **metrics):
        backbone = {"name": name, "format": format, "sha256": f"{abs(hash(name)):064x}"[:64]}
        return dataclasses.replace(stored, task=task, backbone=backbone, seed=seed, metrics=metrics,
                                   data={**stored.data, "name": data})

    return made


def entries(sheet):
    return [[getattr(entry, "mean", entry) for entry in row] for row in sheet.body[0]]


def test_a_row_for_each_backbone_random_weights_first(record):
    runs = [record("cifar10_knn", "barlow", top1=40.0), record("cifar10_online", "barlow", top1=42.0),
            record("cifar10_semi1", "barlow", 0, top1=30.0), record("cifar10_semi1", "barlow", 1, top1=32.0),
            record("cifar10_knn", "untrained", format="random", top1=18.0),
            record("imagenet_knn", "barlow", top1_k20=3.0)]
    trained = Pretraining("barlow", (), ({"epoch": 0, "step": 0}, {"epoch": 7, "step": 90}), {})
    sheet, _ = evidence.sheets(runs, [trained], {runs[0].place: 123.4})
    assert [column.header for column in sheet.columns][-2:] == ["10%", "rank"]
    (first, *random), (second, *ours) = entries(sheet)
    assert first.startswith("untrained [") and random == [None, 18.0, None, None, None, None, None]
    assert second.startswith("barlow [") and ours == ["8", 40.0, 42.0, None, 31.0, None, "123"]
    assert [cell.n for *_, cell in sheet.facts] == [1, 1, 1, 2] and "seeds: 2" in " ".join(sheet.notes)
    assert {cell.origin for *_, cell in sheet.facts} == {"scaled"}


def test_a_difference_from_random_weights_has_an_interval(record):
    data = DETECTION.data[0]
    runs = [record("voc_det", "a", seed, data, AP=value, AP50=2 * value, AP75=1.0)
            for seed, value in enumerate((30.0, 31.0, 35.0))]
    runs += [record("voc_det", "r", seed, data, "random", AP=value, AP50=50.0, AP75=1.0)
             for seed, value in enumerate((20.0, 21.0))]
    runs.append(record("voc_det", "b", 0, "voc_2007_test", AP=90.0, AP50=90.0, AP75=90.0))
    _, sheet = evidence.sheets(runs, [], {})
    random, ours = entries(sheet)
    assert len(sheet.body[0]) == 2 and random[-2:] == [None, None]
    low, high = verdicts.welch([30.0, 31.0, 35.0], [20.0, 21.0])
    assert ours[-2] == f"+11.5 ({low:+.1f} to {high:+.1f})" and low < 11.5 < high
    assert "rank" not in [column.header for column in sheet.columns]


def test_welchs_interval_is_scipys():
    from scipy import stats
    a, b = [30.0, 31.0, 35.0, 30.5], [20.0, 21.0, 28.0]
    theirs = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert verdicts.welch(a, b) == pytest.approx((theirs.low, theirs.high), rel=1e-9)
    assert verdicts.welch(a, [1.0]) is None and verdicts.welch([2.0, 2.0], [1.0, 1.0]) == (1.0, 1.0)


def test_two_configs_of_a_task_are_no_row(record):
    one = record("cifar10_knn", "a", top1=1.0)
    two = dataclasses.replace(one, config={**one.config, "k": [7]})
    with pytest.raises(ValueError, match="expected one config of cifar10_knn for a .*; keep one"):
        evidence.sheets([one, two], [], {})


def test_without_records_there_is_an_empty_table():
    assert all(not sheet.body[0] and not sheet.notes for sheet in evidence.sheets([], [], {}))
