"""A stop signal in the middle of a transfer run: it is saved after its step and continues exactly."""
import dataclasses
import json
import os
import signal

import classification_toys as toys
import pytest
import torch

from parallel import signals
from parallel.collectives import rank, world_size
from parallel.launch import launch
from transfer.classification import finetune, linear, training

LINEAR = linear.Config(dataset="set", epochs=2, batch_size=4, image_size=32, batch_norm=True)
SWEEP = dataclasses.replace(LINEAR, held_out=0.4, sweep_learning_rates=(0.1, 1.0))
FINETUNE = finetune.Config(dataset="set", split="draw:100%", epochs=2, batch_size=4, image_size=64)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    toys.image_tree(root / "set")
    return root


def stopped_after(run, config, context, steps):
    """A run whose last rank gets SIGTERM in its step of this number, counted over epochs."""
    taken, add = [], training.sum_gradients

    def counting(parameters):
        taken.append(None)
        if len(taken) == steps and rank() == world_size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        add(parameters)
    training.sum_gradients = counting
    try:
        run(toys.backbone(), config, context)
    except signals.Stopped as stop:
        return stop.number
    finally:
        training.sum_gradients = add


def continued(run, config, context):
    return run(toys.backbone(), config, dataclasses.replace(context, resume=True))


def assert_same(one, other):
    for name, value in one.items():
        if isinstance(value, dict):
            assert_same(value, other[name])
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name]), name
        else:
            assert value == other[name], name


@pytest.mark.parametrize("processes, run, config, steps, stood", [
    (1, linear.run, LINEAR, 2, (0, 2)), (1, linear.run, LINEAR, 8, (1, 4)), (2, linear.run, SWEEP, 3, (1, 1)),
    (2, finetune.run, FINETUNE, 5, (1, 1)),
], ids=["linear", "last step", "sweep, two processes", "fine-tuning, two processes"])
def test_a_stopped_run_continues_within_its_epoch(root, tmp_path, processes, run, config, steps, stood):
    whole, parts = (toys.context(root, tmp_path / name, gpus=processes) for name in ("whole", "parts"))
    with signals.listening():
        found = launch(stopped_after, processes, run, config, parts, steps)
    saved = torch.load(parts.out / "checkpoint.pth", weights_only=True)
    assert (found, len(saved["history"]), saved["progress"]["step"]) == (signal.SIGTERM, *stood)
    figures = [launch(continued, processes, run, config, context) for context in (whole, parts)]
    assert figures[0] == figures[1]
    one, other = (torch.load(tmp_path / name / "checkpoint.pth", weights_only=True)
                  for name in ("whole", "parts"))
    assert_same(one, other)
    curves = [json.loads((tmp_path / name / "record" / "curve.json").read_text())
              for name in ("whole", "parts")]
    assert curves[0] == curves[1]
