"""Health: skipped steps, figures, stats.txt, and the online kNN."""
import json
import math
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from parallel.collectives import is_main, rank, world_size
from parallel.launch import launch
from pretrain import trainer
from pretrain.methods.correlation import Correlation, Objective
from pretrain.upkeep import guard, health, knn, logbook
from tests.pretrain_toys import lines, start, toy_backbone, toy_run, write_pictures


@pytest.fixture(autouse=True)
def toy(tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.backbones.build_backbone", toy_backbone)
    write_pictures(tmp_path)


def judged(judge, loss, norms=(1.0,), may_overflow=False):
    numbers = judge.judge(torch.tensor(loss), [torch.tensor(norm) for norm in norms],
                          torch.tensor(may_overflow))
    return judge.read(numbers.tolist())


@pytest.mark.parametrize("loss, norms, reason", [
    (10.0, [1.0, 1.0], ""),
    (99.0, [1.0, 1.0], ""),
    (101.0, [1.0, 1.0], "the loss rose to 101, more than 10 times its running mean 10"),
    (math.nan, [1.0, 1.0], "the loss is nan"),
    (math.inf, [1.0, 1.0], "the loss is inf"),
    (10.0, [1.0, math.nan], "the gradient is not finite"),
], ids=["usual", "high", "spike", "nan", "inf", "gradient"])
def test_guard_judges(loss, norms, reason):
    judge = guard.Guard(nn.Linear(1, 1), 10.0)
    for _ in range(guard.JUDGE_AFTER):
        assert judged(judge, 10.0).reason == ""
    verdict, skips = judged(judge, loss, norms), int(bool(reason))
    assert (verdict.reason, verdict.skipped, verdict.in_a_row) == (reason, skips, skips)
    assert judged(judge, 10.0).in_a_row == 0
    other = guard.Guard(nn.Linear(1, 1), 10.0)
    other.load_state_dict(judge.state_dict())
    assert other.state_dict() == judge.state_dict()
    assert judge.state_dict()["mean"] == (10.0 if loss != 99.0 else pytest.approx(10 + 89 / 22))


def test_an_overflow_is_no_reason_but_no_loss_either():
    judge = guard.Guard(nn.Linear(1, 1), 10.0)
    verdict = judged(judge, 10.0, [math.inf], may_overflow=True)
    assert (verdict.kind, verdict.reason, judge.state_dict()["counted"]) == (guard.OVERFLOW, "", 0)
    assert judged(judge, 10.0, [math.inf]).reason
    assert judged(judge, 10.0, may_overflow=True).kind == guard.GOOD
    assert judged(judge, math.nan, [math.nan], may_overflow=True).reason == "the loss is nan"


def test_no_spikes_without_a_factor_and_none_at_the_start():
    never = guard.Guard(nn.Linear(1, 1), 0.0)
    early = guard.Guard(nn.Linear(1, 1), 10.0)
    for judge in (never, early):
        assert [judged(judge, loss).reason for loss in (1.0, 1e6)] == ["", ""]
    assert all(judged(never, 1.0).reason == "" for _ in range(50)) and judged(never, 1e9).reason == ""


def break_steps(monkeypatch, which):
    """Make the loss of these steps nan, from a picture that is."""
    step, number = trainer.train_step, iter(range(10 ** 6))

    def broken(training, at, views):
        y1, y2 = views
        return step(training, at, (y1 * math.nan if next(number) in which else y1, y2))
    monkeypatch.setattr(trainer, "train_step", broken)


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path, monkeypatch):
    whole = start(tmp_path, "whole", epochs=1)
    break_steps(monkeypatch, {0})
    broken = start(tmp_path, "broken", epochs=1, warmup_epochs=0)
    first, second = lines(tmp_path / "broken")
    assert first["skipped"] == second["skipped"] == 1 and first["loss"] is None
    assert first["skipped_because"] == "the loss is nan" and "skipped_because" not in second
    state = torch.load(broken.files[0], weights_only=True)
    assert all(value.isfinite().all() for value in state["model"].values())  # running statistics, too
    assert state["model"]["module.bn.num_batches_tracked"] == 2  # two views of the one good step
    assert state["guard"]["skipped"] == 1
    assert torch.load(whole.files[0], weights_only=True)["guard"]["skipped"] == 0


def test_a_skipped_step_leaves_weights_and_momentum(tmp_path, monkeypatch):
    break_steps(monkeypatch, {1})
    state = torch.load(start(tmp_path, "run", epochs=1, warmup_epochs=0).files[0], weights_only=True)
    monkeypatch.undo()
    monkeypatch.setattr("pretrain.backbones.build_backbone", toy_backbone)
    seen, step = [], trainer.train_step

    def one(training, *arguments):
        seen.append(step(training, *arguments))
        raise KeyboardInterrupt  # after the first update
    monkeypatch.setattr(trainer, "train_step", one)
    kept = []
    prepare = trainer.prepare
    monkeypatch.setattr(trainer, "prepare", lambda *a: kept.append(prepare(*a)) or kept[0])
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, "one", epochs=1, warmup_epochs=0)
    for name, value in kept[0].network.state_dict().items():
        assert torch.equal(value, state["model"]["module." + name]), name


def test_skips_in_a_row_end_the_run_with_a_diagnosis(tmp_path, monkeypatch):
    break_steps(monkeypatch, range(2, 100))
    with pytest.raises(ValueError) as caught:
        start(tmp_path, "run", run={"max_skips": 3}, epochs=5)
    message = str(caught.value)
    assert message.startswith("3 steps in a row were skipped, the last at step 4 (epoch 2): the loss is nan; "
                              "weights are finite, 4 of 8 embeddings are not")
    assert f"the last good checkpoint is {tmp_path}/run/checkpoint.pth with 2 finished epochs" in message
    assert "\n" not in message
    assert [line["skipped"] for line in lines(tmp_path / "run")] == [0, 0, 1, 2, 3]


def test_diagnosis_names_weights_first():
    network, z = nn.Linear(2, 2), torch.ones(3, 2)
    assert guard.diagnosis(network, (z, z)).startswith("weights and embeddings are finite: the recipe lets")
    network.bias.data[0] = math.inf
    assert guard.diagnosis(network, (z, z)) == "1 weights are not finite, first bias"


def test_correlation_figures_by_hand():
    """C = [[1, 0.5], [0.1, 0.8]]."""
    square = torch.tensor(1 + 0.25 + 0.01 + 0.64, dtype=torch.float64)
    diagonal = torch.tensor([1.0, 0.8])
    seen = Correlation(diagonal, square, *Objective(0.1)(diagonal, square, 0.0))
    found = {name: value.item() for name, value in seen.health().items()}
    assert found == pytest.approx({"loss_invariance": 0.04 / 2, "loss_redundancy": 0.1 * 0.26 / 2,
                                   "diagonal_mean": 0.9, "off_diagonal_rms": math.sqrt(0.26 / 2)}, abs=1e-6)


@pytest.mark.parametrize("rank, width", [(1, 40), (3, 40), (3, 3)])
def test_effective_rank_counts_directions(rank, width):
    """Orthogonal columns of equal size, repeated: as many equal singular values as there are directions."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.linalg.qr(torch.randn(65, 65, generator=generator, dtype=torch.float64))[0]
    columns = torch.linalg.qr(columns[:, :rank + 1].clone().index_fill_(1, torch.tensor([0]), 1.0))[0][:, 1:]
    z = columns.repeat(1, -(-width // rank))[:, :width // rank * rank]
    assert health.embedding_health(z)["effective_rank"] == pytest.approx(rank, rel=1e-3)


def test_embedding_spread_tells_a_collapse():
    z = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    assert health.embedding_health(z)["embedding_spread"] == pytest.approx(1, abs=0.02)
    assert health.embedding_health(z * 1e-3 + 5)["embedding_spread"] < 1e-3
    assert all(math.isnan(value) for value in health.embedding_health(z * math.nan).values())


def saved_correlation(path):
    """Eight embeddings, shared by the processes there are, and the diagonal of their C."""
    views = torch.randn(2, 8, 130, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    own = slice(rank() * 8 // world_size(),
                (rank() + 1) * 8 // world_size())
    a, b = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in views)
    c = a.T @ b / 8
    health.save_correlation(path, 7, *(z[own] for z in views))
    return c.float().numpy(), dict(np.load(path)) if is_main() else None


@pytest.mark.parametrize("processes", [1, 2])
def test_the_picture_of_c_is_c_of_the_joint_batch(tmp_path, processes):
    path = tmp_path / "correlation.npz"
    c, kept = launch(saved_correlation, processes, path)
    assert kept["step"] == 7 and kept["corner"].dtype == np.float32
    np.testing.assert_allclose(kept["corner"], c[:128, :128], atol=1e-6)
    np.testing.assert_allclose(kept["diagonal"], c.diagonal(), atol=1e-6)
    values = kept["singular_values"]
    assert len(values) == 8 // processes and (np.diff(values) <= 0).all()
    # Columns of unit variance: squares add up to rows times columns (less what eps takes).
    assert (values ** 2).sum() == pytest.approx(8 // processes * 130, rel=1e-3)
    assert not list(tmp_path.glob("*.part*"))


def test_each_epoch_leaves_a_picture_of_c_unless_it_is_not_finite(tmp_path, monkeypatch):
    start(tmp_path, "run", epochs=2)
    kept = np.load(tmp_path / "run" / "correlation.npz")
    assert kept["step"] == 3 and kept["corner"].shape == (8, 8)
    np.testing.assert_allclose(kept["corner"].diagonal(), kept["diagonal"], atol=1e-6)
    assert kept["diagonal"].mean() == pytest.approx(lines(tmp_path / "run")[-1]["diagonal_mean"], abs=1e-6)
    break_steps(monkeypatch, {3})
    start(tmp_path, "broken", epochs=2)
    assert np.load(tmp_path / "broken" / "correlation.npz")["step"] == 1


def test_a_line_of_stats_has_all_figures(tmp_path):
    start(tmp_path, "run", run={"tensorboard": True}, epochs=1)
    line = lines(tmp_path / "run", without=())[-1]
    assert set(line) >= {"epoch", "step", "lr_weights", "lr_biases", "loss", "time", "loss_invariance",
                         "loss_redundancy", "diagonal_mean", "off_diagonal_rms", "effective_rank",
                         "embedding_spread", "gradient_norm_weights", "gradient_norm_biases",
                         "images_per_second", "data_wait_share", "skipped", "replaced_pictures"}
    assert 8 * (line["loss_invariance"] + line["loss_redundancy"]) == pytest.approx(line["loss"], rel=1e-5)
    assert 0 <= line["data_wait_share"] <= 1 and line["images_per_second"] > 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [0, 1]
    assert events.Scalars("loss")[1].value == pytest.approx(line["loss"])


@pytest.mark.parametrize("first, kept", [(2, 3), (0, 1), (9, 4)])
def test_stats_are_taken_back_to_the_checkpoint(tmp_path, first, kept):
    path = tmp_path / "stats.txt"
    path.write_text('the command\n{"step": 0}\n{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    logbook.take_back(path, first)
    wanted = ["the command", '{"step": 0}', '{"step": 1}', '{"step": 2}'][:kept]
    assert path.read_text().splitlines() == wanted


def test_wandb_is_opt_in_and_says_when_it_is_absent(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="--wandb expected the package wandb, found none"):
        start(tmp_path, "run", run={"wandb": True}, epochs=1)
    logged, ends = [], []
    run = types.SimpleNamespace(log=lambda values, step: logged.append((step, values)),
                                finish=lambda: ends.append(1))
    opened = []
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **k: opened.append(k) or run))
    start(tmp_path, "run", run={"wandb": True}, epochs=1)
    logbook.Logbook(toy_run(tmp_path, "run", wandb=True), 2).close()
    assert [step for step, _ in logged] == [0, 1] and logged[0][1]["loss"] > 0 and ends == [1, 1]
    assert opened[0]["id"] == opened[1]["id"] and opened[0]["resume"] == "allow"


def test_votes_by_hand():
    """Two classes at right angles; the third query lies nearest to the wrong one."""
    known = torch.eye(2).repeat_interleave(3, 0)
    classes = torch.tensor([0, 0, 0, 1, 1, 1])
    asked = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1], [0.1, 1.0], [0.2, 1.0]]), dim=1)
    assert knn.vote(known, classes, asked, torch.tensor([0, 1, 0])) == pytest.approx(200 / 3)
    # Two equal pictures of different classes: alone, each has only the other's vote.
    same, differ = torch.ones(2, 1), torch.tensor([0, 1])
    assert knn.vote(same, differ, same, differ, alone=True) == 0
    assert knn.vote(same, differ, same, differ) == 50


def test_knn_runs_before_the_first_and_after_each_epoch_and_changes_nothing(tmp_path, demo_root):
    plain = start(tmp_path, "plain", epochs=2)
    watched = start(tmp_path, "watched", run={"knn_data": demo_root / "imagenet"}, epochs=2)
    found = lines(tmp_path / "watched")
    found = [(line["epoch"], line["step"], line["knn"]) for line in found if "knn" in line]
    assert [row[:2] for row in found] == [(0, 0), (0, 1), (1, 3)] and all(0 <= row[2] <= 100 for row in found)
    states = [torch.load(run.files[0], weights_only=True) for run in (plain, watched)]
    assert all(torch.equal(value, states[1]["model"][name]) for name, value in states[0]["model"].items())
    assert torch.equal(states[0]["rng"]["cpu"], states[1]["rng"]["cpu"])
    assert json.dumps([line for line in lines(tmp_path / "watched") if "loss" in line]) == json.dumps(
        lines(tmp_path / "plain"))


def test_knn_data_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        start(tmp_path, "run", run={"knn_data": tmp_path / "nowhere"}, epochs=1)
