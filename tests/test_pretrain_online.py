"""The online probe: what it learns from, that it changes nothing, and that it goes on where it stopped."""
import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from pretrain import backbones, methods, trainer
from pretrain.methods import METHODS, recipe
from pretrain.optim import LARS, schedule_factor
from pretrain.upkeep import checkpoint
from pretrain.upkeep.online import OnlineProbe
from tests.pretrain_toys import lines, start, toy_backbone, toy_recipe
from tests.test_pretrain_methods import BATCH, TOYS, attached, views

SMALL = dict(projector="10-7", precision="fp32", batch_size=BATCH, image_size=24, warmup_epochs=0)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(backbones, "build_backbone", toy_backbone)


def prepared(name, **changes):
    """A method, its probe, and one batch's inputs and classes."""
    one = recipe(method=name, **SMALL | TOYS.get(name, {}) | changes)
    torch.manual_seed(5)
    network = methods.build(one).double()
    training, probe = attached(one, network)
    given = views(*(view.size for view in one.view_recipes()))
    return training, probe, given, torch.arange(BATCH) % 5


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_features_are_those_of_the_views_in_the_order_of_the_labels(name, accumulate):
    if accumulate > 1 and name in ("moco", "amcl_barlow_twins"):
        pytest.skip("takes no micro-batches")
    training, probe, given, labels = prepared(name, accumulate=accumulate)
    training.network.eval()  # then a picture's features do not depend on the batch
    trainer.backward(training, 3, [*given, labels] if training.recipe.labelled else given)
    assert len(probe.seen) == accumulate
    with torch.no_grad():
        wanted = [training.network.backbone(view) for view in given[:2]]
    for part, found in enumerate(probe.seen):
        both = [training.network.as_fed(view.tensor_split(accumulate)[part]) for view in wanted]
        assert len(found) in (len(both[0]), 2 * len(both[0]))
        assert torch.allclose(found, torch.cat(both)[:len(found)], atol=1e-10)


@pytest.mark.parametrize("clip", [False, True])
def test_a_step_is_that_of_a_plain_loop(clip):
    training, probe, given, labels = prepared("barlow_twins", clip_ratio=clip, trust_coefficient=0.02,
                                              epochs=4)
    layer = nn.Linear(probe.classifier.in_features, 5).double()
    layer.load_state_dict(probe.classifier.state_dict())
    assert isinstance(probe.optimizer, LARS) == clip
    momenta = [torch.zeros_like(p) for p in layer.parameters()]
    for step in range(3):
        trainer.backward(training, step, given)
        features, = probe.seen
        assert not features.requires_grad
        probe.learn(labels, step, 2, torch.tensor(False))
        halves = features.chunk(2)
        loss = sum(functional.cross_entropy(layer(half), labels) for half in halves) / 2
        rate = 0.1 * BATCH / 256 * schedule_factor(training.recipe, step, 2)
        gradients = torch.autograd.grad(loss, list(layer.parameters()))
        for place, (p, g) in enumerate(zip(layer.parameters(), gradients)):
            ratio = min(0.02 * p.norm() / g.norm() / rate, 1) if clip and p.ndim == 2 else 1
            momenta[place] = 0.9 * momenta[place] + ratio * g
            p.data -= rate * momenta[place]
    for ours, theirs in zip(probe.classifier.parameters(), layer.parameters()):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_a_step_that_is_skipped_teaches_nothing():
    training, probe, given, labels = prepared("simsiam")
    before = json.dumps([p.tolist() for p in probe.classifier.parameters()])
    given[0][0] = torch.nan
    trainer.backward(training, 0, given)
    probe.learn(labels, 0, 2, torch.tensor(True))
    assert json.dumps([p.tolist() for p in probe.classifier.parameters()]) == before and not probe.seen
    trainer.backward(training, 0, views(24, 24))
    probe.learn(labels, 0, 2, torch.tensor(False))
    assert all(p.isfinite().all() for p in probe.classifier.parameters())


@pytest.fixture
def pictures(tmp_path, demo_root):
    (tmp_path / "train").symlink_to(demo_root / "imagenet" / "train")
    return tmp_path, demo_root / "imagenet" / "val"


@pytest.mark.parametrize("name", ["barlow_twins", "moco", "supcon"])
def test_it_changes_nothing_of_the_network(name, pictures):
    root, place = pictures
    changes = dict(method=name, epochs=2, batch_size=8, **TOYS.get(name, {}))
    plain = start(root, "plain", **changes)
    watched = start(root, "watched", **changes, run={"online_probe": place})
    found = lines(root / "watched")
    judged = [line for line in found if "online_top1" in line]
    assert [line["epoch"] for line in judged] == [0, 0, 1]
    assert 0 <= judged[0]["online_top1"] <= judged[0]["online_top5"] <= 100
    states = [torch.load(run.files[0], weights_only=True) for run in (plain, watched)]
    assert all(torch.equal(value, states[1]["model"][key]) for key, value in states[0]["model"].items())
    assert torch.equal(states[0]["rng"]["cpu"], states[1]["rng"]["cpu"])
    assert json.dumps([line for line in found if "loss" in line]) == json.dumps(lines(root / "plain"))
    weights = states[1]["online"]["classifier"]["weight"]
    assert weights.shape == (10, 6) and weights.abs().max() > 0


def test_it_goes_on_from_a_checkpoint_and_belongs_to_the_whole_run(pictures):
    root, place = pictures
    changes = dict(epochs=2, batch_size=8)
    run = {"online_probe": place}
    start(root, "whole", **changes, run=run)
    folder = root / "whole"
    whole = torch.load(folder / "checkpoint.pth", weights_only=True)
    stats = lines(folder)
    min(checkpoint.earlier(folder / "checkpoint.pth")).replace(folder / "checkpoint.pth")
    with pytest.raises(ValueError, match="found one with an online probe; --online-probe belongs to a run"):
        start(root, "whole", **changes)
    start(root, "whole", **changes, run=run)
    again = torch.load(folder / "checkpoint.pth", weights_only=True)
    assert torch.equal(whole["online"]["classifier"]["weight"], again["online"]["classifier"]["weight"])
    assert all(torch.equal(*pair) for pair in zip(whole["online"]["momenta"], again["online"]["momenta"]))
    assert lines(folder) == stats
    start(root, "plain", **changes)
    with pytest.raises(ValueError, match="found one without an online probe"):
        start(root, "plain", **changes, run=run)


def test_pictures_that_cannot_judge_are_refused(pictures, tmp_path_factory):
    root, place = pictures
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        start(root, "run", run={"online_probe": root / "nowhere"})
    other = tmp_path_factory.mktemp("other") / "val"
    other.mkdir()
    for folder in sorted(place.iterdir())[1:]:
        (other / folder.name).symlink_to(folder)
    with pytest.raises(ValueError, match="expected the 10 classes of .*, found 9; first that only one has: "):
        start(root, "run", run={"online_probe": other})
    one, = sorted(place.iterdir())[:1]
    with pytest.raises(ValueError, match="expected pictures with labels, found none"):
        start(root, "run", run={"online_probe": one})
    with pytest.raises(ValueError, match="--compile hides"):
        start(root, "run", run={"online_probe": place, "compile": True})


def test_the_probe_draws_no_random_number():
    torch.manual_seed(3)
    network = methods.build(toy_recipe())
    state = torch.get_rng_state()
    first, second = (OnlineProbe(network, toy_recipe(), None, 5, CPU) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.classifier.weight, second.classifier.weight)
