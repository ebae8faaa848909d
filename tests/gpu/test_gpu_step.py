"""One update of the trainer on CUDA against the same update in float64 on the CPU.

A distance is |found - wanted| / |wanted| of the update of all weights or of all biases together. LARS gives the
update of a weight its length, so this is the error of the gradient's direction. Bounds, for a ResNet-18 without a
maximum pooling on 16 pictures of 32 pixels, where batch norm over few values magnifies rounding:
- float32: 5e-5 on a CPU; kernels on a GPU may have several times its rounding (Winograd), 1e-3 allowed.
- bfloat16: 0.08 on a CPU, 0.2 allowed.
- TF32 in convolutions (torch's default, which the trainer leaves alone) cuts to 10 bits where bfloat16 rounds to 7,
  and not everywhere: a quarter of bfloat16's bound. float16 rounds to 10 bits: the same.
"""
import shutil

import pytest
import torch

from pretrain import trainer
from pretrain.trainer import Run
from tests.pretrain_toys import toy_backbone, toy_recipe, write_pictures
from transfer.precision import tf32

COUNT, SIZE = 16, 32
SETTINGS = dict(batch_size=COUNT, image_size=SIZE, arch="resnet18", stem="cifar", projector="64-32", epochs=1,
                warmup_epochs=0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("step")
    write_pictures(root, COUNT)
    return root


def views():
    generator = torch.Generator().manual_seed(3)
    pictures = torch.randn(COUNT, 3, SIZE, SIZE, generator=generator)
    return pictures, pictures + 0.5 * torch.randn(COUNT, 3, SIZE, SIZE, generator=generator)


def prepared(root, device, run=(), **changes):
    recipe = toy_recipe(**SETTINGS | changes)
    return trainer.prepare(recipe, Run(root, root, device=device.type, workers=0, **dict(run)))


def update(training, wide=False, step=0):
    """(what trainer.train_step did to weights and to biases, float64 on the CPU; what it saw)."""
    network = training.network
    if wide:
        network.double()
    before = [p.detach().double().cpu().clone() for p in network.parameters()]
    given = [view.to(training.device, torch.float64 if wide else torch.float32,
                     memory_format=training.run.memory_format) for view in views()]
    network.train()
    seen = trainer.train_step(training, step, given)
    moves = [p.detach().double().cpu() - old for p, old in zip(network.parameters(), before)]
    return [torch.cat([move.flatten() for move in moves if (move.ndim == 1) == flat]) for flat in (False, True)], seen


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
    "tf32": ("fp32", {}, True, 0.05, 0.01),
    "bf16 channels_last": ("bf16", {"channels_last": True}, False, 0.2, 0.03),
    "bf16 contiguous": ("bf16", {"channels_last": False}, False, 0.2, 0.03),
    "fp16 channels_last": ("fp16", {"channels_last": True}, False, 0.05, 0.01),
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
@pytest.mark.parametrize("precision, compiled, bound", [("fp16", False, 0.05), ("fp32", True, 1e-3),
                                                        ("bf16", True, 0.2)])
def test_a_small_network_takes_the_same_step_compiled_and_in_float16(root, wanted, device, precision, compiled,
                                                                     bound):
    if compiled and not shutil.which("cc"):
        pytest.skip("torch.compile needs a C compiler, and there is no cc here")
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
    assert not weights.any() and not biases.any() and not seen.skipped
    assert training.scaler.get_scale() == 2.0 ** 39 and training.guard.skipped == 0
    training.scaler = torch.amp.GradScaler(device.type, init_scale=1024.0)
    (weights, biases), seen = update(training)
    assert weights.any() and biases.any() and training.scaler.get_scale() == 1024.0


def test_a_nan_is_skipped_and_leaves_no_trace(root, device, monkeypatch):
    training = prepared(root, device, precision="bf16")
    buffers = [buffer.clone() for buffer in training.network.buffers()]
    nan = [view * float("nan") for view in views()]
    monkeypatch.setitem(globals(), "views", lambda: nan)
    (weights, biases), seen = update(training)
    assert "loss is nan" in seen.skipped and not weights.any() and not biases.any()
    assert all(torch.equal(a, b) for a, b in zip(buffers, training.network.buffers()))
