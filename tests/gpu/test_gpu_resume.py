"""Stopped and resumed equals left alone, bit for bit, also on a GPU that is told to be deterministic."""
import os
import signal

import pytest
import torch
from test_pretrain_trainer import after_step, assert_same_end, load

from pretrain import trainer
from tests import pretrain_toys

RUNS = {
    "toy fp16 device views": dict(precision="fp16", views="device", accumulate=2),
    "toy fp32": dict(precision="fp32"),
    "ResNet-18 bf16": dict(precision="bf16", arch="resnet18", stem="cifar", image_size=32, views="fast"),
}


@pytest.fixture
def deterministic(monkeypatch):
    """As the user asks for it; CUBLAS_WORKSPACE_CONFIG is set in conftest.py. The fastest kernels may be
    others in every process, so the trainer's cudnn.benchmark must not choose them."""
    prepare = trainer.prepare

    def preparing(*arguments):
        training = prepare(*arguments)
        torch.backends.cudnn.benchmark = False
        return training
    monkeypatch.setattr(trainer, "prepare", preparing)
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("name", RUNS)
def test_stopped_and_resumed_equals_left_alone(name, device, tmp_path, monkeypatch):
    """Two epochs of three steps, the stop after the fourth. Two workers, so that batches are on their way."""
    if name.startswith("toy"):
        monkeypatch.setattr("pretrain.backbones.build_backbone", pretrain_toys.toy_backbone)
    pretrain_toys.write_pictures(tmp_path, 14)

    def start(folder):
        workers = 2 if device.type == "cuda" else 0
        return pretrain_toys.start(tmp_path, folder, {"device": device.type, "workers": workers},
                                   **dict(epochs=2) | RUNS[name])
    whole = start("whole")
    with monkeypatch.context() as patch:
        after_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert start("parts").signal == signal.SIGTERM
    assert load(tmp_path / "parts" / "checkpoint.pth")["step"] == 4
    torch.manual_seed(99)  # another process has another state
    parts = start("parts")
    for one, other in zip(parts.files[:2], whole.files[:2], strict=True):
        assert_same_end(load(one), load(other))
    assert pretrain_toys.lines(tmp_path / "parts") == pretrain_toys.lines(tmp_path / "whole")
    assert all(line["loss"] < 100 for line in pretrain_toys.lines(tmp_path / "whole"))
