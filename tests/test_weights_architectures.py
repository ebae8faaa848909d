"""Every ResNet of torchvision with every stem: what is recorded of it is true, and weights find their own."""
import dataclasses

import pytest
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn
from weights_toys import distinct_backbone, prefixed, small_state

from parallel.resnets import STEMS, models
from pretrain import backbones
from transfer.weights import activations, proof
from transfer.weights.architectures import ALL_NAMES, ARCHITECTURES, Architecture, nearest
from transfer.weights.backbone import build
from transfer.weights.naming import to_detectron2
from transfer.weights.proof import convert, prove_loaded
from transfer.weights.readers import read

OF_DETECTRON2 = [name for name, arch in ARCHITECTURES.items() if arch.stem == "imagenet"]


def outline(arch):
    with torch.device("meta"):
        return arch.network().eval()


def test_the_record_of_a_resnet50_is_the_papers():
    arch = ARCHITECTURES["resnet50"]
    assert (arch.width, arch.stride, len(arch.expected)) == (2048, 32, 318)
    assert sum(name.endswith("num_batches_tracked") for name in arch.expected) == 53
    assert arch.expected["conv1.weight"] == (64, 3, 7, 7)
    assert arch.expected["layer3.5.bn2.running_var"] == (256,)
    assert arch.expected["layer4.0.downsample.0.weight"] == (2048, 1024, 1, 1)
    assert list(arch.detectron2.values()) == [50, 1, 64, 64, 256, 1]


def test_each_model_has_each_stem_and_its_name():
    assert len(ARCHITECTURES) == len(models()) * len(STEMS) == 40
    assert {"resnet18-cifar", "resnet152", "wide_resnet101_2", "resnext101_64x4d-small"} < set(ARCHITECTURES)
    assert set().union(*(arch.expected for arch in ARCHITECTURES.values())) == set(ALL_NAMES)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_record_is_that_of_the_network(name):
    arch = ARCHITECTURES[name]
    network = outline(arch)
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == arch.expected
    images = torch.empty(2, 3, 64, 96, device="meta")
    assert network(images).shape == (2, arch.width)
    maps = nn.Sequential(*list(network.children())[:-2])(images)
    assert maps.shape == (2, arch.width, arch.side(64), arch.side(96))
    assert arch.side(64) == 64 // arch.stride + (arch.stem == "solo")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_find_their_architecture(name):
    found = nearest(small_state(arch=name))
    assert found.model == ARCHITECTURES[name].model and ARCHITECTURES[name].stem in found.stems


@pytest.mark.parametrize("stem", STEMS)
def test_pretraining_makes_the_same_network(stem):
    ours = ARCHITECTURES["resnet18" if stem == "imagenet" else f"resnet18-{stem}"].network().eval()
    theirs, width = backbones.build_backbone("resnet18", stem)
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 40, 40)
    with torch.no_grad():
        assert width == 512 and torch.equal(ours(images), theirs.eval()(images))


@pytest.mark.parametrize("name", OF_DETECTRON2)
def test_detectron2_builds_it_from_the_keys(name):
    arch = ARCHITECTURES[name]
    cfg = get_cfg()
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.BACKBONE.FREEZE_AT = "BN", 0
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    cfg.merge_from_list([word for pair in arch.detectron2.items() for word in pair])
    with torch.device("meta"):
        network = build_backbone(cfg, ShapeSpec(channels=3))
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} \
        == to_detectron2(arch.expected)
    grouped = {key.replace("res2", "layer1"): module.groups for key, module in network.named_modules()
               if key.startswith("res2") and isinstance(module, nn.Conv2d)}
    assert {key: dict(outline(arch).named_modules())[key].groups for key in grouped
            if "shortcut" not in key}.items() <= grouped.items()


def test_a_resnext_computes_alike_in_a_c4_detector(monkeypatch):
    monkeypatch.setattr(activations, "SIZES", ((64, 96),))
    backbone = distinct_backbone("resnext50_32x4d")
    model = proof._build("C4", backbone)
    names = {key.split("roi_heads.")[-1].removeprefix("backbone."): key for key in model.state_dict()}
    model.load_state_dict({names[key]: tensor for key, tensor in to_detectron2(backbone.state).items()},
                          strict=False)
    network, = prove_loaded(model, backbone).networks
    assert network.in_place == 318 and max(network.differences.values()) < 3e-5


def test_a_resnet18_is_converted_for_fpn_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(activations, "SIZES", ((64, 96),))
    path = tmp_path / "r18.pkl"
    report = convert(distinct_backbone("resnet18"), path, "detectron2")
    assert [(network.architecture, network.in_place) for network in report.networks] == [("FPN", 120)]
    assert report.weights["arch"] == "resnet18" and report.weights["MODEL.RESNETS.DEPTH"] == 18
    again = read(path)
    assert again.arch == ARCHITECTURES["resnet18"]
    assert torch.equal(again.state["layer4.1.conv2.weight"],
                       distinct_backbone("resnet18").state["layer4.1.conv2.weight"])
    path.unlink()


@pytest.mark.parametrize("name, layout, message", [
    ("resnet18-cifar", "detectron2", "resnet18-cifar has no form in Detectron2"),
    ("resnet50-small", "timm", "resnet50-small has no form in timm"),
])
def test_what_others_do_not_have_is_refused(name, layout, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        convert(distinct_backbone(name), tmp_path / "out.pth", layout)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_c4_takes_no_basic_blocks():
    with pytest.raises(ValueError, match="resnet34 has no C4 detector.* voc_det_fpn"):
        ARCHITECTURES["resnet34"].require_detector("C4")
    ARCHITECTURES["resnet34"].require_detector("FPN")
    Architecture("resnet152").require_detector("C4")


# The stem

@pytest.fixture
def saved(tmp_path):
    def save(name, **more):
        path = tmp_path / f"{name}.pth"
        torch.save({"model": small_state(arch=name), **more}, path)
        return path
    return save


def test_the_stem_comes_from_the_file_or_from_the_user_and_records_never_mix_them(saved):
    told = read(saved("resnet18-cifar", config={"stem": "small"}))
    assert told.arch.name == "resnet18-small"
    path = saved("resnet18-cifar")
    cifar, small = read(path, stem="cifar"), read(path, stem="small")
    assert (cifar.arch.name, small.arch.name) == ("resnet18-cifar", "resnet18-small")
    assert len({cifar.sha256, small.sha256, told.sha256}) == 3
    said = saved("resnet18-cifar", config={"stem": "cifar"})
    assert read(said).sha256 == read(said, stem="cifar").sha256
    plain = saved("resnet50")
    assert read(plain).sha256 == read(plain, stem="imagenet").sha256


def test_solo_learns_networks_for_cifar_pad_their_first_convolution_by_2(tmp_path):
    """Its own change to torchvision's network, in our words (solo/methods/base.py:199-204)."""
    theirs = torchvision.models.resnet18(weights=None)
    theirs.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=2, bias=False)
    theirs.maxpool, theirs.fc = nn.Identity(), nn.Identity()
    state = prefixed("backbone.", theirs.state_dict()) | {"classifier.weight": torch.ones(10, 512),
                                                          "classifier.bias": torch.ones(10)}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.1.2"}, tmp_path / "solo.ckpt")
    backbone = read(tmp_path / "solo.ckpt")
    assert (backbone.format, backbone.arch.name) == ("sololearn", "resnet18-solo")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(build(backbone)(images), theirs.eval()(images))
        other = build(dataclasses.replace(backbone, arch=ARCHITECTURES["resnet18-cifar"]))(images)
    assert not torch.allclose(other, theirs(images), rtol=0.01)
    with pytest.raises(ValueError, match="expected the stem cifar, found solo"):
        read(tmp_path / "solo.ckpt", stem="cifar")


@pytest.mark.parametrize("name, config, stem, message", [
    ("resnet18-cifar", {}, None, "resnet18 with a 3 x 3 stem.* --stem small if .* --stem solo if not"),
    ("resnet18-cifar", {"stem": "cifar"}, "small", "expected the stem small, found cifar"),
    ("resnet18-cifar", {}, "imagenet", "expected the stem imagenet, found cifar or small or solo"),
    ("resnet50", {"stem": "cifar"}, None, "expected the stem cifar, found imagenet"),
    ("resnet50", {}, "small", "expected the stem small, found imagenet"),
])
def test_stems_that_do_not_fit(name, config, stem, message, saved):
    with pytest.raises(ValueError, match=message) as caught:
        read(saved(name, config=config), stem=stem)
    assert "\n" not in str(caught.value)
