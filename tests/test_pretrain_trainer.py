"""Long runs: whatever interrupts them, they end as the run left alone, bit for bit on a CPU."""
import multiprocessing
import os
import random
import shutil
import signal
import time

import pytest
import torch

from parallel.collectives import rank, world_size
from parallel.launch import launch
from pretrain import backbones, trainer
from pretrain.methods import METHODS
from pretrain.optim import LARS
from pretrain.upkeep import logbook
from tests import pretrain_toys
from tests.pretrain_toys import lines, toy_backbone, toy_recipe, toy_run, write_pictures
from tests.test_pretrain_methods import TOYS

EVERY_STEP = 1e-9  # minutes


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.backbones.build_backbone", toy_backbone)
    write_pictures(tmp_path, 14)  # three steps of four pictures an epoch
    return lambda folder, run=(), **changes: pretrain_toys.start(tmp_path, folder, run, **changes)


def load(path):
    return torch.load(path, weights_only=True)


def assert_same_end(one, other):
    """Every tensor and number of two checkpoints is the same."""
    assert type(one) is type(other) and (not isinstance(one, dict) or one.keys() == other.keys())
    if isinstance(one, dict):
        for name, value in one.items():
            assert_same_end(value, other[name])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other):
            assert_same_end(a, b)
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def after_step(monkeypatch, number, do):
    """Do something after a run's step of this number, counted from the start of the run."""
    step = trainer.train_step

    def stepping(training, at, *views):
        seen = step(training, at, *views)
        if at == number:
            do()
        return seen
    monkeypatch.setattr(trainer, "train_step", stepping)


@pytest.mark.parametrize("precision, step", [("fp32", 0), ("fp32", 4), ("fp32", 5), ("fp32", 7), ("fp16", 4)],
                         ids=["first step", "mid-epoch", "end of epoch", "last epoch", "fp16"])
def test_stopped_and_resumed_equals_left_alone(start, tmp_path, monkeypatch, precision, step):
    """SIGTERM during a step: it is finished and saved, and the rest follows in another process's state."""
    whole = start("whole", precision=precision)
    with monkeypatch.context() as patch:
        after_step(patch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        stopped = start("parts", precision=precision)
    assert stopped.signal == signal.SIGTERM and load(stopped.files[0])["step"] == step + 1
    assert not (tmp_path / "parts" / "resnet50.pth").exists()
    torch.manual_seed(99)
    parts = start("parts", precision=precision)
    assert parts.signal == 0
    assert_same_end(load(parts.files[0]), load(whole.files[0]))
    assert_same_end(load(parts.files[1]), load(whole.files[1]))
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_a_skip_before_a_stop_is_remembered(start, tmp_path, monkeypatch):
    """The guard's running mean and counts, and a nan, survive the interruption."""
    step = trainer.train_step

    def first_is_nan(training, at, views):
        return step(training, at, (views[0] * float("nan") if at == 2 else views[0], views[1]))
    monkeypatch.setattr(trainer, "train_step", first_is_nan)
    whole = start("whole")
    with monkeypatch.context() as patch:
        after_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        assert start("parts").signal == signal.SIGUSR1
    assert_same_end(load(start("parts").files[0]), load(whole.files[0]))
    assert load(whole.files[0])["guard"]["skipped"] == 1


def test_numbers_that_are_read_late_change_nothing(start, tmp_path, monkeypatch):
    """As on a GPU, where the host is a step ahead. Step 1 of 9 is a nan; every fourth step is logged."""
    step, sparse = trainer.train_step, {"print_freq": 4}

    def second_is_nan(training, at, views):
        y1, y2 = views
        return step(training, at, (y1 * float("nan") if at == 1 else y1, y2))
    monkeypatch.setattr(trainer, "train_step", second_is_nan)
    whole = start("whole", run=sparse)
    monkeypatch.setitem(trainer.LATE, "cpu", 1)
    assert_same_end(load(start("late", run=sparse).files[0]), load(whole.files[0]))
    with monkeypatch.context() as patch:
        after_step(patch, 6, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        assert start("parts", run=sparse).signal == signal.SIGUSR1
    assert load(tmp_path / "parts" / "checkpoint.pth")["step"] == 8  # one step later
    assert_same_end(load(start("parts", run=sparse).files[0]), load(whole.files[0]))
    logged = lines(tmp_path / "whole")
    assert [line["step"] for line in logged] == [0, 1, 4, 8] and "skipped_because" in logged[1]
    assert lines(tmp_path / "late") == lines(tmp_path / "parts") == logged
    with pytest.raises(ValueError, match="1 steps in a row were skipped, the last at step 1 "):
        start("strict", run=sparse | {"max_skips": 1})


def test_each_epoch_has_its_own_order(start, monkeypatch):
    seen, step = [], trainer.train_step

    def watching(training, at, views):
        seen.append((at, views[0].sum().item()))
        return step(training, at, views)
    monkeypatch.setattr(trainer, "train_step", watching)
    start("whole")
    whole = list(seen)
    assert [at for at, _ in whole] == list(range(9)) and len({value for _, value in whole}) == 9
    seen.clear()
    with monkeypatch.context() as patch:
        after_step(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        start("parts")
    start("parts")
    assert seen == whole


def test_checkpoints_by_the_clock(start, monkeypatch, tmp_path):
    saved, save = [], trainer.Training.save

    def noting(training, position):
        saved.append((position.epoch, position.start, position.step))
        save(training, position)
    monkeypatch.setattr(trainer.Training, "save", noting)
    start("clock", run={"checkpoint_minutes": EVERY_STEP}, epochs=2)
    assert saved == [(0, 1, 1), (0, 2, 2), (1, 0, 3), (1, 1, 4), (1, 2, 5), (2, 0, 6)]
    saved.clear()
    start("epochs", run={"checkpoint_minutes": 0}, epochs=2)
    assert saved == [(1, 0, 3), (2, 0, 6)]
    states = [load(tmp_path / folder / "checkpoint.pth") for folder in ("clock", "epochs")]
    assert_same_end(*states)


def test_a_finished_run_is_left_as_it_is(start, tmp_path):
    before = start("run")
    content, written = before.files[0].read_bytes(), lines(tmp_path / "run", without=())
    after = start("run")
    assert after.files[0].read_bytes() == content and lines(tmp_path / "run", without=()) == written


def live(root, run, changes, folder):
    """One life of a run, in a process of its own that shares only the disk."""
    backbones.build_backbone = toy_backbone
    pretrain_toys.start(root, folder, run, **changes)


def test_ten_kills_at_random_moments_leave_no_trace(start, tmp_path):
    """kill -9, checkpoints after every step so that some hits fall into writing; then stats and weights are
    those of the run left alone."""
    changes, run = {"epochs": 20, "warmup_epochs": 2}, {"checkpoint_minutes": EVERY_STEP, "keep": 3}
    whole = start("whole", **changes)
    path, draw = tmp_path / "parts" / "checkpoint.pth", random.Random(0)
    (tmp_path / "parts").mkdir()
    context = multiprocessing.get_context("forkserver")  # its server has imported torch and done nothing else
    context.set_forkserver_preload(["tests.pretrain_toys", "tests.test_pretrain_trainer"])
    steps, kills = [], 0
    while kills < 10:
        before = path.stat().st_mtime_ns if path.exists() else 0
        process = context.Process(target=live, args=(tmp_path, run, changes, "parts"))
        process.start()
        deadline = time.monotonic() + 60
        while (path.stat().st_mtime_ns if path.exists() else 0) == before and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.06))
        assert process.is_alive(), "the run ended before its ten kills; give it more epochs"
        process.kill()
        process.join()
        kills += 1
        steps.append(load(path)["step"])  # whole at any moment
    assert steps == sorted(set(steps)) and steps[-1] < 60
    end = start("parts", run, **changes)
    assert_same_end(load(end.files[0]), load(whole.files[0]))
    assert_same_end(load(end.files[1]), load(whole.files[1]))
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert [line["step"] for line in lines(tmp_path / "parts")] == list(range(60))


def one_part(root, folder, stop_at, accumulate):
    """In each process of a group: train, until after a step one of them is asked to stop."""
    backbones.build_backbone = toy_backbone
    step = trainer.train_step

    def stepping(training, at, *views):
        seen = step(training, at, *views)
        torch.rand(rank())  # so that no two processes have the same random state
        if at == stop_at and rank() == world_size() - 1:  # one process is told, all stop
            os.kill(os.getpid(), signal.SIGUSR1)
        return seen
    trainer.train_step = stepping
    try:
        return trainer.train(toy_recipe(accumulate=accumulate), toy_run(root, folder))
    finally:
        trainer.train_step = step


def test_another_number_of_processes_goes_on_to_the_same_end(start, tmp_path):
    """With micro-batches, whose joint statistics do not depend on it either."""
    whole = load(start("whole", accumulate=2).files[0])
    outcome = launch(one_part, 2, tmp_path, "parts", 4, 2)
    assert outcome.signal == signal.SIGUSR1
    parts = load(start("parts", accumulate=2).files[0])
    for name, value in whole["model"].items():
        assert torch.allclose(value.double(), parts["model"][name].double(), rtol=1e-3, atol=1e-4), name
    for one, other in zip(lines(tmp_path / "whole"), lines(tmp_path / "parts"), strict=True):
        assert one["step"] == other["step"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3, abs=1e-4)


def whole_and_part(root):
    return one_part(root, "whole", None, 1), one_part(root, "parts", 4, 1)


def test_two_processes_stopped_and_resumed_equal_two_left_alone(start, tmp_path):
    """Each process takes its own row of the random states: the second one's begins within the tensor."""
    whole, stopped = launch(whole_and_part, 2, tmp_path)
    assert whole.signal == 0 and stopped.signal == signal.SIGUSR1
    states = load(stopped.files[0])["rng"]["cpu"]
    assert len(states) == 2 and not torch.equal(*states)
    parts = launch(one_part, 2, tmp_path, "parts", None, 1)
    assert_same_end(load(parts.files[0]), load(whole.files[0]))
    assert_same_end(load(parts.files[1]), load(whole.files[1]))
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def of_each_method(root, end, run=()):
    """In each process of a group: train each method to its end."""
    backbones.build_backbone = toy_backbone
    for name in METHODS:
        torch.manual_seed(rank())  # so that no two processes have the same random state
        pretrain_toys.start(root, f"{name}-{end}", run, method=name, epochs=2, **TOYS.get(name, {}))


def test_two_processes_killed_in_mid_epoch_lose_nothing_of_any_method(start, tmp_path):
    """Averaged networks, full queues and prototypes among it. What a kill leaves behind is the checkpoint of
    four steps, and stats.txt with later ones."""
    launch(of_each_method, 2, tmp_path, "whole", dict(checkpoint_minutes=EVERY_STEP, keep=9))
    for name in METHODS:
        killed = shutil.copytree(tmp_path / f"{name}-whole", tmp_path / f"{name}-killed")
        (killed / "checkpoint-000000004.pth").replace(killed / "checkpoint.pth")
    launch(of_each_method, 2, tmp_path, "killed")
    for name in METHODS:
        whole, killed = (tmp_path / f"{name}-{end}" for end in ("whole", "killed"))
        for file in ("checkpoint.pth", f"{METHODS[name].Recipe().arch}.pth"):
            assert_same_end(load(killed / file), load(whole / file))
        assert lines(killed) == lines(whole) and len(lines(whole)) == 6


@pytest.mark.parametrize("precision, views, channels_last", [
    ("bf16", "fast", True), ("fp16", "device", False)])
def test_16_bits_with_micro_batches_and_views(start, precision, views, channels_last):
    state = load(start("run", run={"channels_last": channels_last}, precision=precision, views=views,
                       accumulate=2, epochs=1).files[0])
    assert state["guard"]["counted"] + (precision == "fp16") >= 3  # of three steps, one may overflow
    assert all(value.isfinite().all() for value in state["model"].values())


@pytest.mark.parametrize("rate, gradient, moved", [
    (0.5, 10.0, 0.01 * 2 / 10 * 10),  # below the clip: eta |p| / |g| of the gradient, whatever the rate
    (0.5, 0.001, 0.5 * 0.001),  # clipped: a step of SGD
    (0.0, 10.0, 0.0),  # the warm-up's first step
])
def test_clipped_ratio_by_hand(rate, gradient, moved):
    """A weight of norm 2 with solo-learn's clip_lr, eta 0.01, no decay, first step."""
    weight = torch.nn.Parameter(torch.tensor([[2.0]]))
    weight.grad = torch.tensor([[gradient]])
    LARS([weight], lr=rate, eta=0.01, clip=True).step()
    assert weight.item() == pytest.approx(2 - moved, abs=1e-6)


def test_a_long_gradient_is_shortened_over_all_parameters(start, tmp_path):
    """One step of plain SGD moves all weights together by the rate times the norm."""
    moved = {}
    for folder, rate, norm in (("still", 0.0, 0.0), ("free", 1.0, 0.0), ("short", 1.0, 0.02),
                               ("long", 1.0, 1e6)):
        start(folder, epochs=1, batch_size=14, warmup_epochs=0, optimizer="sgd", schedule="constant",
              weight_decay=0.0, reference_world_size=1, learning_rate_weights=rate,
              learning_rate_biases=rate, max_norm=norm)
        model = load(tmp_path / folder / "checkpoint.pth")["model"]
        moved[folder] = torch.cat([value.flatten() for name, value in sorted(model.items())
                                   if name.endswith(("weight", "bias"))])
        if folder != "still":
            logged = sum(row[f"gradient_norm_{kind}"] ** 2 for row in lines(tmp_path / folder)
                         for kind in ("weights", "biases")) ** 0.5
            expected = 14 / 256 * (0.02 if folder == "short" else logged)
            assert logged > 0.1
            assert (moved[folder] - moved["still"]).norm().item() == pytest.approx(expected, rel=1e-3)
    assert torch.equal(moved["free"], moved["long"])


def test_a_folder_has_one_run_at_a_time(start, tmp_path):
    start("run")
    with logbook.alone_in(tmp_path / "run"), pytest.raises(ValueError, match="expected no run at work"):
        start("run")
    start("run")
