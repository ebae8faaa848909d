"""Two backbones pair by pair (results/compare.py)."""

import json

import pytest

from results import compare, store
from tests.test_results_record import toy

OTHER = "f" * 64


@pytest.fixture
def runs(tmp_path):
    """Three pairs of VOC, one of COCO, a run without a partner and a pair of unlike configs."""
    for seed, (a, b) in enumerate([(57.0, 56.0), (57.5, 56.0), (58.0, 56.0)]):
        store.save(toy(seed=seed, metrics={"AP": a}), tmp_path)
        store.save(toy(seed=seed, metrics={"AP": b}, name="other", sha256=OTHER), tmp_path)
    for name, sha256, value in (("bt", "1a2b3c4d" * 8, 39.0), ("other", OTHER, 39.5)):
        store.save(toy("coco_det", {"box_AP": value}, name=name, sha256=sha256), tmp_path)
        store.save(toy("voc07_svm", {"mAP": value}, name=name, sha256=sha256, config={"of": name}), tmp_path)
    store.save(toy(seed=7, metrics={"AP": 10.0}), tmp_path)
    return tmp_path


def rows(text):
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if "_det " in line}


def test_pairs_differences_and_seeds(runs, capsys):
    assert compare.main(["bt", "other", "--runs", str(runs)]) == 0
    text = capsys.readouterr().out
    # differences 1, 1.5, 2: mean 1.5, std 0.5, interval 1.5 ± 4.3027 * 0.5 / sqrt 3
    assert rows(text) == {
        "voc_det": ["AP", "paper", "3", "57.50", "56.00", "+1.50", "+0.26", "to", "+2.74", "~5"],
        "coco_det": ["box_AP", "paper", "1", "39.00", "39.50", "-0.50", "-", "-"]}
    assert ("over 2 tasks, paper protocol: A ahead in 1, mean difference +0.50, 95% interval -12.21 to +13.21"
            in text)
    assert compare.main(["bt", "other", "--json", "--runs", str(runs)]) == 0
    coco, voc = json.loads(capsys.readouterr().out)
    assert (coco["task"], coco["pairs"], coco["interval"]) == ("coco_det", [[39.0, 39.5]], None)
    assert (voc["metric"], voc["protocol"], voc["seeds"]) == ("AP", "paper", [0, 1, 2])
    assert voc["difference"] == 1.5
    assert voc["interval"] == pytest.approx([0.26, 2.74], abs=0.01)


def test_a_task_counts_once_and_scaled_runs_only_where_there_are_no_others(runs, tmp_path, capsys):
    scaled = tmp_path / "scaled"
    for name, sha256, values in (("bt", "1a2b3c4d" * 8, (30.0, 10.0)), ("other", OTHER, (20.0, 12.0))):
        for steps, value in enumerate(values, 1):  # two configs of one task: differences 10 and -2
            for root in (runs, scaled):
                store.save(toy(name=name, sha256=sha256, metrics={"AP": value}, config={"steps": steps},
                               scaled={"steps": [24000, steps]}), root)
    compare.main(["bt", "other", "--runs", str(runs)])
    assert "over 2 tasks, paper protocol: A ahead in 1, mean difference +0.50" in capsys.readouterr().out
    compare.main(["bt", "other", "--runs", str(scaled)])
    assert "over 1 tasks, scaled protocol: A ahead in 1, mean difference +4.00, 95% interval -" in (
        capsys.readouterr().out)


def test_weights_under_two_names_are_not_paired_twice(runs, capsys):
    store.save(toy(name="copy", metrics={"AP": 57.0}), runs)
    assert compare.main(["1a2b", "other", "--runs", str(runs)]) == 2
    assert "'1a2b': expected one backbone, found 2; name one of bt [1a2b3c4d], copy [1a2b3c4d]" in (
        capsys.readouterr().err)
    assert compare.main(["bt", "other", "--runs", str(runs)]) == 0


@pytest.mark.parametrize("std, known, seeds", [
    (0.0, 0.2, "~5"), (0.5, 0.2, "~5"),  # 0.2 * sqrt 2 = 0.283 counts up to twice that, 0.566
    (0.6, 0.2, "14"), (0.5, None, "10"), (None, 0.2, "~5"), (0.0, None, "-"), (None, None, "-")])
def test_seeds_needed_by_the_known_spread(std, known, seeds):
    assert compare.needed(0.5, std, known) == seeds


def test_the_other_way_round_changes_the_signs_only(runs, capsys):
    compare.main(["1a2b", "fff", "--runs", str(runs), "--difference", "1"])
    first = rows(capsys.readouterr().out)
    compare.main(["other", "bt", "--runs", str(runs), "--difference", "1"])
    second = rows(capsys.readouterr().out)
    assert first["voc_det"][5:] == ["+1.50", "+0.26", "to", "+2.74", "~3"]
    assert second["voc_det"][5:] == ["-1.50", "-2.74", "to", "-0.26", "~3"]


def test_one_pair_of_a_task_with_a_known_spread(tmp_path, capsys):
    store.save(toy(), tmp_path)
    store.save(toy(name="other", sha256=OTHER), tmp_path)
    assert compare.main(["bt", "other", "--runs", str(tmp_path)]) == 0
    assert rows(capsys.readouterr().out)["voc_det"][-1] == "~5"  # 0.5 points, std 0.2 times the root of 2


@pytest.mark.parametrize("words, message", [
    (["bt", "nobody"],
     "'nobody': expected one backbone, found 0; name one of bt [1a2b3c4d], other [ffffffff]"),
    (["bt", "1a"], "expected two backbones, found the same weights twice (bt [1a2b3c4d]); name another"),
    (["bt", "other", "--difference", "0"], "--difference: expected 0 to 100 points, found 0.0"),
])
def test_wrong_words(runs, capsys, words, message):
    assert compare.main([*words, "--runs", str(runs)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_nothing_in_common(tmp_path, capsys):
    store.save(toy(), tmp_path)
    store.save(toy("coco_det", name="other", sha256=OTHER), tmp_path)
    assert compare.main(["bt", "other", "--runs", str(tmp_path)]) == 2
    assert "expected records of the same task, configuration, data and seed" in capsys.readouterr().err


def test_two_weights_of_one_name_need_the_hash(runs, capsys):
    store.save(toy(seed=9, sha256="1b" * 32), runs)
    assert compare.main(["bt", "other", "--runs", str(runs)]) == 2
    assert "found 2; name one of bt [1a2b3c4d], bt [1b1b1b1b]" in capsys.readouterr().err


def test_a_damaged_record_is_named(runs, capsys):
    store.save(toy(seed=11), runs).write_text("{")
    assert compare.main(["bt", "other", "--runs", str(runs)]) == 1
    assert "s11.json: damaged" in capsys.readouterr().err
    assert compare.main(["bt", "absent", "--runs", str(runs)]) == 2
    assert "s11.json: damaged" in capsys.readouterr().err
