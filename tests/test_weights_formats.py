"""A state dict of each layout, with the names that the projects' own code gives, and who recognises it."""
import re
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from weights_toys import prefixed, small_state

from transfer.weights.architectures import RESNET50
from transfer.weights.formats import NAMED_ONLY, READERS
from transfer.weights.naming import to_detectron2
from transfer.weights.readers import look, read

DOCS = Path(__file__).resolve().parents[1] / "docs" / "weights.md"
ONE, TWO = 0.5, 10.5  # first value of a file's first and second encoder


def one(prefix=""):
    return prefixed(prefix, small_state(ONE))


def two(prefix):
    return prefixed(prefix, small_state(TWO))


def linear(name, rows=8, columns=2048, bias=True):
    return {f"{name}.weight": torch.ones(1).expand(rows, columns)} | (
        {f"{name}.bias": torch.ones(rows)} if bias else {})


def norm(name, size=8, affine=True):
    buffers = {f"{name}.running_mean": torch.zeros(size), f"{name}.running_var": torch.ones(size),
               f"{name}.num_batches_tracked": torch.tensor(7)}
    weights = {f"{name}.weight": torch.ones(size), f"{name}.bias": torch.zeros(size)} if affine else {}
    return weights | buffers


def mlp(name, bias=True):
    """Linear, norm, ReLU, linear: indices 0, 1, 3."""
    return linear(f"{name}.0", bias=bias) | norm(f"{name}.1") | linear(f"{name}.3", 4, 8, bias)


def numbered(prefix, state, layers=4):
    """The names of nn.Sequential(*resnet.children()); layers: the number of layer1."""
    first = {"conv1": 0, "bn1": 1, "layer1": layers, "layer2": layers + 1, "layer3": layers + 2,
             "layer4": layers + 3}
    return {f"{prefix}{first[name.split('.')[0]]}.{name.split('.', 1)[1]}": tensor
            for name, tensor in state.items()}


def training(state, key="state_dict", **more):
    momentum = {0: {"momentum_buffer": torch.zeros(3)}}
    return {"epoch": 3, key: state, **more,
            "optimizer": {"state": momentum, "param_groups": [{"lr": 0.2, "params": [0]}]}}


def wrapped(state):
    return OrderedDict(prefixed("module.", state))


def lightning(state):
    return training(state, **{"pytorch-lightning_version": "2.1.2", "global_step": 5, "loops": {},
                              "hyper_parameters": {"backbone": {"name": "resnet50"}}})


def hugging_face(prefix, state):
    """Names of transformers' ResNetModel."""
    names = {}
    for name in state:
        new = re.sub(r"^conv1", "embedder.embedder.convolution", name)
        new = re.sub(r"^bn1", "embedder.embedder.normalization", new)
        new = re.sub(r"^layer(\d)\.(\d+)", lambda part: (
            f"encoder.stages.{int(part[1]) - 1}.layers.{part[2]}"), new)
        new = new.replace("downsample.0", "shortcut.convolution").replace(
            "downsample.1", "shortcut.normalization")
        for number in (1, 2, 3):
            new = new.replace(f".conv{number}", f".layer.{number - 1}.convolution")
            new = new.replace(f".bn{number}", f".layer.{number - 1}.normalization")
        names[name] = prefix + new
    return {names[name]: tensor for name, tensor in state.items()}


def shortcuts(state):
    return {name.replace(".downsample.", ".shortcut."): tensor for name, tensor in state.items()}


def simclrv2(state):
    """Names of Separius/SimCLRv2-Pytorch's resnet.py."""
    names = {}
    for name in state:
        new = re.sub(r"^conv1\.", "net.0.0.", name)
        new = re.sub(r"^bn1\.", "net.0.1.0.", new)
        new = re.sub(r"^layer(\d)\.(\d)\.", r"net.\1.blocks.\2.", new)
        new = new.replace("downsample.0.", "projection.shortcut.")
        new = new.replace("downsample.1.", "projection.bn.0.")
        for number in (1, 2, 3):
            new = new.replace(f".conv{number}.", f".net.{2 * number - 2}.")
            new = new.replace(f".bn{number}.", f".net.{2 * number - 1}.0.")
        names[name] = new
    return {names[name]: tensor for name, tensor in state.items()}


def vissl(**models):
    models = {name: {"model": {"trunk": prefixed("_feature_blocks.", state),
                               "heads": linear("0.clf.0")}, "meta": {}} for name, state in models.items()}
    return {"phase_idx": 1, "iteration": 2, "loss": {"memory": torch.ones(3)}, "classy_state_dict": models}


def detector(prefix, res5):
    """model_final.pth of a detector whose stem and res2 were frozen, and so have no counters."""
    names = to_detectron2(small_state(ONE))
    names = {name: tensor for name, tensor in names.items()
             if not (name.startswith(("stem", "res2")) and name.endswith("num_batches_tracked"))}
    model = {f"{res5 if name.startswith('res5') else prefix}{name}": tensor for name, tensor in names.items()}
    return {"model": model | linear("proposal_generator.rpn_head.conv") | linear("roi_heads.box_predictor.c")
            | norm("roi_heads.res5.norm"), "iteration": 9, "scheduler": {}}


def without_counters(state):
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


HEAD = linear("fc", 1000)
SWAV = mlp("projection_head") | linear("prototypes", 30, 128, bias=False)
MOCO = {"queue": torch.ones(128, 16), "queue_ptr": torch.zeros(1, dtype=torch.long)}
SIMSIAM_FC = linear("encoder.fc.0", bias=False) | norm("encoder.fc.1") | norm("encoder.fc.7", affine=False)
MM = {"meta": {"epoch": 7, "mmselfsup_version": "1.0.0"}}

# id -> (format, encoders with the default first, the file's content)
LAYOUTS = {
    "torchvision, bare": ("torchvision", "backbone", lambda: one()),
    "torchvision, with fc": ("torchvision", "backbone", lambda: OrderedDict(one() | HEAD)),
    "torchvision, without counters": ("torchvision", "backbone", lambda: without_counters(one())),
    "torchvision, references": ("torchvision", "backbone", lambda: training(one() | HEAD, "model",
                                                                          args=Namespace(lr=0.1))),
    "torchvision, references with average": ("torchvision", "ema backbone", lambda: training(
        two("") | HEAD, "model",
        model_ema={"n_averaged": torch.tensor(3)} | prefixed("module.", one() | HEAD))),
    "PyTorch ImageNet example": ("torchvision", "backbone", lambda: training(wrapped(one() | HEAD))),
    "SimCLR of simclr-converter": ("torchvision", "backbone", lambda: {"state_dict": one() | HEAD}),
    "timm, bare": ("torchvision", "backbone", lambda: one() | HEAD),
    "timm, training": ("torchvision", "backbone", lambda: training(one() | HEAD, arch="resnet50", version=2)),
    "timm, training with average": ("timm", "model ema", lambda: training(
        one() | HEAD, arch="resnet50", version=2, state_dict_ema=two("") | HEAD)),
    "Barlow Twins": ("barlowtwins_checkpoint", "backbone", lambda: training(
        wrapped(one("backbone.") | mlp("projector", bias=False) | norm("bn", affine=False)), "model")),
    "Barlow Twins, one process": ("barlowtwins_checkpoint", "backbone", lambda: training(
        one("backbone.") | mlp("projector", bias=False) | norm("bn", affine=False), "model")),
    "VICReg": ("vicreg_checkpoint", "backbone", lambda: training(
        wrapped(one("backbone.") | mlp("projector")), "model")),
    "Mixed Barlow Twins": ("mixbt_checkpoint", "backbone", lambda: training(
        wrapped(one("backbone.") | mlp("projector", bias=False)), "model")),
    "HSIC, 7 x 7 stem": ("hsic", "backbone", lambda: numbered("f.", one()) | mlp("g") | {
        "f.0.total_ops": torch.zeros(1), "total_params": torch.zeros(1)}),
    "HSIC, without max pooling": ("hsic", "backbone", lambda: numbered("f.", one(), layers=3) | mlp("g")),
    "AMCL": ("amcl", "backbone", lambda: training(
        one("encoder.") | mlp("projector.heads.0.net") | mlp("projector.heads.1.net")
        | linear("criterion.temperature.phi.0") | linear("criterion.temperature.phi.2"), "model")),
    "MoCo v1": ("moco", "query key", lambda: training(wrapped(
        one("encoder_q.") | linear("encoder_q.fc", 128) | two("encoder_k.") | linear("encoder_k.fc", 128)
        | MOCO), arch="resnet50")),
    "MoCo v2, query only": ("moco", "query", lambda: training(wrapped(
        one("encoder_q.") | linear("encoder_q.fc.0") | linear("encoder_q.fc.2") | MOCO))),
    "MoCo v3": ("mocov3", "base momentum", lambda: training(wrapped(
        one("base_encoder.") | mlp("base_encoder.fc") | two("momentum_encoder.")
        | mlp("momentum_encoder.fc") | mlp("predictor")), arch="resnet50", scaler={"scale": 1.0})),
    "SimCLR of sthalles": ("simclr_sthalles", "backbone", lambda: training(
        one("backbone.") | linear("backbone.fc.0") | linear("backbone.fc.2"), arch="resnet50")),
    "SimCLR of Spijkervet": ("simclr_spijkervet", "backbone", lambda: one("encoder.")
                             | linear("projector.0", bias=False) | linear("projector.2", bias=False)),
    "SupCon": ("supcontrast", "backbone", lambda: training(
        shortcuts(one("encoder.")) | linear("head.0") | linear("head.2", 128), "model",
        opt=Namespace(temp=0.1))),
    "SupCon, several GPUs": ("supcontrast", "backbone", lambda: training(
        shortcuts(one("encoder.module.")) | linear("head.0") | linear("head.2", 128), "model")),
    "SimCLR v2 of Separius": ("simclrv2", "backbone", lambda: {
        "resnet": simclrv2(without_counters(one())) | HEAD, "head": linear("layers.0", bias=False)}),
    "SimSiam": ("simsiam", "backbone", lambda: training(wrapped(
        one("encoder.") | SIMSIAM_FC | mlp("predictor")), arch="resnet50")),
    "BYOL of lucidrains": ("byol_lucidrains", "online target", lambda: one("net.") | linear("net.fc", 1000)
                           | one("online_encoder.net.") | mlp("online_encoder.projector")
                           | two("target_encoder.net.") | mlp("target_encoder.projector")
                           | mlp("online_predictor")),
    "BYOL of lucidrains, Lightning": ("byol_lucidrains", "online target", lambda: lightning(
        one("learner.net.") | one("learner.online_encoder.net.") | two("learner.target_encoder.net.")
        | mlp("learner.online_predictor"))),
    "BYOL of yaox12": ("byol_yaox12", "online target", lambda: training(wrapped(
        numbered("online_network.encoder.", one()) | linear("online_network.projetion.l1")
        | numbered("target_network.encoder.", two("")) | linear("predictor.predictor.l1")), "model")),
    "BYOL of sthalles": ("byol_sthalles", "online target", lambda: {
        "online_network_state_dict": numbered("encoder.", one()) | mlp("projetion.net"),
        "target_network_state_dict": numbered("encoder.", two("")) | mlp("projetion.net"),
        "optimizer_state_dict": {"state": {}, "param_groups": []}}),
    "SwAV, published": ("swav", "backbone", lambda: wrapped(one() | SWAV)),
    "SwAV, training": ("swav", "backbone", lambda: training(wrapped(one() | SWAV))),
    "DeepCluster v2": ("swav", "backbone", lambda: wrapped(one() | mlp("projection_head") | linear(
        "prototypes.prototypes0", bias=False))),
    "VISSL (PIRL)": ("vissl", "backbone", lambda: vissl(base_model=without_counters(one()))),
    "VISSL with average": ("vissl", "backbone ema", lambda: vissl(base_model=one(), ema_model=two(""))),
    "VISSL, trunk": ("vissl", "backbone", lambda: {"model_state_dict": one("_feature_blocks.")}),
    "DINO": ("dino", "teacher student", lambda: {
        "student": wrapped(two("backbone.") | linear("head.mlp.0") | linear("head.last_layer", bias=False)),
        "teacher": wrapped(one("backbone.") | linear("head.mlp.0")), "epoch": 3,
        "optimizer": {"state": {}, "param_groups": []}, "args": Namespace(arch="resnet50"),
        "dino_loss": {"center": torch.zeros(1, 8)}}),
    "solo-learn": ("sololearn", "backbone", lambda: lightning(
        one("backbone.") | linear("classifier", 100) | mlp("projector"))),
    "solo-learn with momentum": ("sololearn", "backbone momentum", lambda: lightning(
        one("backbone.") | linear("classifier", 100) | mlp("projector") | two("momentum_backbone.")
        | mlp("momentum_projector") | mlp("predictor") | linear("momentum_classifier", 100))),
    "solo-learn, old": ("sololearn", "backbone momentum", lambda: lightning(
        one("encoder.") | linear("classifier", 100) | mlp("projector") | two("momentum_encoder."))),
    "lightly benchmark": ("lightly", "backbone", lambda: lightning(
        one("backbone.") | mlp("projection_head.layers") | linear("online_classifier.linear", 1000))),
    "lightly BYOL": ("lightly", "backbone teacher", lambda: lightning(
        one("backbone.") | mlp("projection_head.layers") | two("teacher_backbone.")
        | mlp("teacher_projection_head.layers") | mlp("prediction_head.layers"))),
    "lightly DINO": ("lightly", "backbone student", lambda: lightning(
        one("backbone.") | mlp("projection_head.layers") | two("student_backbone."))),
    "lightly MoCo v2": ("lightly", "backbone key", lambda: lightning(
        one("backbone.") | mlp("projection_head.layers") | two("key_backbone."))),
    "lightly SwAV": ("lightly", "backbone", lambda: lightning(
        one("backbone.") | mlp("projection_head.layers") | linear("prototypes.heads.0", bias=False))),
    "lightly example, numbered": ("lightly", "backbone momentum", lambda: lightning(
        numbered("backbone.", one()) | mlp("projection_head.layers")
        | numbered("backbone_momentum.", two("")) | mlp("projection_head_momentum.layers"))),
    "lightly DINO example": ("lightly", "teacher student", lambda: lightning(
        numbered("student_backbone.", two("")) | mlp("student_head.layers")
        | numbered("teacher_backbone.", one()) | mlp("teacher_head.layers"))),
    "stable-pretraining": ("stable_pretraining", "backbone", lambda: lightning(
        one("backbone.") | mlp("projector") | linear("callbacks_modules.linear_probe", 1000)
        | {"callbacks_modules.ordered_queue_embedding.out": torch.zeros(4, 8)})),
    "stable-pretraining BYOL": ("stable_pretraining", "teacher student", lambda: lightning(
        two("backbone.student.") | one("backbone.teacher.") | mlp("projector.student")
        | mlp("projector.teacher") | mlp("predictor") | {"backbone.ema_coefficient": torch.zeros(())})),
    "MMSelfSup": ("mmselfsup", "backbone", lambda: {**MM, "state_dict": one("backbone.") | mlp("neck")}),
    "MMSelfSup MoCo": ("mmselfsup", "backbone key", lambda: {**MM, "state_dict": one("backbone.")
                       | mlp("neck") | two("encoder_k.module.0.") | mlp("encoder_k.module.1") | MOCO}),
    "MMSelfSup BYOL": ("mmselfsup", "backbone target", lambda: {**MM, "state_dict": one("backbone.")
                       | mlp("neck") | mlp("head.predictor") | two("target_net.module.0.")}),
    "MMSelfSup 0.x MoCo": ("mmselfsup", "backbone key", lambda: {**MM, "state_dict": one("backbone.")
                           | mlp("neck") | one("encoder_q.0.") | mlp("encoder_q.1") | two("encoder_k.0.")
                           | MOCO}),
    "MMSelfSup 0.x MoCo v3": ("mmselfsup", "backbone momentum", lambda: {**MM, "state_dict": one("backbone.")
                              | mlp("neck") | one("base_encoder.0.") | two("momentum_encoder.0.")
                              | mlp("head.predictor")}),
    "MMPretrain": ("mmselfsup", "backbone", lambda: {**MM, "state_dict": one("backbone.")
                                                     | linear("head.fc", 1000)}),
    "MMSelfSup, extracted": ("torchvision", "backbone", lambda: {"state_dict": one(), "author": "MMSelfSup"}),
    "Detectron2, tensors": ("detectron2", "backbone", lambda: {
        "model": to_detectron2(one()) | linear("stem.fc", 1000), "__author__": "torchvision",
        "matching_heuristics": True}),
    "Detectron2 C4 detector": ("detectron2_detector", "backbone",
                               lambda: detector("backbone.", "roi_heads.")),
    "Detectron2 FPN detector": ("detectron2_detector", "backbone",
                                lambda: detector("backbone.bottom_up.", "backbone.bottom_up.")),
    "MMDetection": ("mmdetection", "backbone", lambda: {"meta": {}, "state_dict": one("backbone.")
                    | mlp("neck") | linear("rpn_head.rpn_conv")}),
    "Lightning": ("resnet", "model", lambda: lightning(one("model.") | linear("model.fc", 1000))),
    "Lightning Bolts SimCLR": ("resnet", "encoder", lambda: lightning(
        one("encoder.") | mlp("projection.model"))),
    "Lightning with two networks": ("resnet", "model average", lambda: lightning(one("model.")
                                                                               | two("average."))),
    "Hugging Face": ("resnet", "resnet", lambda: hugging_face("resnet.", one()) | linear("classifier.1")),
    "Hugging Face, bare": ("resnet", "backbone", lambda: hugging_face("", one())),
    "torchvision's Faster R-CNN": ("resnet", "backbone.body", lambda: without_counters(one("backbone.body."))
                                   | linear("rpn.head.conv") | linear("roi_heads.box_head.fc6")),
    "segmentation_models.pytorch": ("resnet", "model.encoder", lambda: lightning(
        one("model.encoder.") | linear("model.decoder.blocks.0"))),
    "torch.compile": ("resnet", "backbone", lambda: training(prefixed("module._orig_mod.backbone.", one()))),
    "FSDP": ("torchvision", "backbone", lambda: {"model": {re.sub(
        r"^(layer\d)\.", r"_fsdp_wrapped_module.\1._fsdp_wrapped_module.", name): tensor
        for name, tensor in one().items()}}),
    "AveragedModel": ("torchvision", "backbone", lambda: {"n_averaged": torch.tensor(7)} | wrapped(one())),
    "DeepSpeed": ("resnet", "module", lambda: {"module": one() | HEAD, "ds_version": "0.14"}),
    "containers in one another": ("resnet", "a/b/net.trunk", lambda: {"a": {"b": one("net.trunk.")}}),
    "a numbered container": ("resnet", "weights/0", lambda: {"weights": numbered("0.", one())}),
    "DINO, teacher alone": ("resnet", "teacher/backbone", lambda: {
        "teacher": one("backbone.") | linear("head.mlp.0")}),
    "one network under two names": ("resnet", "net", lambda: one("net.") | one("wrapper.net.")),
}


@pytest.fixture
def saved(tmp_path):
    def save(content, name="weights.pth"):
        torch.save(content, tmp_path / name)
        return tmp_path / name
    return save


def first(tensor):
    return float(tensor[(0,) * tensor.dim()])


def same(entries, wanted):
    """The entries are those of wanted, but for counters: a format may keep none of them or set them to 0."""
    counters = {name for name in RESNET50.expected if name.endswith("num_batches_tracked")}
    assert RESNET50.expected.keys() - counters <= entries.keys() <= RESNET50.expected.keys()
    for name in entries.keys() - counters:
        assert tuple(entries[name].shape) == RESNET50.expected[name], name
        assert first(entries[name]) == first(wanted[name]), f"{name} is another's"
    return True


@pytest.mark.parametrize("format, names, content", LAYOUTS.values(), ids=LAYOUTS)
def test_one_reader_recognises_each_layout(format, names, content, saved):
    path = saved(content())
    if format in NAMED_ONLY:
        with pytest.raises(ValueError, match=f"config.* says .* pass --format {format}"):
            look(path)
    contents = look(path, format if format in NAMED_ONLY else None)
    assert contents.format == format and list(contents.encoders) == names.split()
    for entries, value in zip(contents.encoders.values(), (ONE, TWO), strict=False):
        assert same(entries, small_state(value))


def test_every_reader_has_a_layout_or_refuses():
    assert {format for format, _, _ in LAYOUTS.values()} | {"caffe2"} == set(READERS)


def msra():
    return {"conv1_w": torch.ones(1), "conv1_b": torch.ones(1), "res2_0_branch2a_w": torch.ones(1),
            "res2_0_branch2a_bn_gamma": torch.ones(1), "fc1000_w": torch.ones(1)}


def without_bias():
    return {name: tensor for name, tensor in one().items() if name != "bn1.bias"}


CAFFE = "BGR pixels and has its strides in 1 x 1 convolutions.*no renaming"
REFUSED = {
    "Caffe2 or MSRA, R-50.pkl": (msra, None, CAFFE),
    "Caffe2 detector": (lambda: {"blobs": msra(), "cfg": "MODEL: {}"}, None, CAFFE),
    "MSRA under Detectron2's names": (lambda: {"model": to_detectron2(one()) | {
        "stem.conv1.bias": torch.ones(64)}}, None, CAFFE),
    "BGR detector": (lambda: {"model": detector("backbone.", "roi_heads.")["model"] | {
        "pixel_mean": torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)}}, "detectron2_detector", "BGR"),
    "SimCLR v2 with selective kernels": (lambda: {"resnet": {
        "net.0.0.weight": torch.ones(1), "net.1.blocks.0.net.2.mixing_conv.0.weight": torch.ones(1)}}, None,
        "selective kernels"),
    "an incomplete ResNet under a prefix": (lambda: prefixed("net.", without_bias()), None,
                                            r"nearest is torchvision's resnet50 under net\.\*, 1 of 318"),
    "a deeper ResNet under a prefix": (lambda: one("net.") | {"net.layer3.6.conv1.weight": torch.ones(1)},
                                       None, "nearest is torchvision's resnet50 under net"),
    "squeeze and excitation under a prefix": (
        lambda: one("net.") | {"net.layer1.0.se.fc1.weight": torch.ones(1)}, None, "no known format matched"),
}


@pytest.mark.parametrize("content, format, message", REFUSED.values(), ids=REFUSED)
def test_what_is_known_to_be_wrong_is_refused(content, format, message, saved):
    with pytest.raises(ValueError, match=message) as caught:
        look(saved(content()), format)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", ["HSIC, without max pooling", "lightly example, numbered"])
def test_networks_for_small_images_need_the_name_of_their_stem(row, saved):
    content = LAYOUTS[row][2]()
    state = content.get("state_dict", content)
    stem = next(name for name, tensor in state.items() if tensor.shape == (64, 3, 7, 7))
    state[stem] = torch.ones(64, 3, 3, 3)
    with pytest.raises(ValueError, match="3 x 3 stem.* pass --stem"):
        read(saved(content))
    assert read(saved(content), stem="cifar").arch.name == "resnet50-cifar"


def table():
    """format -> the other cells of its row in the documentation."""
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", DOCS.read_text(), re.M)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


def test_the_documentation_has_each_reader_its_encoders_and_its_tests():
    assert list(table()) == list(READERS)
    for name, (_recognised, encoders, tested, source) in table().items():
        rows = {row: names.split() for row, (format, names, _) in LAYOUTS.items() if format == name}
        refused = [row for row in REFUSED if name == "caffe2" and row.startswith("Caffe2")]
        assert tested == "; ".join([*rows, *refused]), name
        assert re.fullmatch(r"[\w.-]+/[\w.-]+ .*", source), f"{name}: a repository and a path"
        held = {encoder for names in rows.values() for encoder in names} if name != "resnet" else {"backbone"}
        assert set(re.findall(r"`(\w+)`", encoders)) == held, name
