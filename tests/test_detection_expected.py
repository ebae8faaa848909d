"""Early warning: bands made from finished runs, and what a run says of itself beside them."""

import json
import logging
import math
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from transfer.detection import configuration, expected, hooks

YAML, PAIRS = "pascal_voc_R_50_C4_24k_bt.yaml", ("SOLVER.MAX_ITER", "300", "SOLVER.WARMUP_ITERS", "100")


def config(*pairs):
    return configuration.build(YAML, (*PAIRS, *pairs))


def finished_run(folder, losses, ap, cfg=None):
    """An output folder: metrics.json with two losses every 20 iterations and one AP at the end."""
    folder.mkdir()
    rows = [{"iteration": n, "total_loss": losses(n), "loss_rpn_loc": 0.1 + n % 40 / 1e4}
            for n in range(19, 300, 20)]
    rows.append({"iteration": 300, "bbox/AP": ap})
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text((cfg or config()).dump())
    return folder


def trained(n):
    return 2.0 - n / 200  # 1.405 at 119 and 1.005 at 199: the log's values in the window before iteration 200


def untrained(n):
    return 2.5 - n / 1000


@pytest.fixture
def folders(tmp_path):
    return ([finished_run(tmp_path / "a", trained, 10.0), finished_run(tmp_path / "b", trained, 12.0)],
            [finished_run(tmp_path / "c", untrained, 1.0)])


def test_bands_are_what_the_log_holds_in_the_window_widened_by_its_width(folders):
    group = expected.measure(*folders, "two runs")
    rows = {(row["iteration"], row["metric"], row["weights"]): (row["low"], row["high"])
            for row in group["bands"]}
    assert rows == {
        (200, "total_loss", "trained"): pytest.approx((1.005 - 0.4, 1.405 + 0.4), abs=1e-3),
        (200, "total_loss", "random"): pytest.approx((2.301 - 0.08, 2.381 + 0.08), abs=1e-3),
        (300, "bbox/AP", "trained"): (8.0, 14.0)}  # one random run makes no band of its AP
    assert group["source"] == "two runs" and group["settings"]["SOLVER.WARMUP_ITERS"] == 100


def test_without_random_runs_the_total_loss_is_kept(folders):
    rows = expected.measure(folders[0], [], "x")["bands"]
    assert [(row["metric"], row["weights"]) for row in rows] == [("total_loss", "trained"),
                                                                ("bbox/AP", "trained")]


def test_runs_of_other_settings_and_runs_that_tell_nothing_are_refused(folders, tmp_path):
    other = finished_run(tmp_path / "d", trained, 10.0, config("SOLVER.BASE_LR", "0.5"))
    with pytest.raises(ValueError, match=r"another SOLVER.BASE_LR \(0.5, not 0.1;"):
        expected.measure([*folders[0], other], [], "x")
    with pytest.raises(ValueError, match="random weights do not have"):
        expected.measure(folders[0][:1], [finished_run(tmp_path / "e", trained, 10.0)], "x")


def test_a_group_is_added_once_and_found_by_its_settings(folders, tmp_path, monkeypatch, capsys):
    path = tmp_path / "expected.json"
    path.write_text("[]")
    monkeypatch.setattr(expected, "FILE", path)
    words = [*map(str, folders[0]), "--random", str(folders[1][0]), "--source"]
    assert expected.main([*words, "first"]) == expected.main([*words, "second"]) == 0
    assert "3 bands of 3 runs" in capsys.readouterr().out
    assert len(json.loads(path.read_text())) == 1
    rows, source = expected.bands_of(config("SOLVER.MAX_ITER", "900"), path)  # no loss depends on the end
    assert len(rows) == 3 and source == "second"
    for pairs in (["SOLVER.BASE_LR", "0.5"], ["SOLVER.ACCUMULATE", "2"], ["TEST.DETECTIONS_PER_IMAGE", "40"]):
        assert expected.bands_of(config(*pairs), path) == ([], "")
    assert expected.main([str(tmp_path / "none"), "--source", "x"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_committed_bands_are_well_formed():
    known = configuration.flat(config())
    for group in json.loads(expected.FILE.read_text()):
        assert set(group) == {"settings", "source", "bands"}
        assert {"DATASETS.TRAIN", "SOLVER.BASE_LR"} < set(group["settings"]) <= set(known)
        for row in group["bands"]:
            assert set(row) == {"iteration", "metric", "weights", "low", "high"}
            assert row["low"] < row["high"] and row["weights"] in ("trained", "random")


@pytest.mark.parametrize("value, weights, inside, words", [
    (1.2, "trained", True, "as expected: total_loss 1.2 (expected 0.605 to 1.8)"),
    (2.0, "trained", False, "not as in earlier runs: total_loss 2 (expected 0.605 to 1.8)"),
    (2.3, "trained", False, "a run whose weights did not arrive looks like this"),
    (2.3, "random", True, "as expected: total_loss 2.3 (expected 2.22 to 2.46)"),
    (1.2, "random", False, "not as in earlier runs: total_loss 1.2 (expected 2.22 to 2.46)"),
])
def test_verdict(folders, value, weights, inside, words):
    rows = expected.measure(*folders, "x")["bands"]
    found, line = expected.verdict({"total_loss": value}, rows, weights, 200)
    assert found is inside and words in line and line.startswith("iteration 200: ")
    assert ("did not arrive" in line) == (value == 2.3 and weights == "trained")
    assert expected.verdict({"total_loss": value}, rows, weights, 201) is None


def test_blind_loss_is_that_of_chance():
    assert expected.blind_loss(0.25, 1) == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    assert expected.blind_loss(20 / 21, 20) == pytest.approx(math.log(21))  # 21 equal answers
    assert expected.blind_loss(0.0, 20) == 0.0


def train(hook, log, ap=3.0, iterations=300):
    """Run a hook through a synthetic log: log(n) -> {name: value} of iteration n; `ap` at the end."""
    with EventStorage() as storage:
        hook.trainer = SimpleNamespace(storage=storage, max_iter=iterations)
        for hook.trainer.iter in range(iterations):
            storage.iter = hook.trainer.iter
            storage.put_scalars(**log(hook.trainer.iter))
            hook.after_step()
        storage.iter = hook.trainer.iter = iterations
        storage.put_scalars(**{"bbox/AP": ap}, smoothing_hint=False)
        hook.after_train()


def lines(caplog):
    return [(record.levelno, record.getMessage()) for record in caplog.records]


def test_a_run_with_the_losses_of_unloaded_weights_says_so_once(folders, monkeypatch, caplog):
    group = expected.measure(*folders, "two runs")
    monkeypatch.setattr(expected, "bands_of", lambda cfg: (group["bands"], group["source"]))
    caplog.set_level(logging.INFO, "transfer.detection")
    train(hooks.Expected(config(), "trained"), lambda n: {"total_loss": untrained(n), "loss_rpn_loc": 0.1})
    (losses, first), (precision, second) = lines(caplog)
    assert losses == precision == logging.WARNING
    assert first == ("iteration 200: not as in earlier runs: total_loss 2.35 (expected 0.605 to 1.8); "
                     "a run whose weights did not arrive looks like this (two runs)")
    assert second == "iteration 300: not as in earlier runs: bbox/AP 3 (expected 8 to 14) (two runs)"
    caplog.clear()
    train(hooks.Expected(config(), "trained"), lambda n: {"total_loss": trained(n)}, ap=10.0)
    assert lines(caplog) == [
        (logging.INFO, "iteration 200: as expected: total_loss 1.25 (expected 0.605 to 1.8) (two runs)"),
        (logging.INFO, "iteration 300: as expected: bbox/AP 10 (expected 8 to 14) (two runs)")]


@pytest.mark.parametrize("loss, level, words", [(0.3, logging.INFO, "is below 0.625"),
                                                (0.7, logging.WARNING, "is NOT below 0.625")])
def test_without_a_band_the_classifier_is_compared_with_a_blind_one(loss, level, words, caplog):
    caplog.set_level(logging.INFO, "transfer.detection")
    log = {"loss_cls": loss, "roi_head/num_fg_samples": 51.2, "roi_head/num_bg_samples": 460.8}
    train(hooks.Expected(config(), "trained"), lambda n: log)
    (found, line), = lines(caplog)
    assert found == level and words in line and "iteration 200" in line and "10 % of the regions" in line
    caplog.clear()
    train(hooks.Expected(config("SOLVER.WARMUP_ITERS", "1000"), "trained"), lambda n: log)
    assert not lines(caplog)  # during the warm-up nothing can be said
