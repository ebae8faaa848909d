"""The online linear probe: a classifier that is trained beside the network and changes nothing in it.

It is solo-learn's (vturrisi/solo-learn at 9187ea3, solo/methods/base.py), whose tables report its accuracy:
one linear layer on the backbone's features of both views, as the step's own forward pass gave them and
without a gradient to them; cross-entropy, averaged over the views; rate 0.1 times batch size / 256
(classifier_lr in scripts/pretrain/cifar/barlow.yaml) with the schedule of the run; no weight decay. The
optimiser is that of solo-learn's recipes: LARS with a clipped ratio where the run has it, else SGD with
momentum 0.9.
"""
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from parallel.collectives import all_reduce_sum
from pretrain.methods.method import Method
from pretrain.optim import LARS, SGD, schedule_factor, slots
from pretrain.pictures.sources import Source, open_source
from pretrain.recipe import Recipe
from pretrain.upkeep.labelled import LabelledPictures

FLAG = "--online-probe"
RATE = 0.1


def judging_pictures(source: Source, place: Path, size: int) -> tuple[LabelledPictures, int]:
    """Return the pictures that judge a classifier trained on a source, and the number of classes. Raises
    ValueError or FileNotFoundError, one line, if either have no classes, or the judging ones have others."""
    labels = source.labels(slice(None))
    if labels is None:
        raise ValueError(f"{FLAG}: expected pictures with labels to train on, found none in {source.place}")
    judges = LabelledPictures(open_source(place), size, FLAG)
    classes = int(np.max(labels)) + 1
    ours, theirs = source.class_names, judges.source.class_names
    if ours and theirs and ours != theirs:
        raise ValueError(f"{FLAG} {place}: expected the {len(ours)} classes of {source.place}, found "
                         f"{len(theirs)}; first that only one has: {min({*ours} ^ {*theirs})}")
    if judges.labels.min() < 0 or judges.labels.max() >= classes:
        raise ValueError(f"{FLAG} {place}: expected classes from 0 to {classes - 1}, as {source.place} "
                         f"has, found {judges.labels.min()} to {judges.labels.max()}")
    return judges, classes


class OnlineProbe:
    """The classifier of a network for a number of classes, its optimiser, and the pictures that judge it."""

    def __init__(self, network: Method, recipe: Recipe, judges: LabelledPictures, classes: int,
                 device: torch.device):
        self.recipe, self.network, self.judges = recipe, network, judges
        with torch.random.fork_rng(devices=[]):  # the network's random numbers stay what they are without
            torch.manual_seed(recipe.seed)
            self.classifier = nn.Linear(network.width, classes).to(device)
        parameters = list(self.classifier.parameters())
        self.optimizer: LARS | SGD = SGD(parameters, 0.0)
        if recipe.optimizer == "lars" and recipe.clip_ratio:
            self.optimizer = LARS(parameters, eta=recipe.trust_coefficient, clip=True)
        self.momentum, = slots(self.optimizer)
        for parameter in parameters:
            self.optimizer.state[parameter][self.momentum] = torch.zeros_like(parameter)
        self.seen: list[torch.Tensor] = []  # features of each micro-batch
        self.current: list[torch.Tensor] = []
        network.register_forward_pre_hook(lambda *_: self.current.clear())
        network.register_forward_hook(self.note)
        # What a backbone pools is its features, also where the network goes on with a projector as fc.
        pooling, = (one for one in network.backbone.modules() if isinstance(one, nn.AdaptiveAvgPool2d))
        pooling.register_forward_hook(
            lambda _, __, pooled: self.current.append(pooled.flatten(1).detach()))

    def note(self, _: nn.Module, inputs: tuple[torch.Tensor, ...], __: Any) -> None:
        """Keep the features (k n, width) of the full-sized views of a forward pass of n pictures."""
        if torch.is_grad_enabled():
            self.seen.append(torch.cat(self.current)[:2 * len(inputs[0])])

    def learn(self, labels: torch.Tensor, step: int, steps_per_epoch: int, skipped: torch.Tensor) -> None:
        """Take a step with the features of the last forward pass and the classes (n,) of its pictures.
        skipped: a boolean scalar on the device: whether the network's own step is left out, and with it this
        one."""
        recipe = self.recipe
        parts = labels.tensor_split(len(self.seen))
        wanted = [self.network.as_fed(part).repeat(len(features) // len(part))
                  for part, features in zip(parts, self.seen, strict=True)]
        features, truth = torch.cat(self.seen).to(self.classifier.weight), torch.cat(wanted)
        self.seen = []
        count = recipe.batch_size * len(truth) // len(labels)  # of all processes
        self.optimizer.zero_grad()
        with torch.autocast(features.device.type, enabled=False):
            loss = functional.cross_entropy(self.classifier(features), truth, reduction="sum") / count
        loss.backward()
        for parameter in self.classifier.parameters():
            all_reduce_sum(cast(torch.Tensor, parameter.grad))
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * recipe.batch_size / 256 * schedule_factor(recipe, step, steps_per_epoch)
        self.optimizer.found_inf = skipped.float()
        self.optimizer.step()

    @torch.no_grad()
    def accuracies(self, device: torch.device) -> dict[str, float]:
        """Return top-1 and top-5 accuracy in percent on the pictures that judge. Every process calls it."""
        features, labels = self.judges.features(self.network, device)
        scores = self.classifier(features.to(self.classifier.weight)).cpu()
        best = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
        right, near = (100 * hits.sum().item() / len(labels) for hits in (best[:, 0], best.any(1)))
        return {"online_top1": right, "online_top5": near}

    def state_dict(self) -> dict:
        return {"classifier": self.classifier.state_dict(),
                "momenta": [self.optimizer.state[p][self.momentum] for p in self.classifier.parameters()]}

    def load_state_dict(self, state: dict) -> None:
        self.classifier.load_state_dict(state["classifier"])
        for parameter, momentum in zip(self.classifier.parameters(), state["momenta"], strict=True):
            self.optimizer.state[parameter][self.momentum].copy_(momentum)
