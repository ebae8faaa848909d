"""The proof that a conversion lost nothing; Detectron2 loads half a backbone with no more than a warning.

(a) The file holds the 318 tensors, bit for bit, and nothing else.
(b) Loaded by Detectron2's own checkpointer into an R50-C4 network, each is in its one place, all else is as
    it was initialised, and res2, res3, res4 of the backbone and res5 of the ROI head give the activations of
    torchvision's layer1 to layer4 on a photograph in RGB. How far they are apart is the largest absolute
    difference over the root mean square of torchvision's activation of that stage; the limit is 1e-4.
(c) With red and blue swapped they do not: so the comparison can tell the order of the channels.

Of this wing only this file imports detectron2, inside functions.
"""
import copy
import logging
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from transfer.weights.backbone import Backbone, build
from transfer.weights.export import (CONVENTIONS, metadata, read_detectron2, replacing, require_pkl,
                                     write_detectron2)
from transfer.weights.naming import detectron2_names, to_torchvision

LIMIT = 1e-4                      # equal activations differ by less: float32 rounding makes about 1e-6
SWAPPED_LIMIT = 1e-2              # with swapped channels every stage differs by more
SIZES = ((224, 224), (192, 256))  # height, width of the photograph's crops
STAGES = {"res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}


@dataclass(frozen=True)
class Report:
    """What was proven; a proof that fails is a ValueError instead.

    in_file      tensors of the file that equal the backbone's: 318; None where a network was proven
    in_network   tensors in place: 318 less the counters (num_batches_tracked) that frozen BN does not keep
    initialised  module -> number of its tensors that do not come from the backbone
    differences  stage -> largest relative difference over all sizes
    swapped      stage -> relative difference with red and blue swapped
    """
    in_file: int | None
    in_network: int
    initialised: dict[str, int]
    differences: dict[str, float]
    swapped: dict[str, float]

    def lines(self) -> list[str]:
        """The report for people."""
        total = len(detectron2_names())
        absent = total - self.in_network
        rest = ", ".join(f"{module} ({count})" for module, count in self.initialised.items())
        sizes = " and ".join(f"{height} x {width}" for height, width in SIZES)
        file = f"file: {self.in_file} of {total} tensors bit-equal, no others"
        return ([] if self.in_file is None else [file]) + [
            f"network: {self.in_network} of {total} tensors in place"
            + (f", {absent} counters have none in frozen BN" if absent else ""),
            f"at initialisation: {rest or 'nothing'}",
            f"activations at {sizes}: {_stages(self.differences)} apart (limit {LIMIT:.0e})",
            f"with red and blue swapped: {_stages(self.swapped)} apart (at least {SWAPPED_LIMIT:.0e})"]


def _stages(values: dict[str, float]) -> str:
    return ", ".join(f"{stage} {value:.1e}" for stage, value in values.items())


def convert_to_detectron2(backbone: Backbone, path) -> Report:
    """Writes the `.pkl` and proves it. It appears only if the proof holds; an older one stays until then."""
    path = Path(path)
    require_pkl(path)
    with replacing(path) as temporary:
        write_detectron2(backbone, temporary)
        try:
            return prove(backbone, temporary)
        except ValueError as error:
            raise ValueError(f"{path}: not written, the proof failed: {error}") from None


def prove(backbone: Backbone, path) -> Report:
    """(a), (b), (c) for a file of `write_detectron2`; ValueError names the first tensor or stage at fault."""
    in_file = _check_file(backbone, path)
    model = _network()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    _load(model, path)
    places = _check_network(backbone, model)
    for key, tensor in model.state_dict().items():
        if key not in places and not _same(tensor, before[key]):
            raise ValueError(f"{key} is no tensor of the backbone, but loading the file changed it")
    return _report(backbone, model, places, in_file)


def prove_loaded(model: nn.Module, backbone: Backbone) -> Report:
    """(b) and (c) for a C4 detector as it is about to train, with its own input format, pixel statistics and
    strides. It is left as it was.

    model   GeneralizedRCNN with Res5ROIHeads or a kind of it (an extra norm after res5 is passed over), its
            weights loaded, not wrapped in DistributedDataParallel; any device; BN, SyncBN or frozen
    Raises ValueError naming the first tensor or stage at fault.
    """
    return _report(backbone, model, _check_network(backbone, model), None)


def _report(backbone: Backbone, model: nn.Module, places: set[str], in_file: int | None) -> Report:
    differences, swapped = _check_activations(backbone, model)
    rest = Counter(key.rpartition(".")[0] for key in model.state_dict() if key not in places)
    return Report(in_file, len(places), dict(rest), differences, swapped)


def _check_file(backbone: Backbone, path) -> int:
    """(a), and that the metadata is the backbone's. Returns the number of equal tensors."""
    model, notes = read_detectron2(path)
    state = to_torchvision(model)
    for name, tensor in backbone.state.items():
        if not _same(state[name], tensor):
            raise ValueError(f"{detectron2_names()[name]} in the file is not the backbone's {name}:"
                             f" {_difference(state[name], tensor)}")
    if notes != metadata(backbone):
        raise ValueError(f"expected the metadata {metadata(backbone)}, found {notes}")
    return len(state)


def _check_network(backbone: Backbone, model: nn.Module) -> set[str]:
    """Which names of the network hold the backbone; each must be there once, with the backbone's values."""
    held = model.state_dict()
    places = set()
    for name, tensor in backbone.state.items():
        wanted = detectron2_names()[name]
        found = [key for key in held if key == wanted or key.endswith(f".{wanted}")]
        layer, _, part = wanted.rpartition(".")
        frozen = part == "num_batches_tracked" and any(key.endswith(f"{layer}.running_var") for key in held)
        if not found and frozen:  # frozen BN keeps no counter
            continue
        if len(found) != 1:
            raise ValueError(f"{wanted} (torchvision's {name}): expected one place in the network,"
                             f" found {len(found)}; a ResNet-50 C4 detector with BatchNorm layers is needed")
        if not _same(held[found[0]].cpu(), tensor):
            raise ValueError(f"{found[0]} in the network is not the backbone's {name}:"
                             f" {_difference(held[found[0]].cpu(), tensor)}")
        places.add(found[0])
    return places


def _same(found: Tensor, wanted: Tensor) -> bool:
    """Equal in type, shape and bits: 0.0 is not -0.0 here."""
    return (found.dtype == wanted.dtype and found.shape == wanted.shape
            and found.cpu().numpy().tobytes() == wanted.cpu().numpy().tobytes())


def _difference(found: Tensor, wanted: Tensor) -> str:
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return f"expected {tuple(wanted.shape)} {wanted.dtype}, found {tuple(found.shape)} {found.dtype}"
    return f"{int((found != wanted).sum())} of {wanted.numel()} values differ"


def _network() -> nn.Module:
    """Detectron2's R50-C4 Faster R-CNN, its default architecture, on the CPU and for torchvision weights."""
    with warnings.catch_warnings():  # at import Detectron2 calls torch.jit.script, which announces its end
        warnings.simplefilter("ignore", FutureWarning)
        from detectron2.config import get_cfg
        from detectron2.modeling import build_model
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0  # frozen layers would lose their counters
    cfg.merge_from_list([part for pair in CONVENTIONS.items() for part in pair])
    with torch.random.fork_rng(devices=[]):  # a proof must not change the run that follows it
        return build_model(cfg)


def _load(model: nn.Module, path) -> None:
    """As a detection run does it."""
    from detectron2.checkpoint import DetectionCheckpointer
    with _quiet():
        DetectionCheckpointer(model, save_to_disk=False).load(str(path))


@contextmanager
def _quiet():
    """Without the checkpointer's warnings of what it did not find; that is checked, not left in a log."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(level)


def _check_activations(backbone: Backbone, model: nn.Module) -> tuple[dict[str, float], dict[str, float]]:
    """(b) and (c): stage -> largest relative difference, and the difference with swapped channels."""
    network = build(backbone)
    # Copies on the CPU: a GPU may round its convolutions to TF32, and the model's own mode must stay.
    trunk = copy.deepcopy(model.backbone).cpu().eval()
    head = copy.deepcopy(model.roi_heads.res5).cpu().eval()
    largest = dict.fromkeys(STAGES, 0.0)
    for size in SIZES:
        photograph = _photograph(*size)
        wanted = _torchvision_stages(network, photograph)
        found = _detectron2_stages(model, trunk, head, photograph)
        for stage, difference in _differences(found, wanted).items():
            if not difference <= LIMIT:  # so written, NaN fails too
                hint = "INPUT.FORMAT, PIXEL_MEAN and PIXEL_STD" if stage == "res2" else "STRIDE_IN_1X1"
                raise ValueError(f"{stage} differs from torchvision's {STAGES[stage]} by {difference:.1e} at"
                                 f" {size[0]} x {size[1]}, expected at most {LIMIT:.0e}; check {hint}")
            largest[stage] = max(largest[stage], difference)
    swapped = _differences(_detectron2_stages(model, trunk, head, photograph.flip(0)), wanted)
    for stage, difference in swapped.items():
        if not difference >= SWAPPED_LIMIT:
            raise ValueError(f"{stage} changes by only {difference:.1e} with red and blue swapped, expected"
                             f" at least {SWAPPED_LIMIT:.0e}; weights that hardly see colour cannot prove the"
                             " order of the channels")
    return largest, swapped


def _photograph(height: int, width: int) -> Tensor:
    """The middle of scikit-learn's flower.jpg: (3, height, width) float32, 0-255, RGB, at most 427 x 640."""
    from sklearn.datasets import load_sample_image
    picture = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1).float()
    top, left = (picture.shape[1] - height) // 2, (picture.shape[2] - width) // 2
    return picture[:, top:top + height, left:left + width].contiguous()


@torch.no_grad()
def _torchvision_stages(network: nn.Module, photograph: Tensor) -> dict[str, Tensor]:
    """Outputs of layer1 to layer4 under the stages' names; torchvision's own normalisation of 0-1 pixels."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x = ((photograph / 255 - mean) / deviation).unsqueeze(0)
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    outputs = {}
    for stage, layer in STAGES.items():
        outputs[stage] = x = getattr(network, layer)(x)
    return outputs


@torch.no_grad()
def _detectron2_stages(model, trunk: nn.Module, head: nn.Module, photograph: Tensor) -> dict[str, Tensor]:
    """The same stages of the detector, given the photograph as its data loader would, in its INPUT.FORMAT."""
    if model.input_format not in ("RGB", "BGR"):
        raise ValueError(f"expected INPUT.FORMAT RGB, found {model.input_format}; set it to RGB")
    image = photograph if model.input_format == "RGB" else photograph.flip(0)
    x = trunk.stem(model.preprocess_image([{"image": image}]).tensor.cpu())
    outputs = {}
    for stage in ("res2", "res3", "res4"):
        outputs[stage] = x = getattr(trunk, stage)(x)
    for name, block in head.named_children():
        if name.isdigit():  # an extra norm after the blocks is no part of the backbone
            x = block(x)
    return {**outputs, "res5": x}


def _differences(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    """Stage -> largest absolute difference / root mean square of wanted; infinite when the shapes differ."""
    result = {}
    for stage, target in wanted.items():
        if found[stage].shape != target.shape:
            result[stage] = float("inf")
        else:
            scale = float(target.square().mean().sqrt())
            result[stage] = float((found[stage] - target).abs().max()) / (scale or 1.0)
    return result
