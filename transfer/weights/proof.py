"""The proof that a conversion lost nothing. Detectron2 would load half a backbone with only a warning.

(a) The file holds the backbone's tensors, bit for bit, and nothing else.
(b) Loaded by Detectron2's own checkpointer into a C4 and an FPN detector (ResNet-18 and 34: FPN only), each
    is in its one place, all else is as it was initialised, and res2 to res5 (a C4's res5 is in its ROI head)
    give the activations of torchvision's layer1 to layer4 on a photograph in RGB, to 1e-4.
(c) With red and blue swapped they do not.

Files for torchvision and timm have torchvision's own names, so (a) is the whole proof. In this folder only
this file imports detectron2, inside functions.
"""
import dataclasses
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from parallel.files import replacing
from transfer.weights import activations
from transfer.weights.backbone import Backbone
from transfer.weights.export import CONVENTIONS, fill, metadata, read_written, require_ending, tensors_of
from transfer.weights.naming import detectron2_names, to_torchvision
from transfer.weights.report import Network, Report, report_path

# Beyond Detectron2's defaults, which are an R50-C4 Faster R-CNN (configs/Base-RCNN-FPN.yaml of v0.6)
DETECTORS = {
    "C4": {},
    "FPN": {"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
            "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
            "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
            "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
            "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
            "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
            "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
            "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
            "MODEL.ROI_BOX_HEAD.FC_DIM": 8},  # 1024 there, but the head is not what is proven
}


def convert(backbone: Backbone, path: str | Path, layout: str) -> Report:
    """Write a backbone in a layout of export.ENDINGS, prove the file, and write the report beside it.

    Both appear only if the proof holds; older ones stay until then. ValueError says what failed.
    """
    return _publish(tensors_of(backbone, layout), metadata(backbone), path, layout,
                    lambda temporary: prove(backbone, temporary, layout))


def convert_projector(tensors: dict[str, Tensor], notes: dict, path: str | Path) -> Report:
    """`convert` for what projector.read returns; only the network that it comes from could run it."""
    return _publish(tensors, notes, path, "projector",
                    lambda temporary: Report(notes, _check_file(tensors, notes, temporary, "projector"), ()))


def _publish(tensors: dict[str, Tensor], notes: dict, path: str | Path, layout: str,
             prove_file: Callable[[Path], Any]) -> Report:
    path = Path(path)
    require_ending(path, layout)
    with replacing(path) as temporary:
        fill(temporary, tensors, notes, layout)
        try:
            report = prove_file(temporary)
        except ValueError as error:
            raise ValueError(f"{path}: not written, the proof failed: {error}") from None
        report = dataclasses.replace(report, file={**report.file, "name": path.name})
        report.save(report_path(path))
    return report


def prove(backbone: Backbone, path: str | Path, layout: str) -> Report:
    """(a) for a file of `convert`, and (b) and (c) for Detectron2's; ValueError names the first tensor or
    stage at fault."""
    notes = metadata(backbone)
    file = _check_file(backbone.state, notes, path, layout)
    detectors = [name for name in DETECTORS if not (backbone.arch.basic and name == "C4")]
    return Report(notes, file, tuple(_prove_in(name, backbone, path) for name in detectors)
                  if layout == "detectron2" else ())


def _prove_in(detector: str, backbone: Backbone, path: str | Path) -> Network:
    """(b) and (c) for a file and a detector newly built."""
    model = _build(detector, backbone)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    _load(model, path)
    places = _check_network(backbone, model)
    for key, tensor in model.state_dict().items():
        if key not in places and not _same(tensor, before[key]):
            raise ValueError(f"{key} is no tensor of the backbone, but loading the file changed it")
    return _network(detector, backbone, model, places)


def prove_loaded(model: nn.Module, backbone: Backbone) -> Report:
    """(b) and (c) for a detector as it is about to train, with its own input format, pixel statistics and
    strides. It is left as it was.

    model   GeneralizedRCNN with a C4 or FPN backbone (an extra norm after a C4's res5 is passed over), its
            weights loaded, not wrapped in DistributedDataParallel; any device; BN, SyncBN or frozen
    Raises ValueError naming the first tensor or stage at fault.
    """
    detector = "FPN" if hasattr(model.backbone, "bottom_up") else "C4"
    network = _network(detector, backbone, model, _check_network(backbone, model))
    return Report(metadata(backbone), None, (network,))


def _network(detector: str, backbone: Backbone, model: nn.Module, places: set[str]) -> Network:
    differences, swapped = activations.compare(backbone, model)
    rest = Counter(key.rpartition(".")[0] for key in model.state_dict() if key not in places)
    return Network(detector, len(places), len(backbone.state), dict(rest), differences, swapped)


def _check_file(source: dict[str, Tensor], notes: dict, path: str | Path, layout: str) -> dict:
    """(a) for any layout, and that the metadata is the source's. Returns Report.file.

    source  under the source's own names, so a wrong renaming is noticed
    """
    path = Path(path)
    found, found_notes, sha256 = read_written(path)
    if layout == "detectron2":
        found = to_torchvision(found)
    if found.keys() != source.keys():
        differing = min(found.keys() ^ source.keys())
        raise ValueError(f"expected the source's {len(source)} tensors in the file, found {len(found)};"
                         f" {differing} is {'missing' if differing in source else 'foreign'}")
    for name, tensor in source.items():
        if not _same(found[name], tensor):
            raise ValueError(f"{name} in the file is not the source's: {_difference(found[name], tensor)}")
    plain = layout != "detectron2" and path.suffix == ".pth"
    if found_notes != (None if plain else notes):
        raise ValueError(f"expected the metadata {notes}, found {found_notes}")
    return {"name": path.name, "layout": layout, "sha256": sha256, "bytes": path.stat().st_size,
            "tensors": len(found)}


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
                             f" found {len(found)}; a {backbone.arch.name} detector with BatchNorm layers is"
                             " needed")
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


def _build(detector: str, backbone: Backbone) -> nn.Module:
    """A Faster R-CNN with the backbone's network, on the CPU and configured for torchvision weights."""
    with warnings.catch_warnings():  # at import Detectron2 calls torch.jit.script, which announces its end
        warnings.simplefilter("ignore", FutureWarning)
        from detectron2.config import get_cfg
        from detectron2.modeling import build_model
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0  # frozen layers would lose their counters
    options = {**CONVENTIONS, **backbone.arch.detectron2, **DETECTORS[detector]}
    cfg.merge_from_list([part for pair in options.items() for part in pair])
    with torch.random.fork_rng(devices=[]):  # a proof must not change the run that follows it
        return build_model(cfg)


def _load(model: nn.Module, path: str | Path) -> None:
    """Load like a detection run; a `.safetensors` as the docstring of export.py says."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
    with _quiet():
        if Path(path).suffix != ".safetensors":
            DetectionCheckpointer(model, save_to_disk=False).load(str(path))
            return
        tensors = align_and_update_state_dicts(model.state_dict(), load_file(path), c2_conversion=False)
        model.load_state_dict(tensors, strict=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the checkpointer's warnings about what it did not find: the proof checks that."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(level)
