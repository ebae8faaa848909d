"""The proof passes on good weights and fails for each way a conversion or a configuration goes wrong."""
import copy
import logging

import pytest
import torch
from torch import nn
from weights_toys import distinct_backbone, with_state

from transfer.weights import proof
from transfer.weights.export import CONVENTIONS, _Pickler, read_detectron2
from transfer.weights.proof import convert_to_detectron2, prove, prove_loaded


def detector(*options):
    """A Detectron2 model, configured for torchvision weights but for the options (KEY, VALUE, ...)."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.merge_from_list([part for pair in CONVENTIONS.items() for part in pair])
    cfg.merge_from_list(list(options))
    return build_model(cfg)


def load(model, path):
    from detectron2.checkpoint import DetectionCheckpointer
    DetectionCheckpointer(model, save_to_disk=False).load(str(path))
    return model


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """(path, report) of a proven file."""
    path = tmp_path_factory.mktemp("proof") / "distinct.pkl"
    report = convert_to_detectron2(distinct_backbone(), path)
    yield path, report
    path.unlink()


@pytest.fixture(scope="module")
def loaded(converted):
    """A detector that holds the weights; tests change copies of it."""
    return load(detector(), converted[0])


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(proof, "SIZES", ((64, 96),))


def test_good_weights_pass_and_the_report_says_how(converted):
    path, report = converted
    assert path.stat().st_size > 90_000_000
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert (report.in_file, report.in_network) == (318, 318)
    assert report.initialised == {
        "proposal_generator.rpn_head.conv": 2, "proposal_generator.rpn_head.objectness_logits": 2,
        "proposal_generator.rpn_head.anchor_deltas": 2, "roi_heads.box_predictor.cls_score": 2,
        "roi_heads.box_predictor.bbox_pred": 2}
    assert list(report.differences) == list(report.swapped) == ["res2", "res3", "res4", "res5"]
    assert max(report.differences.values()) < 3e-5, "rounding: 1e-6 to 1e-5 was seen"
    assert min(report.swapped.values()) > 0.1
    lines = report.lines()
    assert len(lines) == 5 and lines[0] == "file: 318 of 318 tensors bit-equal, no others"


def test_the_proof_leaves_the_random_numbers_and_the_logs_alone(converted, caplog):
    generator = torch.get_rng_state()
    prove(distinct_backbone(), converted[0])
    assert torch.equal(torch.get_rng_state(), generator)
    assert not [record for record in caplog.records if record.levelname != "INFO"]
    assert logging.root.manager.disable == logging.NOTSET


def rename(model):
    model["res3.0.conv1.weights"] = model.pop("res3.0.conv1.weight")


def one_bit(model):
    model["res5.2.conv3.norm.running_var"].view(torch.int32)[7] ^= 1


def negative_zero(model):
    model["stem.conv1.norm.bias"][0] = -0.0


def swap_channels(model):
    model["stem.conv1.weight"] = model["stem.conv1.weight"].flip(1)


def reshape(model):
    model["res2.0.conv1.weight"] = model["res2.0.conv1.weight"].view(64, 64)


def shuffle(one, two):
    """Exchanges all tensors of two blocks of the same shapes."""
    def change(model):
        for name in [name for name in model if name.startswith(one)]:
            other = two + name[len(one):]
            model[name], model[other] = model[other], model[name]
    return change


def retype(model):
    model["res2.0.conv1.norm.num_batches_tracked"] = torch.tensor(5.0)


TAMPERED = {
    "missing": (lambda model: model.pop("res4.5.conv2.weight"), "1 missing, first res4.5.conv2.weight"),
    "renamed": (rename, "1 missing, first res3.0.conv1.weight; 1 unknown, first res3.0.conv1.weights"),
    "more": (lambda model: model.update({"stem.fc.bias": torch.ones(2)}), "1 unknown, first stem.fc.bias"),
    "reshaped": (reshape, r"res2.0.conv1.weight in the file is not .* expected \(64, 64, 1, 1\) torch"),
    "retyped": (retype, "res2.0.conv1.norm.num_batches_tracked .* found .* torch.float32"),
    "one bit": (one_bit, "res5.2.conv3.norm.running_var .*layer4.2.bn3.running_var: 1 of 2048 values differ"),
    "sign of a zero": (negative_zero, "stem.conv1.norm.bias in the file is not the backbone's bn1.bias"),
    "swapped channels": (swap_channels, "stem.conv1.weight in the file is not the backbone's conv1.weight"),
    "shuffled blocks": (shuffle("res4.1.", "res4.2."), "res4.1.conv1.weight in the file is not"),
}


@pytest.mark.parametrize("change, message", TAMPERED.values(), ids=TAMPERED)
def test_a_tampered_file_fails(change, message, converted, tmp_path):
    backbone = distinct_backbone()
    if change is negative_zero:
        backbone = with_state(backbone, lambda state: state.update(
            {"bn1.bias": torch.cat([torch.zeros(1), state["bn1.bias"][1:]])}))
    model, notes = read_detectron2(converted[0])
    change(model)
    content = {"model": {name: tensor.numpy() for name, tensor in model.items()}, "metadata": notes,
               "__author__": "barlow-transfer", "matching_heuristics": True}
    path = tmp_path / "tampered.pkl"
    with path.open("wb") as file:
        _Pickler(file, protocol=5).dump(content)
    with pytest.raises(ValueError, match=message):
        prove(backbone, path)
    path.unlink()


def test_a_file_of_another_source_fails(converted):
    backbone = distinct_backbone()
    other = type(backbone)(backbone.name, backbone.format, backbone.state, "1" * 64, backbone.path)
    with pytest.raises(ValueError, match="expected the metadata .*1111.* found .*0000"):
        prove(other, converted[0])


def in_place(name, change):
    """Changes one tensor of a model."""
    def apply(model):
        with torch.no_grad():
            change(model.state_dict()[name])
    return apply


BROKEN = {
    "one value": (in_place("backbone.res2.1.conv2.weight", lambda tensor: tensor[0, 0, 0, 0].add_(1e-3)),
                  "backbone.res2.1.conv2.weight in the network is not .*layer1.1.conv2.weight: 1 of 36864"),
    "head tensor": (in_place("roi_heads.res5.0.shortcut.norm.running_mean", lambda tensor: tensor.zero_()),
                    "roi_heads.res5.0.shortcut.norm.running_mean in the network is not"),
    "counter": (in_place("backbone.stem.conv1.norm.num_batches_tracked", lambda tensor: tensor.add_(1)),
                "backbone.stem.conv1.norm.num_batches_tracked in the network is not"),
    "second place": (lambda model: model.add_module("copy", copy.deepcopy(model.backbone)),
                     "stem.conv1.weight .*: expected one place in the network, found 2"),
    "no place": (lambda model: setattr(model.backbone, "res3", nn.Identity()),
                 "res3.0.conv1.weight .*: expected one place in the network, found 0"),
}


@pytest.mark.parametrize("change, message", BROKEN.values(), ids=BROKEN)
def test_a_network_that_does_not_hold_the_weights_fails(change, message, loaded):
    model = copy.deepcopy(loaded)
    change(model)
    with pytest.raises(ValueError, match=message):
        prove_loaded(model, distinct_backbone())


def exchange(stage, one, two):
    def change(model):
        blocks = getattr(model.backbone, stage)
        blocks[one], blocks[two] = blocks[two], blocks[one]
    return change


def move_stride(block):
    """The stride from the 3 x 3 to the first 1 x 1 convolution, as in MSRA's networks."""
    block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)


def no_stride(model):
    for convolution in (model.backbone.res4[0].conv2, model.backbone.res4[0].shortcut):
        convolution.stride = (1, 1)


# What reaches only the activations: the accounting of tensors is passed over.
MISTAKEN = {
    "channels of conv1": (in_place("backbone.stem.conv1.weight", lambda tensor: tensor.copy_(tensor.flip(1))),
                          "res2 differs from torchvision's layer1 .*check INPUT.FORMAT"),
    "BGR images": (lambda model: setattr(model, "input_format", "BGR"), "res2 differs .*check INPUT.FORMAT"),
    "grey images": (lambda model: setattr(model, "input_format", "L"), "expected INPUT.FORMAT RGB, found L"),
    "pixel mean": (lambda model: model.pixel_mean[0].add_(1), "res2 differs"),
    "pixel std": (lambda model: model.pixel_std.fill_(1), "res2 differs"),
    "stride of res3": (lambda model: move_stride(model.backbone.res3[0]), "res3 differs .*check STRIDE_IN"),
    "stride of res5": (lambda model: move_stride(model.roi_heads.res5[0]), "res5 differs .*layer4"),
    "no stride in res4": (no_stride, "res4 differs from torchvision's layer3 by inf"),
    "shuffled blocks": (exchange("res4", 1, 2), "res4 differs from torchvision's layer3"),
    "BN statistics": (in_place("backbone.res3.3.conv2.norm.running_var", lambda tensor: tensor.mul_(1.01)),
                      "res3 differs"),
    "epsilon": (lambda model: setattr(model.backbone.res2[0].conv1.norm, "eps", 1e-3), "res2 differs"),
    "NaN": (in_place("backbone.res2.0.conv1.weight", lambda tensor: tensor.fill_(float("nan"))),
            "res2 differs from torchvision's layer1 by nan"),
}


@pytest.mark.parametrize("change, message", MISTAKEN.values(), ids=MISTAKEN)
def test_activations_that_differ_fail(change, message, loaded, quick):
    model = copy.deepcopy(loaded)
    change(model)
    with pytest.raises(ValueError, match=message):
        proof._check_activations(distinct_backbone(), model)


def test_weights_that_do_not_see_colour_cannot_be_proven(loaded, quick):
    only_green = torch.zeros(64, 3, 7, 7)
    only_green[:, 1] = distinct_backbone().state["conv1.weight"][:, 1]
    backbone = with_state(distinct_backbone(), lambda state: state.update({"conv1.weight": only_green}))
    model = copy.deepcopy(loaded)
    with torch.no_grad():
        model.backbone.stem.conv1.weight.copy_(only_green)
    with pytest.raises(ValueError, match="res2 changes by only .*e-0[5-9] with red and blue swapped"):
        prove_loaded(model, backbone)


def extra_norm(model):
    """MoCo's head has a norm after res5's blocks (facebookresearch/moco detection/train_net.py:23-34)."""
    model.roi_heads.res5.add_module("norm", nn.BatchNorm2d(2048))
    nn.init.constant_(model.roi_heads.res5.norm.weight, 3)
    return model


VARIANTS = {
    "Mask R-CNN": (lambda: detector("MODEL.MASK_ON", True), 318, "roi_heads.mask_head.deconv"),
    "SyncBN": (lambda: detector("MODEL.RESNETS.NORM", "SyncBN"), 318, "proposal_generator.rpn_head.conv"),
    "frozen BN": (lambda: detector("MODEL.RESNETS.NORM", "FrozenBN"), 265, "proposal_generator.rpn_head"),
    "stem and res2 frozen": (lambda: detector("MODEL.BACKBONE.FREEZE_AT", 2), 307, "roi_heads.box_predictor"),
    "extra norm": (lambda: extra_norm(detector()), 318, "roi_heads.res5.norm"),
}


@pytest.mark.parametrize("build, in_network, initialised", VARIANTS.values(), ids=VARIANTS)
def test_detectors_about_to_train_pass_and_stay_as_they_are(build, in_network, initialised, converted, quick):
    model = load(build(), converted[0]).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = prove_loaded(model, distinct_backbone())
    assert (report.in_file, report.in_network) == (None, in_network)
    assert any(module.startswith(initialised) for module in report.initialised)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert any("in frozen BN" in line for line in report.lines()) == (in_network < 318)


MISCONFIGURED = {
    "Detectron2's stride": (("MODEL.RESNETS.STRIDE_IN_1X1", True), "res3 differs .*STRIDE_IN_1X1"),
    "Detectron2's channel order": (("INPUT.FORMAT", "BGR"), "res2 differs .*INPUT.FORMAT"),
    "Detectron2's pixel statistics": (("MODEL.PIXEL_STD", [1.0, 1.0, 1.0]), "res2 differs .*PIXEL_STD"),
    "another depth": (("MODEL.RESNETS.DEPTH", 101), "res4 differs"),
    "another norm": (("MODEL.RESNETS.NORM", "GN"), "bn1.running_mean.*: expected one place .* found 0"),
}


@pytest.mark.parametrize("options, message", MISCONFIGURED.values(), ids=MISCONFIGURED)
def test_wrong_configurations_fail(options, message, converted, quick):
    model = load(detector(*options), converted[0])
    with pytest.raises(ValueError, match=message):
        prove_loaded(model, distinct_backbone())


def test_weights_that_were_never_loaded_fail():
    """The field's commonest silent error: a random backbone trains without a word."""
    with pytest.raises(ValueError, match="backbone.stem.conv1.weight in the network is not .*: 9408 of"):
        prove_loaded(detector(), distinct_backbone())


def test_loading_that_changes_something_else_fails(converted, monkeypatch):
    def load_and_spoil(model, path):
        load(model, path)
        nn.init.zeros_(model.roi_heads.box_predictor.cls_score.weight)
    monkeypatch.setattr(proof, "_load", load_and_spoil)
    with pytest.raises(ValueError, match="roi_heads.box_predictor.cls_score.weight is no tensor of the"):
        prove(distinct_backbone(), converted[0])


def test_a_failed_proof_leaves_the_older_file(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"older")
    stem = torch.zeros(64, 3, 7, 7)
    colourless = with_state(distinct_backbone(), lambda state: state.update({"conv1.weight": stem}))
    with pytest.raises(ValueError, match="weights.pkl: not written, the proof failed: res2 changes by only"):
        convert_to_detectron2(colourless, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.pkl"] and path.read_bytes() == b"older"
    with pytest.raises(ValueError, match="weights.pth: expected a name ending in .pkl"):
        convert_to_detectron2(colourless, tmp_path / "weights.pth")
