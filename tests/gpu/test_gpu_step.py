"""One update of the trainer on CUDA against the same update in float64 on the CPU.

A distance is |found - wanted| / |wanted| of the update of all weights or of all biases together. LARS gives
the update of a weight its length, so this is the error of the gradient's direction. Bounds, for a ResNet-18
without a maximum pooling on 16 pictures of 32 pixels, where batch norm over few values magnifies rounding:
- float32: 5e-5 on a CPU; kernels on a GPU may have several times its rounding (Winograd), 1e-3 allowed.
- bfloat16: 0.17 on a CPU, 0.4 allowed; the toy's 0.08 and 0.2.
- TF32 in convolutions (torch's default, which the trainer leaves alone) cuts to 10 bits where bfloat16 rounds
  to 7, and not everywhere: a quarter of bfloat16's bound. float16 rounds to 10 bits: the same.
"""
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch

from pretrain import trainer
from tests.gpu_toys import COUNT, prepared, update, views
from tests.pretrain_toys import lines, start, toy_backbone, write_pictures
from transfer.precision import tf32


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("step")
    write_pictures(root, COUNT)
    return root


@pytest.fixture(scope="module")
def wanted(root):
    """Of the ResNet-18 and of the toy, in float64 on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        found = [update(prepared(root, torch.device("cpu")), wide=True)]
        patch.setattr("pretrain.backbones.build_backbone", toy_backbone)
        return [*found, update(prepared(root, torch.device("cpu")), wide=True)]


def distances(found, wanted):
    (moves, seen), (exact, other) = found, wanted
    apart = [((a - b).norm() / b.norm()).item() for a, b in zip(moves, exact)]
    print(f"loss {abs(seen.loss / other.loss - 1):.1e}, weights {apart[0]:.1e}, biases {apart[1]:.1e}")
    return max(apart), abs(seen.loss / other.loss - 1)


CASES = {  # precision, settings of the run, TF32, bounds of the update and of the loss
    "fp32 channels_last": ("fp32", {"channels_last": True}, False, 1e-3, 1e-5),
    "fp32 contiguous": ("fp32", {"channels_last": False}, False, 1e-3, 1e-5),
    "tf32": ("fp32", {}, True, 0.1, 0.01),
    "bf16 channels_last": ("bf16", {"channels_last": True}, False, 0.4, 0.03),
    "bf16 contiguous": ("bf16", {"channels_last": False}, False, 0.4, 0.03),
    "fp16 channels_last": ("fp16", {"channels_last": True}, False, 0.1, 0.01),
}


@pytest.mark.parametrize("case", CASES)
def test_an_update_is_the_exact_one_but_for_rounding(root, wanted, device, case):
    precision, run, allowed, of_update, of_loss = CASES[case]
    if (precision, device.type) == ("fp16", "cpu"):
        pytest.skip("a CPU takes half a minute for a ResNet-18's step in float16; the toy's is below")
    with tf32(allowed):
        found = update(prepared(root, device, run, precision=precision))
    moved, loss = distances(found, wanted[0])
    assert not found[1].skipped and moved <= of_update and loss <= of_loss


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr("pretrain.backbones.build_backbone", toy_backbone)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("precision, compiled, bound", [
    ("fp16", False, 0.05), ("fp32", True, 1e-3), ("bf16", True, 0.2)],
    ids=["fp16", "fp32 compiled", "bf16 compiled"])
def test_a_small_network_takes_the_same_step(root, wanted, device, precision, compiled, bound):
    if compiled and not (shutil.which("cc") and Path(sysconfig.get_path("include"), "Python.h").exists()):
        pytest.skip("torch.compile needs a C compiler (cc) and Python.h, which are not here")
    with tf32(allowed=False):
        found = update(prepared(root, device, {"compile": compiled}, precision=precision))
    moved, _ = distances(found, wanted[1])
    assert moved <= bound


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_overflow_of_float16_leaves_the_step_out_and_halves_the_factor(root, device, accumulate):
    training = prepared(root, device, precision="fp16", accumulate=accumulate)
    training.scaler = torch.amp.GradScaler(device.type, init_scale=2.0 ** 40)
    (weights, biases), seen = update(training)
    assert not weights.any() and not biases.any() and not seen.reason
    assert training.scaler.get_scale() == 2.0 ** 39 and training.guard.state_dict()["skipped"] == 0
    training.scaler = torch.amp.GradScaler(device.type, init_scale=1024.0)
    (weights, biases), seen = update(training)
    assert weights.any() and biases.any() and training.scaler.get_scale() == 1024.0


def test_a_nan_is_skipped_and_leaves_no_trace(root, device):
    training = prepared(root, device, precision="bf16")
    buffers = [buffer.clone() for buffer in training.network.buffers()]
    (weights, biases), seen = update(training, [view * float("nan") for view in views()])
    assert "loss is nan" in seen.reason and not weights.any() and not biases.any()
    assert all(torch.equal(a, b) for a, b in zip(buffers, training.network.buffers()))


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"precision": "fp16"}, {"accumulate": 2},
                                     {"views": "device", "data_on": "device"}, {"views": "device"}], ids=str)
def test_no_step_waits_for_the_host(root, cuda, changes):
    """Nothing between the loader's batch and the update may synchronise; torch would raise."""
    run = {"data_on": changes.pop("data_on", "host")}
    training = prepared(root, cuda, run, **{"epochs": 4, **changes})
    training.network.train()
    for epoch in range(3):
        for views_ in training.feed.batches(epoch, 0):
            if epoch:  # the first makes what stays: momenta, constants, plans of kernels
                torch.cuda.set_sync_debug_mode("error")
            try:
                seen = trainer.train_step(training, epoch, views_)
                read = trainer.on_its_way(torch.cat([seen.numbers, trainer.news(training)]))
            finally:
                torch.cuda.set_sync_debug_mode("default")
            assert training.guard.read(read()[:len(seen.numbers)]).loss > 0


@pytest.mark.usefixtures("toy")
def test_numbers_read_one_step_late_are_the_same(root, cuda, tmp_path, monkeypatch):
    torch.use_deterministic_algorithms(True)
    for late in (0, 1):
        monkeypatch.setitem(trainer.LATE, "cuda", late)
        start(root, str(tmp_path / str(late)), dict(device="cuda", print_freq=5), views="device", epochs=4)
    assert lines(tmp_path / "0") == lines(tmp_path / "1")
