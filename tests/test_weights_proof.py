"""The proof passes on good weights and fails for each way a conversion or a configuration goes wrong."""
import copy
import hashlib
import json
import logging

import pytest
import torch
from torch import nn
from weights_toys import distinct_backbone, with_state

from transfer.weights import activations, proof
from transfer.weights.export import CONVENTIONS, read_written, write
from transfer.weights.proof import DETECTORS, convert, prove, prove_loaded

C4_INITIALISED = {
    "proposal_generator.rpn_head.conv": 2, "proposal_generator.rpn_head.objectness_logits": 2,
    "proposal_generator.rpn_head.anchor_deltas": 2, "roi_heads.box_predictor.cls_score": 2,
    "roi_heads.box_predictor.bbox_pred": 2}
FPN_INITIALISED = C4_INITIALISED | {"roi_heads.box_head.fc1": 2, "roi_heads.box_head.fc2": 2} | {
    f"backbone.fpn_{part}{level}": 2 for part in ("lateral", "output") for level in (2, 3, 4, 5)}


def detector(*options, architecture="C4"):
    """A Detectron2 model, configured for torchvision weights but for the options (KEY, VALUE, ...)."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.merge_from_list([part for pair in (CONVENTIONS | DETECTORS[architecture]).items()
                         for part in pair])
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
    report = convert(distinct_backbone(), path, "detectron2")
    yield path, report
    path.unlink()


@pytest.fixture(scope="module")
def loaded(converted):
    """{architecture: a detector that holds the weights}; tests change copies of them."""
    return {name: load(detector(architecture=name), converted[0]) for name in DETECTORS}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(activations, "SIZES", ((64, 96),))


def test_good_weights_pass_and_the_report_says_how(converted):
    path, report = converted
    assert path.stat().st_size > 90_000_000
    assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name, f"{path.name}.proof.json"]
    assert [network.architecture for network in report.networks] == ["C4", "FPN"]
    for network, initialised in zip(report.networks, (C4_INITIALISED, FPN_INITIALISED)):
        assert network.in_place == 318 and network.initialised == initialised
        assert list(network.differences) == list(network.swapped) == ["res2", "res3", "res4", "res5"]
        assert max(network.differences.values()) < 3e-5, "rounding: 1e-6 to 1e-5 was seen"
        assert min(network.swapped.values()) > 0.1
    lines = report.lines()
    assert len(lines) == 7
    assert lines[0].startswith("file: 318 of 318 tensors bit-equal, no others; detectron2, 90 MiB, sha256 ")
    assert lines[4] == ("FPN network: 318 of 318 tensors in place; at initialisation 16 of backbone,"
                        " 6 of proposal_generator, 8 of roi_heads")


def test_the_report_beside_the_file_has_the_hashes(converted):
    path, report = converted
    kept = json.loads(path.with_name("distinct.pkl.proof.json").read_text())
    assert kept["summary"] == report.lines()
    assert kept["weights"]["source_sha256"] == "0" * 64 and kept["weights"]["reader"] == "torchvision"
    assert kept["weights"]["INPUT.FORMAT"] == "RGB"
    assert kept["file"] == {"name": "distinct.pkl", "layout": "detectron2", "tensors": 318,
                            "bytes": path.stat().st_size,
                            "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert kept["networks"][1]["differences"] == report.networks[1].differences


def test_the_proof_leaves_the_random_numbers_and_the_logs_alone(converted, caplog, quick):
    generator = torch.get_rng_state()
    prove(distinct_backbone(), converted[0], "detectron2")
    assert torch.equal(torch.get_rng_state(), generator)
    assert not [record for record in caplog.records if record.levelname != "INFO"]
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_the_other_files_for_detectron2_load_alike(ending, tmp_path, quick):
    path = tmp_path / f"distinct{ending}"
    report = convert(distinct_backbone(), path, "detectron2")
    assert [network.in_place for network in report.networks] == [318, 318]
    path.unlink()


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
    "missing": (lambda model: model.pop("res4.5.conv2.weight"), "found 317; layer3.5.conv2.weight is mis"),
    "renamed": (rename, "found 1 others, first res3.0.conv1.weights"),
    "more": (lambda model: model.update({"stem.fc.bias": torch.ones(2)}), "1 others, first stem.fc.bias"),
    "reshaped": (reshape, r"layer1.0.conv1.weight in the file is not .* expected \(64, 64, 1, 1\) torch"),
    "retyped": (retype, "layer1.0.bn1.num_batches_tracked .* found .* torch.float32"),
    "one bit": (one_bit, "layer4.2.bn3.running_var in the file is not the source.s: 1 of 2048 values differ"),
    "sign of a zero": (negative_zero, "bn1.bias in the file is not the source"),
    "swapped channels": (swap_channels, "conv1.weight in the file is not the source"),
    "shuffled blocks": (shuffle("res4.1.", "res4.2."), "layer3.1.conv1.weight in the file is not"),
}


@pytest.mark.parametrize("change, message", TAMPERED.values(), ids=TAMPERED)
def test_a_tampered_file_fails(change, message, converted, tmp_path):
    backbone = distinct_backbone()
    if change is negative_zero:
        backbone = with_state(backbone, lambda state: state.update(
            {"bn1.bias": torch.cat([torch.zeros(1), state["bn1.bias"][1:]])}))
    model, notes, _ = read_written(converted[0])
    change(model)
    path = tmp_path / "tampered.pkl"
    write(model, notes, path, "detectron2")
    with pytest.raises(ValueError, match=message):
        prove(backbone, path, "detectron2")
    path.unlink()


def test_a_file_of_another_source_fails(converted):
    backbone = distinct_backbone()
    other = type(backbone)(backbone.name, backbone.format, backbone.state, "1" * 64, backbone.path)
    with pytest.raises(ValueError, match="expected the metadata .*1111.* found .*0000"):
        prove(other, converted[0], "detectron2")


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
    model = copy.deepcopy(loaded["C4"])
    change(model)
    with pytest.raises(ValueError, match=message):
        prove_loaded(model, distinct_backbone())


def trunk(model):
    return getattr(model.backbone, "bottom_up", model.backbone)


def exchange(stage, one, two):
    def change(model):
        blocks = getattr(trunk(model), stage)
        blocks[one], blocks[two] = blocks[two], blocks[one]
    return change


def move_stride(block):
    """The stride from the 3 x 3 to the first 1 x 1 convolution, as in MSRA's networks."""
    block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)


def res5(model):
    return trunk(model).res5 if hasattr(trunk(model), "res5") else model.roi_heads.res5


def reverse(stage):
    """The order of the blocks after the first, which alone takes another number of channels."""
    stage[1], stage[2] = stage[2], stage[1]


def no_stride(model):
    for convolution in (trunk(model).res4[0].conv2, trunk(model).res4[0].shortcut):
        convolution.stride = (1, 1)


def parameter(name, change):
    """Changes one tensor of the trunk."""
    def apply(model):
        with torch.no_grad():
            change(trunk(model).state_dict()[name])
    return apply


# What reaches only the activations: the accounting of tensors is passed over.
MISTAKEN = {
    "channels of conv1": (parameter("stem.conv1.weight", lambda tensor: tensor.copy_(tensor.flip(1))),
                          "res2 differs from torchvision's layer1 .*check INPUT.FORMAT"),
    "BGR images": (lambda model: setattr(model, "input_format", "BGR"), "res2 differs .*check INPUT.FORMAT"),
    "grey images": (lambda model: setattr(model, "input_format", "L"), "expected INPUT.FORMAT RGB, found L"),
    "pixel mean": (lambda model: model.pixel_mean[0].add_(1), "res2 differs"),
    "pixel std": (lambda model: model.pixel_std.fill_(1), "res2 differs"),
    "stride of res3": (lambda model: move_stride(trunk(model).res3[0]), "res3 differs .*check STRIDE_IN"),
    "stride of res5": (lambda model: move_stride(res5(model)[0]), "res5 differs .*layer4"),
    "no stride in res4": (no_stride, "res4 differs from torchvision's layer3 by inf"),
    "shuffled blocks": (exchange("res4", 1, 2), "res4 differs from torchvision's layer3"),
    "shuffled stage": (lambda model: reverse(res5(model)), "res5 differs from torchvision's layer4"),
    "BN statistics": (parameter("res3.3.conv2.norm.running_var", lambda tensor: tensor.mul_(1.01)),
                      "res3 differs"),
    "epsilon": (lambda model: setattr(trunk(model).res2[0].conv1.norm, "eps", 1e-3), "res2 differs"),
    "NaN": (parameter("res2.0.conv1.weight", lambda tensor: tensor.fill_(float("nan"))),
            "res2 differs from torchvision's layer1 by nan"),
}


IN_FPN = ("channels of conv1", "BGR images", "stride of res3", "stride of res5", "shuffled stage")


@pytest.mark.parametrize("mistake, architecture", [(mistake, "C4") for mistake in MISTAKEN]
                         + [(mistake, "FPN") for mistake in IN_FPN])
def test_activations_that_differ_fail(mistake, architecture, loaded, quick):
    change, message = MISTAKEN[mistake]
    model = copy.deepcopy(loaded[architecture])
    change(model)
    with pytest.raises(ValueError, match=message):
        activations.compare(distinct_backbone(), model)


def test_weights_that_do_not_see_colour_cannot_be_proven(loaded, quick):
    only_green = torch.zeros(64, 3, 7, 7)
    only_green[:, 1] = distinct_backbone().state["conv1.weight"][:, 1]
    backbone = with_state(distinct_backbone(), lambda state: state.update({"conv1.weight": only_green}))
    model = copy.deepcopy(loaded["C4"])
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
    "FPN": (lambda: detector("MODEL.FPN.NORM", "SyncBN", "MODEL.RESNETS.NORM", "SyncBN", architecture="FPN"),
            318, "backbone.fpn_lateral2.norm"),
}


@pytest.mark.parametrize("build, in_network, initialised", VARIANTS.values(), ids=VARIANTS)
def test_detectors_about_to_train_pass_and_stay_as_they_are(build, in_network, initialised, converted, quick):
    model = load(build(), converted[0]).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = prove_loaded(model, distinct_backbone())
    assert report.file is None and report.weights["name"] == "distinct"
    network, = report.networks
    assert network.architecture == ("FPN" if hasattr(model.backbone, "bottom_up") else "C4")
    assert network.in_place in (in_network, 318)  # a later Detectron2 keeps the counters of what it freezes
    assert any(module.startswith(initialised) for module in network.initialised)
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


def test_loading_that_changes_something_else_fails(converted, monkeypatch, quick):
    def load_and_spoil(model, path):
        load(model, path)
        nn.init.zeros_(model.roi_heads.box_predictor.cls_score.weight)
    monkeypatch.setattr(proof, "_load", load_and_spoil)
    with pytest.raises(ValueError, match="roi_heads.box_predictor.cls_score.weight is no tensor of the"):
        prove(distinct_backbone(), converted[0], "detectron2")


def test_a_failed_proof_leaves_the_older_files(tmp_path, quick):
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"older")
    path.with_name("weights.pkl.proof.json").write_bytes(b"older report")
    stem = torch.zeros(64, 3, 7, 7)
    colourless = with_state(distinct_backbone(), lambda state: state.update({"conv1.weight": stem}))
    with pytest.raises(ValueError, match="weights.pkl: not written, the proof failed: res2 changes by only"):
        convert(colourless, path, "detectron2")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {
        "weights.pkl": b"older", "weights.pkl.proof.json": b"older report"}
    with pytest.raises(ValueError, match="weights.pyth: expected a name ending in .pkl, .pth, .safetensors"):
        convert(colourless, tmp_path / "weights.pyth", "detectron2")
