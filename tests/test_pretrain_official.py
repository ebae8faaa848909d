"""The official program goes on from our checkpoint.pth, and ours from the official one.

Restated here, after main.py of facebookresearch/barlowtwins at 8e8d284: LARS with the options of its groups,
the rates, the loss, and what a checkpoint holds (lines 95-110, 120-170, 205-263).
"""
import math

import pytest
import torch
from torch import nn

from pretrain.trainer import prepare
from tests import pretrain_toys
from tests.pretrain_toys import lines, toy_backbone, toy_recipe, toy_run, write_pictures

EPOCHS, BATCH = 3, 4
CHANGES = {"epochs": EPOCHS, "batch_size": BATCH, "reference_world_size": "actual", "warmup_epochs": 1}


class OfficialLARS(torch.optim.Optimizer):
    def __init__(self, parameters, weight_decay):
        super().__init__(parameters, {"lr": 0, "weight_decay": weight_decay, "momentum": 0.9, "eta": 0.001,
                                      "weight_decay_filter": True, "lars_adaptation_filter": True})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                update = p.grad
                if p.ndim > 1 or not group["weight_decay_filter"]:
                    update = update + group["weight_decay"] * p
                if p.ndim > 1 or not group["lars_adaptation_filter"]:
                    weight, length = p.norm(), update.norm()
                    if weight > 0 and length > 0:
                        update = update * (group["eta"] * weight / length)
                mu = self.state[p].setdefault("mu", torch.zeros_like(p))
                mu.mul_(group["momentum"]).add_(update)
                p.sub_(group["lr"] * mu)


class Official:
    """The official program around our network and pictures, in one process."""

    def __init__(self, root, folder):
        self.config = toy_recipe(**CHANGES)
        training = prepare(self.config, toy_run(root, folder))
        self.feed, self.model = training.feed, nn.ModuleDict({"module": training.network})  # as DDP names it
        parameters = list(self.model.parameters())
        self.optimizer = OfficialLARS([{"params": [p for p in parameters if p.ndim != 1]},
                                       {"params": [p for p in parameters if p.ndim == 1]}],
                                      self.config.weight_decay)
        self.epoch, self.rates = 0, []

    def load(self, path):
        found = torch.load(path, map_location="cpu")
        self.epoch = found["epoch"]
        self.model.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])

    def save(self, path):
        torch.save({"epoch": self.epoch, "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict()}, path)

    def train_epoch(self):
        network, steps = self.model["module"], self.feed.steps
        network.train()
        for step, views in enumerate(self.feed.batches(self.epoch, 0), start=self.epoch * steps):
            share = BATCH / 256 * self.share(step, steps)
            self.rates.append((share * self.config.learning_rate_weights,
                               share * self.config.learning_rate_biases))
            for group, rate in zip(self.optimizer.param_groups, self.rates[-1]):
                group["lr"] = rate
            self.optimizer.zero_grad()
            one, two = (network.bn(network.projector(network.backbone(view))) for view in views)
            c = one.T @ two / BATCH
            off = c - torch.diag(c.diagonal())
            ((c.diagonal() - 1).square().sum() + self.config.lambd * off.square().sum()).backward()
            self.optimizer.step()
        self.epoch += 1

    def share(self, step, steps):
        """Of the peak rates; the warm-up is an epoch here, ten there."""
        if step < steps:
            return step / steps
        cosine = 0.5 * (1 + math.cos(math.pi * (step - steps) / (EPOCHS * steps - steps)))
        return cosine + 0.001 * (1 - cosine)


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.backbones.build_backbone", toy_backbone)
    write_pictures(tmp_path, 12)  # three whole batches
    return lambda folder, **changes: pretrain_toys.start(tmp_path, folder, {"keep": 9},
                                                         **CHANGES | changes).files


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(value.double(), other[name].double(), rtol=1e-4, atol=1e-5), name


def model_of(path):
    return torch.load(path, weights_only=True)["model"]


def test_the_official_program_goes_on_from_ours(start, tmp_path):
    final, *_ = start("ours")
    official = Official(tmp_path, "official")
    official.load(tmp_path / "ours" / "checkpoint-000000006.pth")
    assert official.epoch == 2
    official.train_epoch()
    assert_close(official.model.state_dict(), model_of(final))
    rates = [(line["lr_weights"], line["lr_biases"]) for line in lines(tmp_path / "ours")][6:]
    assert official.rates == [pytest.approx(pair) for pair in rates]


def test_ours_goes_on_from_the_official_one_and_says_what_it_could_not_compare(start, tmp_path, capsys):
    official = Official(tmp_path, "ours")
    for _ in range(2):
        official.train_epoch()
    official.save(tmp_path / "ours" / "checkpoint.pth")
    official.train_epoch()
    final, *_ = start("ours")
    assert_close(model_of(final), official.model.state_dict())
    state = torch.load(final, weights_only=True)["optimizer"]
    for key, value in official.optimizer.state_dict()["state"].items():
        assert torch.allclose(state["state"][key]["mu"], value["mu"], rtol=1e-4, atol=1e-5)
    written = lines(tmp_path / "ours")
    assert [line["step"] for line in written] == [6, 7, 8]
    assert official.rates[6:] == [pytest.approx((line["lr_weights"], line["lr_biases"])) for line in written]
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "official" in line]
    assert said.startswith(f"{tmp_path}/ours/checkpoint.pth: a checkpoint of the official code with 2 "
                           "finished epochs; recipe and data are not in it and were not compared; ")


@pytest.mark.parametrize("change, message", [
    (lambda official: setattr(official, "epoch", 4), "it stands at 4 finished epochs and 0 steps, step 12"),
    (lambda official: official.optimizer.param_groups[0].update(eta=0.02),
     "group 0 was made with eta 0.02, now 0.001"),
    (lambda official: official.optimizer.param_groups[1].update(lars_adaptation_filter=False),
     "group 1 was made with lars_adaptation_filter False, now True"),
    (lambda official: official.optimizer.state.clear(), "optimizer.state: expected 0, found none"),
    (lambda official: official.model.__init__({"module": nn.Linear(2, 2)}),
     "model: expected module.backbone"),
], ids=["later than the end", "eta", "filter", "no momenta", "another network"])
def test_an_official_one_that_does_not_fit_is_refused(start, tmp_path, change, message):
    official = Official(tmp_path, "ours")
    official.train_epoch()
    change(official)
    official.save(tmp_path / "ours" / "checkpoint.pth")
    with pytest.raises(ValueError, match=message) as caught:
        start("ours")
    assert "\n" not in str(caught.value) and "use the program that wrote it" in str(caught.value)


def test_a_setting_that_our_file_does_not_know_has_its_default(start, tmp_path):
    path, *_ = start("ours")
    state = torch.load(path, weights_only=True)
    del state["config"]["grey"], state["optimizer"]["param_groups"][0]["weight_decay_filter"]
    torch.save(state, path)
    start("ours")
    with pytest.raises(ValueError, match="another recipe: grey 0.2, now 0.5"):
        start("ours", grey=0.5)
