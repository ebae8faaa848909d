"""The checkpoint formats: one small reader each, from what a file holds to a ResNet's entries.

A reader takes the tensors by name (states.flat) and answers None when the layout is not its own, else
{encoder: entries under torchvision's names}; the first encoder is the one that the project's own evaluation
uses. It drops what it knows to be no backbone (fc, heads); readers.py checks the rest. A source is a
repository and a path in it, whose code gave the names. docs/weights.md has the table.
"""
import re
from collections.abc import Callable
from typing import NoReturn

from torch import Tensor, tensor

from transfer.weights.architectures import ALL_NAMES
from transfer.weights.naming import detectron2_names
from transfer.weights.search import resnets
from transfer.weights.states import Encoders, encoders, has, layout, prefixed, under

LAST = "resnet"  # the reader that is asked when no other takes a file
AVERAGE = "model_ema/"
# A file with one of these is of another method.
HEADS = ("bn.", "classifier.", "predictor.", "prototypes.", "queue", "projection_head.", "neck.", "head.",
         "momentum_backbone.", "momentum_encoder.", "callbacks_modules.")


@layout(lacks=("prototypes.", "projection_head.", "state_dict_ema/"))
def from_torchvision(state: dict[str, Tensor]) -> Encoders | None:
    """A bare ResNet with or without fc in a usual container, and no other: torchvision's own (pytorch/vision
    torchvision/models/resnet.py), timm's, and the backbones that most methods publish, such as resnet50.pth
    of Barlow Twins. Of references/classification/train.py, which tests its average where it has one, too."""
    if not any(name in ALL_NAMES for name in state) or resnets(state).keys() - {"", AVERAGE}:
        return None
    return encoders(state, ema=AVERAGE, backbone="")


def from_resnet(state: dict[str, Tensor]) -> Encoders | None:
    """Any other file with a complete ResNet: a Lightning module of one's own, Hugging Face's ResNet, a
    segmentation network or a detector of torchvision. Each encoder has the name of its prefix."""
    return {prefix.rstrip("./") or "backbone": entries for prefix, entries in resnets(state).items()} or None


@layout("resnet/net.0.")
def from_simclrv2(state: dict[str, Tensor]) -> Encoders | None:
    """SimCLR v2 converted by Separius/SimCLRv2-Pytorch, {resnet, head}: a standard ResNet-50 for r50_1x_sk0
    under other names (resnet.py, convert.py:97). Selective kernels (sk1) are another network."""
    if any(".mixing_conv." in name for name in state):
        raise ValueError("SimCLR v2 with selective kernels (sk1) is no standard ResNet-50; give r50_1x_sk0")
    names: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
    names = ((r"^0\.0\.", "conv1."), (r"^0\.1\.0\.", "bn1."), (r"^(\d)\.blocks\.", r"layer\1."),
             (r"\.projection\.shortcut\.", ".downsample.0."), (r"\.projection\.bn\.0\.", ".downsample.1."),
             (r"\.net\.([024])\.(?=weight)", lambda part: f".conv{int(part[1]) // 2 + 1}."),
             (r"\.net\.([135])\.0\.", lambda part: f".bn{int(part[1]) // 2 + 1}."))
    entries = {}
    for name, value in under(state, "resnet/net.").items():
        for theirs, ours in names:
            name = re.sub(theirs, ours, name)
        entries[name] = value
    return {"backbone": entries}


@layout()
def from_byol_lucidrains(state: dict[str, Tensor]) -> Encoders | None:
    """BYOL of lucidrains/byol-pytorch: net, which online_encoder shares, and target_encoder
    (byol_pytorch/byol_pytorch.py; the README keeps the online network); `learner.` stands before the names
    of the example's Lightning module (examples/lightning/train.py:42)."""
    learner = "learner." if has(state, "learner.") else ""
    return encoders(state, online=f"{learner}online_encoder.net.", target=f"{learner}target_encoder.net.")


@layout("encoder.", "head.", lacks=("backbone.", "neck.", "projector.", "predictor."))
def from_supcontrast(state: dict[str, Tensor]) -> Encoders | None:
    """SupCon, {opt, model, optimizer, epoch}: encoder, in DataParallel on several GPUs, and head; its own
    ResNet calls downsample shortcut (HobbitLong/SupContrast networks/resnet_big.py, util.py:88-97)."""
    return encoders(state, backbone="encoder.module." if has(state, "encoder.module.") else "encoder.")


@layout("layer1.", "prototypes.")
def from_swav(state: dict[str, Tensor]) -> Encoders | None:
    """SwAV and DeepCluster v2: a bare network with projection_head and prototypes (facebookresearch/swav
    src/resnet50.py:200-217, main_swav.py:239)."""
    entries = under(state, "")
    heads = ("prototypes.", "projection_head.")
    return {"backbone": {name: value for name, value in entries.items() if not name.startswith(heads)}}


@layout()
def from_vissl(state: dict[str, Tensor]) -> Encoders | None:
    """PIRL and all of VISSL: the trunk, and ema_model where an average was kept (facebookresearch/vissl
    vissl/models/trunks/resnext.py, vissl/hooks/log_hooks.py:500-533); or the trunk alone, bare or in
    model_state_dict (extra_scripts/convert_vissl_to_torchvision.py:44-49)."""
    if has(state, "_feature_blocks."):
        return encoders(state, backbone="_feature_blocks.")
    trunk = "model/trunk/_feature_blocks."
    return encoders(state, backbone=f"classy_state_dict/base_model/{trunk}",
                    ema=f"classy_state_dict/ema_model/{trunk}")


@layout("classifier.")
def from_sololearn(state: dict[str, Tensor]) -> Encoders | None:
    """solo-learn, a Lightning file of any of its methods: each has an online classifier (vturrisi/solo-learn
    solo/methods/base.py:193-210, 643). main_linear.py:73-84 evaluates the backbone (once encoder)."""
    name = "backbone" if has(state, "backbone.") else "encoder"
    return encoders(state, backbone=f"{name}.", momentum=f"momentum_{name}.")


@layout(lacks=("classifier.", "layer1."))
def from_lightly(state: dict[str, Tensor]) -> Encoders | None:
    """lightly, a Lightning file: backbone, named or numbered, and projection_head or student_head
    (lightly-ai/lightly benchmarks/imagenet/resnet50/*.py, whose forward is the backbone;
    examples/pytorch_lightning/*.py). DINO's example has no backbone but a teacher, which is DINO's choice."""
    if not has(state, "projection_head") and not has(state, "student_head."):
        return None
    return encoders(state, backbone="backbone.", teacher="teacher_backbone.", student="student_backbone.",
                    key="key_backbone.", momentum="backbone_momentum.")


@layout("backbone.", lacks=("classifier.", "projection_head.", "neck.", "head."))
def from_stable_pretraining(state: dict[str, Tensor]) -> Encoders | None:
    """stable-pretraining, a Lightning file: backbone, with student and teacher in it where one follows the
    other, and the modules of its callbacks, such as probes (galilai-group/stable-pretraining
    stable_pretraining/module.py:192, stable_pretraining/backbone/utils.py:336-492, where forward is the
    teacher's)."""
    if has(state, "backbone.student."):
        return encoders(state, teacher="backbone.teacher.", student="backbone.student.")
    return encoders(state, backbone="backbone.") if has(state, "callbacks_modules.") else None


@layout("backbone.", lacks=("classifier.", "projection_head.", "backbone.stem.", "rpn_head.", "bbox_head."))
def from_mmselfsup(state: dict[str, Tensor]) -> Encoders | None:
    """MMSelfSup and MMPretrain, {meta, state_dict}: backbone with a neck or a head (open-mmlab/mmselfsup
    mmselfsup/models/algorithms/*.py; tools/model_converters/extract_backbone_weights.py takes backbone)."""
    if not has(state, "neck.") and not has(state, "head."):
        return None
    found = {"backbone": "backbone."}
    for name, module in (("target", "target_net"), ("key", "encoder_k"), ("momentum", "momentum_encoder")):
        average = ".module" if has(state, f"{module}.module.") else ""  # since version 1
        found[name] = f"{module}{average}.0."
    return encoders(state, **found)


@layout("stem.conv1.", "res2.")
def from_detectron2(state: dict[str, Tensor]) -> Encoders | None:
    """A backbone under Detectron2's names, RGB and with the stride in the 3 x 3 convolution, as this suite,
    MoCo's detection/convert-pretrain-to-detectron2.py and facebookresearch/detectron2
    tools/convert-torchvision-to-d2.py write it; a classifier is stem.fc."""
    if "stem.conv1.bias" in state:
        raise ValueError(CAFFE)
    return {"backbone": _torchvision_names(under(state, ""))}


@layout("backbone.", "proposal_generator.")
def from_detectron2_detector(state: dict[str, Tensor]) -> Encoders | None:
    """A detector that Detectron2 trained, model_final.pth: a C4, whose res5 is in the head of its regions, or
    an FPN (facebookresearch/detectron2 detectron2/modeling/roi_heads/roi_heads.py, Res5ROIHeads;
    detectron2/modeling/backbone/fpn.py)."""
    if "pixel_mean" in state and float(state["pixel_mean"].flatten()[0]) < 110:  # kept before version 0.4
        raise ValueError("its pixel_mean begins with blue: it takes BGR pixels, torchvision's ResNets RGB")
    trunk = "backbone.bottom_up." if has(state, "backbone.bottom_up.") else "backbone."
    res5 = {f"res5.{name}": value for name, value in under(state, "roi_heads.res5.").items()
            if not name.startswith("norm.")}  # the extra norm after res5 of MoCo's detectors
    entries = _torchvision_names(under(state, trunk) | res5)
    counters = {name.replace("running_var", "num_batches_tracked"): tensor(0) for name in entries
                if name.endswith("running_var")}  # frozen layers have kept none
    return {"backbone": counters | entries}


def _torchvision_names(entries: dict) -> dict:
    names = {theirs: ours for ours, theirs in detectron2_names().items()}
    return {names.get(name, name): value for name, value in entries.items()
            if not name.startswith("stem.fc.")}


CAFFE = ("a ResNet of Caffe2 or MSRA, such as Detectron2's R-50.pkl, takes BGR pixels and has its strides in"
         " 1 x 1 convolutions, which torchvision's ResNets have not: no renaming makes it the same network."
         " Give torchvision's weights, or use the file as MODEL.WEIGHTS of a detector made for it")


@layout("backbone.layer1.")
def from_mmdetection(state: dict[str, Tensor]) -> Encoders | None:
    """A detector of MMDetection, {meta, state_dict}: backbone, neck and heads (open-mmlab/mmdetection
    mmdet/models/detectors/two_stage.py, single_stage.py; mmdet/models/backbones/resnet.py)."""
    heads = ("rpn_head.", "roi_head.", "bbox_head.", "mask_head.")
    return encoders(state, backbone="backbone.") if any(has(state, head) for head in heads) else None


@layout("conv1_w", "res2_0_branch2a_w")
def from_caffe2(_state: dict[str, Tensor]) -> NoReturn:
    """Recognised to be refused: names of facebookresearch/detectron2
    detectron2/checkpoint/c2_model_loading.py:20-60."""
    raise ValueError(CAFFE)


READERS = {
    "torchvision": from_torchvision,
    # timm's training checkpoint with a moving average of the weights (huggingface/pytorch-image-models
    # timm/utils/checkpoint_saver.py; its validate.py reads state_dict unless given --use-ema).
    "timm": prefixed("layer1.", "state_dict_ema/", model="", ema="state_dict_ema/"),
    # checkpoint.pth of Barlow Twins, {epoch, model, optimizer}: backbone, projector and bn, the loss's
    # own batch norm (facebookresearch/barlowtwins main.py:144-149, 186-205); also that of this suite.
    "barlowtwins_checkpoint": prefixed("backbone.", "projector.", "bn.running_mean",
                                       lacks=("classifier.", "predictor."), backbone="backbone."),
    # model.pth of VICReg, {epoch, model, optimizer}: no bn, and its projector's hidden layers have biases
    # (facebookresearch/vicreg main_vicreg.py:157-162, 184-233).
    "vicreg_checkpoint": prefixed("backbone.", "projector.0.bias", lacks=HEADS, backbone="backbone."),
    # checkpoint.pth of Mixed Barlow Twins on ImageNet, {epoch, model, optimizer}: Barlow Twins' projector
    # without biases, and no bn (wgcban/mix-bt main_imagenet.py:189-191, 238-256).
    "mixbt_checkpoint": prefixed("backbone.", "projector.0.weight", lacks=("projector.0.bias", *HEADS),
                                 backbone="backbone."),
    # HSIC-Barlow-Twins and Mixed Barlow Twins on small images: f, a numbered ResNet, and g, the projector
    # (yaohungt/Barlow-Twins-HSIC model.py; wgcban/mix-bt model.py, the same names). Both have a 3 x 3
    # stem, without max pooling ("cifar") for CIFAR, with it ("small") for STL-10 and Tiny ImageNet.
    "hsic": prefixed("f.0.", "g.0.", backbone="f."),
    # MoCo v1 and v2: encoder_q, encoder_k, queue; fc is the projector (facebookresearch/moco
    # moco/builder.py:41-63; main_lincls.py:253 evaluates encoder_q).
    "moco": prefixed("encoder_q.", lacks=("backbone.",), query="encoder_q.", key="encoder_k."),
    # MoCo v3: base_encoder, momentum_encoder, predictor; fc is the projector (facebookresearch/moco-v3
    # moco/builder.py:27-28, 100-109; main_lincls.py:181 evaluates base_encoder).
    "mocov3": prefixed("base_encoder.", lacks=("backbone.",),
                       base="base_encoder.", momentum="momentum_encoder."),
    # SimCLR of sthalles/SimCLR, {epoch, arch, state_dict, optimizer}: fc is the projector, a Sequential
    # (models/resnet_simclr.py, simclr.py:103).
    "simclr_sthalles": prefixed("backbone.", "backbone.fc.2.", backbone="backbone."),
    # SimCLR of Spijkervet/SimCLR, a bare state dict of encoder and projector (simclr/simclr.py, model.py:40)
    "simclr_spijkervet": prefixed("encoder.", "projector.0.", lacks=HEADS, backbone="encoder."),
    # AMCL's second release, {model, args, epoch, global_step}: SimCLR, SimSiam or Barlow Twins with several
    # heads and a 3 x 3 stem without pooling (LeiWangR/cl amcl/models.py, amcl/backbones.py)
    "amcl": prefixed("encoder.", "projector.heads.0.", lacks=("momentum_encoder.",), backbone="encoder."),
    "simclrv2": from_simclrv2,
    # SimSiam: encoder, whose fc is the projector, and predictor (facebookresearch/simsiam
    # simsiam/builder.py:24-42, main_lincls.py:173).
    "simsiam": prefixed("encoder.", "predictor.", lacks=("projector.", "momentum_encoder.", "classifier."),
                        backbone="encoder."),
    "byol_lucidrains": from_byol_lucidrains,
    # BYOL of yaox12/BYOL-PyTorch, {config, epoch, steps, model, optimizer, amp}: numbered encoders
    # (model/byol_model.py, model/basic_modules.py, trainer/byol_trainer.py:129; utils/load_and_convert.py
    # takes the online one).
    "byol_yaox12": prefixed("online_network.encoder.",
                            online="online_network.encoder.", target="target_network.encoder."),
    # BYOL of sthalles/PyTorch-BYOL: a state dict for each network, with numbered encoders (trainer.py:101,
    # models/resnet_base_network.py; eval/linear_feature_eval.ipynb loads the online one).
    "byol_sthalles": prefixed("online_network_state_dict/encoder.",
                              online="online_network_state_dict/encoder.",
                              target="target_network_state_dict/encoder."),
    "supcontrast": from_supcontrast,
    "swav": from_swav,
    "vissl": from_vissl,
    # checkpoint.pth of DINO's ResNet, {student, teacher, optimizer, ...}: backbone and head each
    # (facebookresearch/dino main_dino.py:278, utils.py:594; eval_linear.py:264 evaluates the teacher).
    "dino": prefixed("teacher/backbone.", "student/backbone.",
                     teacher="teacher/backbone.", student="student/backbone."),
    "sololearn": from_sololearn,
    "lightly": from_lightly,
    "stable_pretraining": from_stable_pretraining,
    "mmselfsup": from_mmselfsup,
    "detectron2": from_detectron2,
    "detectron2_detector": from_detectron2_detector,
    "mmdetection": from_mmdetection,
    "caffe2": from_caffe2,
    LAST: from_resnet,
}

# Recognised, but the file does not say all that matters: such a format must be named by --format.
NAMED_ONLY = {
    "detectron2_detector": "a detector's file does not say whether its backbone takes RGB pixels and has its"
                           " strides in 3 x 3 convolutions, as torchvision's; only if its config.yaml says"
                           " INPUT.FORMAT RGB and STRIDE_IN_1X1 False,",
    "mmdetection": "a detector's file does not say whether its backbone takes RGB pixels and has its strides"
                   " in 3 x 3 convolutions, as torchvision's; only if its config says style='pytorch' and"
                   " bgr_to_rgb=True (once to_rgb=True),",
}
