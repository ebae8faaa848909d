"""A forecast agrees with what the step really computes, allocates and sends."""
from pathlib import Path

import pytest
import torch
from pretrain_toys import toy_recipe
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from parallel import collectives
from parallel.launch import launch
from pretrain import methods
from pretrain.optim import build_optimizer
from pretrain.trainer import Run, Training, backward
from pretrain.upkeep.forecast import Message, forecast, forward_flops
from pretrain.upkeep.guard import Guard


def two_steps(recipe):
    network = methods.build(recipe)
    training = Training(recipe, Run(Path(), Path()), torch.device("cpu"), None, network, network,
                        build_optimizer(recipe, network), torch.amp.GradScaler("cpu", enabled=False),
                        Guard(network, recipe.spike_factor))
    views = tuple(torch.rand(recipe.batch_size, 3, one.size, one.size) for one in recipe.view_recipes())
    for step in range(2):
        training.optimizer.zero_grad()
        training.guard.begin()
        backward(training, step, views)
        training.optimizer.step()


RECIPES = {
    "barlow_twins": dict(batch_size=16, image_size=96, projector="512-512"),
    "micro-batches": dict(batch_size=16, image_size=64, projector="64-64", accumulate=4),
    "adam, 16 bits": dict(batch_size=16, image_size=64, projector="64", optimizer="adam", precision="bf16"),
    "vicreg": dict(method="vicreg", batch_size=16, image_size=64, projector="512-512"),
    "swav": dict(method="swav", batch_size=16, image_size=64, small_size=32, projector="64-64"),
}


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_operations_and_memory_of_a_step_are_the_real_ones(changes):
    """Memory is what the CPU's allocator handed out, so oneDNN's workspaces are in it and the margin is two
    per cent."""
    recipe = toy_recipe(arch="resnet18", **changes)
    foreseen = forecast(recipe, device="cpu")
    with FlopCounterMode(display=False) as counter:
        two_steps(recipe)
    assert 2 * foreseen.flops == counter.get_total_flops()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        two_steps(recipe)
    held = peak = 0
    events = [one for one in seen.profiler.kineto_results.events() if one.name() == "[memory]"]
    for event in sorted(events, key=lambda one: one.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert foreseen.peak_bytes == pytest.approx(peak, rel=0.02)


def test_the_papers_step_costs_what_torchs_trackers_said():
    """12.9 TFLOP and 22.5 GiB by FlopCounterMode and MemTracker, without momenta (0.65) and the next views
    (0.29)."""
    recipe = methods.recipe("code", batch_size=256, precision="bf16")
    alone, one_of_eight = forecast(recipe), forecast(recipe, 8)
    assert alone.flops == pytest.approx(12.9e12, rel=0.01)
    assert alone.peak_bytes / 2**30 == pytest.approx(22.5 + 0.65 + 0.29, abs=0.2)
    assert one_of_eight.images == 32
    assert one_of_eight.flops == pytest.approx(alone.flops / 8, rel=0.02)  # the loss's share is larger
    gradients = sum(message.bytes for message in one_of_eight.traffic["gradients"])
    assert gradients == pytest.approx(4 * (23.5e6 + 2048 * 8192 + 2 * 8192**2), rel=0.01)
    parameters = 23.508e6 + 2048 * 8192 + 2 * 8192**2 + 4 * 8192
    assert alone.checkpoint_bytes == pytest.approx(4 * 2 * parameters, rel=1e-3)  # with LARS's momenta
    assert not any(alone.traffic[name] for name in ("batch norm", "gradients", "buffers"))


def sent(recipes):
    """What a process really sends for each recipe's loss, noted where it leaves."""
    messages = []
    dist = collectives.dist
    reduce, gather = dist.all_reduce, dist.all_gather

    def all_reduce(tensor, **more):
        if tensor.dtype != torch.int64:  # the counts of rows, which a forecast knows
            messages.append(Message("all-reduce", tensor.nbytes))
        reduce(tensor, **more)

    def all_gather(parts, tensor):
        messages.append(Message("all-gather", tensor.nbytes * len(parts)))
        gather(parts, tensor)

    dist.all_reduce, dist.all_gather = all_reduce, all_gather
    found = []
    for recipe in recipes:
        width = int(recipe.projector.split("-")[-1])
        outputs = tuple(torch.randn(recipe.batch_size // 2, width, requires_grad=True) for _ in "12")
        methods.build(recipe).loss(outputs, (), 0)
        found.append(messages[:])
        messages.clear()
    return found


def test_losses_send_what_is_foreseen():
    """The Gram form, the direct one, and the other methods."""
    recipes = [toy_recipe(arch="resnet18", **changes) for changes in (
        dict(projector="16-16"), dict(batch_size=32), dict(method="vicreg"), dict(method="hsic"))]
    found = launch(sent, 2, recipes)
    assert found == [forecast(recipe, 2).traffic["loss"] for recipe in recipes] and all(found)


def test_batch_norm_is_joint_in_every_process():
    """20 layers of ResNet-18 and one of the projector, two views: forward each a gather, backward a sum."""
    messages = forecast(toy_recipe(arch="resnet18"), 4).traffic["batch norm"]
    assert len(messages) == 2 * 2 * 21
    assert messages[0] == Message("all-gather", 4 * (2 * 64 + 1) * 4)


@pytest.mark.parametrize("gib, word", [(None, "a device of 1 GiB has room"), (1.0, "1.0 GiB has room"),
                                       (0.1, "no safe room")])
def test_the_sentence_says_whether_it_fits(gib, word):
    assert word in forecast(toy_recipe(arch="resnet18")).sentence(gib)


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_has_a_forecast(name):
    """Also one with labels, a second network or random numbers of its own."""
    one = methods.recipe(method=name, arch="resnet18", image_size=32, batch_size=64, precision="fp32")
    cost = forecast(one, processes=2)
    assert cost.flops > 0 and cost.peak_bytes > 0 and cost.traffic["loss"]


def test_forward_passes_of_one_picture():
    """torchvision states 4.09 G multiplications with additions for ResNet-50. Mixed Barlow Twins has three
    passes where Barlow Twins has two."""
    assert forward_flops(methods.recipe(method="supervised")) == pytest.approx(2 * 4.09e9, rel=1e-3)
    small = {"arch": "resnet18", "stem": "cifar", "image_size": 32, "projector": "64-64", "batch_size": 4}
    two, three = (forward_flops(methods.recipe(method=name, **small))
                  for name in ("barlow_twins", "mixed_barlow_twins"))
    assert 2 * three == 3 * two
