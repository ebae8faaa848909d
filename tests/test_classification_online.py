"""The classifier that was trained beside a backbone: from its file to its figure."""
import dataclasses
import json

import classification_toys as toys
import pytest
import torch

from transfer.classification import images as data
from transfer.classification import layouts, online
from transfer.weights.readers import read, recognised

CONFIG = online.Config("odd", precision="float64")
CLASSIFIER = torch.randn(3, 2048, generator=torch.Generator().manual_seed(1)), torch.arange(3.0) / 4


def with_classifier(classifier=CLASSIFIER):
    return dataclasses.replace(toys.backbone(), classifier=classifier)


def test_it_is_the_share_of_right_answers(tmp_path):
    toys.image_tree(tmp_path / "odd")
    context = toys.context(tmp_path, tmp_path / "out")
    metrics = online.run(with_classifier(), CONFIG, context)
    _, scored = layouts.split_pair(tmp_path / "odd")
    pictures = data.Images(scored, 32, augment=False, resize="stretch")
    pixels = torch.stack([pictures[0, index][0] for index in range(len(pictures))])
    weight, bias = (part.double() for part in CLASSIFIER)
    with torch.no_grad():
        features = toys.plain_network().eval()(data.normalised(pixels, torch.device("cpu"), torch.float64))
    answers = (features @ weight.T + bias).argmax(1)
    right = sum(one == other for one, other in zip(answers.tolist(), scored.labels.tolist()))
    assert metrics == {"top1": 100 * right / 8, "top5": 100} and 0 < right < 8
    kept = json.loads((context.out / "record" / "confusion.json").read_text())
    assert sum(kept["matrix"][label][label] for label in range(3)) == right
    assert (context.out / "record" / "features.json").is_file()


def test_a_file_without_one_or_of_other_classes_is_refused(tmp_path):
    toys.image_tree(tmp_path / "odd")
    context = toys.context(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="toy.pth: expected weights with the classifier .* found none"):
        CONFIG.fitted(toys.backbone())
    two = with_classifier((CLASSIFIER[0][:2], CLASSIFIER[1][:2]))
    with pytest.raises(ValueError, match="expected a classifier of the 3 classes of .*, found one of 2"):
        online.run(two, CONFIG, context)


@pytest.mark.parametrize("prefix, beside", [("module.backbone.", None), ("backbone.", "classifier.")],
                         ids=["ours", "solo-learn"])
def test_it_is_read_from_a_checkpoint(prefix, beside, tmp_path):
    network = toys.backbone("resnet18-cifar").state
    weight, bias = torch.ones(10, 512), torch.zeros(10)
    layer = {"weight": weight, "bias": bias}
    if beside:  # a Lightning file
        state = {prefix + name: value for name, value in network.items()}
        content = {"state_dict": state | {beside + name: value for name, value in layer.items()},
                   "pytorch-lightning_version": "2.0", "epoch": 9}
    else:
        state = {prefix + name: value for name, value in network.items()}
        state |= {"module.projector.0.weight": torch.ones(8, 512), "module.bn.running_mean": torch.zeros(8)}
        content = {"epoch": 9, "model": state, "config": {"stem": "cifar"}, "online": {"classifier": layer}}
    torch.save(content, tmp_path / "checkpoint.pth")
    backbone = read(tmp_path / "checkpoint.pth")
    assert torch.equal(backbone.classifier[0], weight) and torch.equal(backbone.classifier[1], bias)
    layer["weight"] = torch.ones(10, 500)
    torch.save(content, tmp_path / "damaged.pth")
    if not beside:
        with pytest.raises(ValueError, match=r"expected a classifier of 512 features, .* \(10, 500\)"):
            read(tmp_path / "damaged.pth")


def test_weights_without_one_have_none(tmp_path):
    torch.save(toys.backbone().state, tmp_path / "bt.pth")
    assert read(tmp_path / "bt.pth").classifier is None
    assert recognised(torch.load(tmp_path / "bt.pth"), "0" * 64).classifier is None
