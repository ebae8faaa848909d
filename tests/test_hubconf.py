"""torch.hub finds the backbone, loads a file of this suite into it, and downloads nothing."""
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pretrain.backbones import build_backbone
from pretrain.methods import build, recipe
from pretrain.upkeep import checkpoint

ROOT = str(Path(__file__).resolve().parent.parent)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def load(**options):
    return torch.hub.load(ROOT, "resnet50", source="local", **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network whose statistics are not those of a fresh one, and its exported backbone."""
    torch.manual_seed(3)
    network = build(recipe(projector="8-8"))
    for name, value in network.backbone.named_buffers():
        if name.endswith("running_mean"):
            value.uniform_(-0.1, 0.1)
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    checkpoint.export_backbone(path, network)
    return network.backbone.eval(), path


def test_an_exported_backbone_gives_its_features(trained):
    network, path = trained
    model = load(weights=str(path))
    images = torch.randn(2, 3, 64, 64)
    assert not model.training
    with torch.no_grad():
        features = model(images)
        assert features.shape == (2, 2048) and torch.equal(features, network(images))


def test_without_weights_it_is_fresh():
    torch.manual_seed(1)
    one = load()
    torch.manual_seed(1)
    two = load()
    assert one.training and torch.equal(one.conv1.weight, two.conv1.weight)


@pytest.mark.parametrize("weights, kind, message", [
    ("no.pth", FileNotFoundError, "no.pth: no such weights file"),
    ("https://example.org/resnet50.pth", FileNotFoundError, "https://.*: expected a file, found a URL"),
    (__file__, ValueError, "expected a PyTorch checkpoint"),
], ids=["missing", "address", "foreign"])
def test_what_is_no_weights_file_is_refused(weights, kind, message):
    with pytest.raises(kind, match=message):
        load(weights=weights)


def test_any_resnet_is_an_entry_of_its_own(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(build_backbone("resnet18", "small")[0].state_dict(), path)
    model = torch.hub.load(ROOT, "backbone", source="local", weights=str(path), stem="small")
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 512)
    torch.save(build_backbone("resnet18", "imagenet")[0].state_dict(), path)
    with pytest.raises(ValueError, match="expected a ResNet-50, found a resnet18"):
        load(weights=str(path))


def test_only_backbones_are_entries():
    import hubconf
    entries = [name for name, value in vars(hubconf).items() if callable(value) and not name.startswith("_")]
    assert entries == ["backbone", "resnet50"] and hubconf.dependencies == ["torch", "torchvision"]


def test_it_works_from_any_folder(trained, tmp_path):
    """In a process that does not have the repository on its path."""
    program = (f"import torch; model = torch.hub.load({ROOT!r}, 'resnet50', source='local', "
               f"weights={str(trained[1])!r}); print(sum(1 for _ in model.state_dict()))")
    answer = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert answer.stdout == "318\n", answer.stderr
