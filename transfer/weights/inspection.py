"""What can be said of a weights file and of a ResNet's entries in it, without judging: for describe.py.

Nothing here raises for bad values; whether a file may be used is what readers.py decides.
"""
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from parallel.reading import read_small_text
from transfer.weights.report import report_path
from transfer.weights.states import CONTAINERS, flat

# Formats that only one method writes. Of the others the file does not say it (docs/weights.md).
METHODS = {
    "barlowtwins_checkpoint": "Barlow Twins", "vicreg_checkpoint": "VICReg",
    "mixbt_checkpoint": "Mixed Barlow Twins", "hsic": "HSIC or Mixed Barlow Twins",
    "moco": "MoCo v1 or v2", "mocov3": "MoCo v3",
    "simclr_sthalles": "SimCLR", "simclr_spijkervet": "SimCLR", "simclrv2": "SimCLR v2",
    "simsiam": "SimSiam", "swav": "SwAV or DeepCluster v2", "dino": "DINO",
    "byol_lucidrains": "BYOL", "byol_yaox12": "BYOL", "byol_sthalles": "BYOL",
    "detectron2_detector": "fine-tuned as a detector",
}
LONGEST = 100  # characters of a name from the file
STANDARD_ERRORS = 5  # of a sample's mean and deviation; 106 of them stray further once in 16,000 networks


@dataclass(frozen=True)
class Stage:
    """The entries of a ResNet's stage.

    name      stem, layer1 ... layer4, or other for what a ResNet does not have
    channels  of its widest convolution, 0 where it has none
    values    numbers in all its tensors
    rms       root mean square of its convolutions' weights, NaN where it has none
    variance  smallest and largest running variance of its batch norms, None where it has none
    """
    name: str
    tensors: int
    blocks: int
    channels: int
    values: int
    rms: float
    variance: tuple[float, float] | None


def tensors(value: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of what a file holds, by the keys that lead to it, as model/module.bn.running_mean."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, (Mapping, list)):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            if isinstance(item, (Tensor, Mapping, list)):  # else there may be many, each with a long path
                yield from tensors(item, f"{path}/{key}" if path else str(key))


def epoch(raw: object) -> int | None:
    """That the file says it was saved at; None where it says nothing."""
    meta = raw.get("meta") if isinstance(raw, Mapping) else None  # of MMSelfSup
    found = [place["epoch"] for place in (raw, meta) if isinstance(place, Mapping) and "epoch" in place]
    return found[0] if found and type(found[0]) is int else None


def others(raw: object, encoders: dict[str, dict]) -> dict[str, tuple[int, list[int]]]:
    """What is no encoder's: name -> number of tensors, and the widths of its linear layers if they are a
    chain. The name is the first parts of the tensors' names up to a number, or a key beside the weights."""
    used = {id(tensor) for entries in encoders.values() for tensor in entries.values()}
    groups: dict[str, dict[str, Tensor]]
    groups, state = {}, flat(raw)
    for name, tensor in state.items():
        if id(tensor) not in used:
            parts = name.split(".")
            end = next((index for index, part in enumerate(parts) if part.isdigit()), max(1, len(parts) - 1))
            groups.setdefault(".".join(parts[:end]), {})[name] = tensor
    found = {name.removeprefix("./")[:LONGEST] or "layers without a name": (len(group), _widths(group))
             for name, group in groups.items()}
    if isinstance(raw, Mapping):
        containers = {name.partition("/")[0] for name in state}
        found |= {str(key)[:LONGEST]: (len(list(tensors(value))), []) for key, value in raw.items()
                  if not isinstance(value, Tensor) and key not in CONTAINERS
                  and key not in containers}
    return found


def _widths(group: dict[str, Tensor]) -> list[int]:
    matrices = [tuple(tensor.shape) for name, tensor in group.items()
                if name.endswith("weight") and tensor.dim() == 2]
    chain = all(after[1] == before[0] for before, after in zip(matrices, matrices[1:], strict=False))
    return [matrices[0][1], *(rows for rows, _ in matrices)] if matrices and chain else []


def notes(raw: object, path: str | Path) -> dict[str, str]:
    """The metadata of a file that convert.py wrote, also of a .safetensors; empty for any other file."""
    found = raw.get("metadata") if isinstance(raw, Mapping) else None
    try:
        with safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {}).get("metadata", "null"))
    except (SafetensorError, ValueError, RecursionError):
        pass  # another kind of file, or another's metadata
    if not isinstance(found, Mapping) or "converter_version" not in found:
        return {}
    return {str(key)[:LONGEST]: str(value)[:LONGEST] for key, value in found.items()
            if isinstance(value, (str, int, float)) or isinstance(value, list) and len(value) == 3
            and all(isinstance(number, float) for number in value)}


def proof(path: str | Path, sha256: str) -> str | None:
    """The report that convert.py put beside the file, and whether it is of this file; None without one."""
    report = report_path(Path(path))
    try:
        proven = json.loads(read_small_text(report))["file"]["sha256"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{report.name}, which cannot be read"
    return f"{report.name}, {'of this file' if proven == sha256 else 'but of another file'}"


def dense(tensor: Tensor) -> Tensor | None:
    """The floating-point values of a tensor that has such, else None; those of 8 bits as float32."""
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
        return None
    try:
        return tensor.detach().float() if tensor.dtype.itemsize == 1 else tensor.detach()
    except NotImplementedError:  # two numbers in a byte
        return None


def not_finite(raw: object) -> list[tuple[str, int, int]]:
    """Tensors with NaN or infinite values, anywhere in the file: path, such values, all values."""
    found = []
    for path, tensor in tensors(raw):
        if (values := dense(tensor)) is not None and not torch.isfinite(values).all():
            found.append((path, int((~torch.isfinite(values)).sum()), values.numel()))
    return found


def stages(state: Mapping[str, Tensor]) -> list[Stage]:
    """The entries under torchvision's names, by stage; those that are there."""
    groups: dict[str, dict[str, Tensor]]
    groups = {name: {} for name in ("stem", "layer1", "layer2", "layer3", "layer4", "other")}
    for name, tensor in state.items():
        first = "stem" if name.startswith(("conv1.", "bn1.")) else name.partition(".")[0]
        groups[first if first in groups else "other"][name] = tensor
    return [_stage(name, entries) for name, entries in groups.items() if entries]


def _stage(name: str, entries: dict[str, Tensor]) -> Stage:
    kernels = list(convolutions(entries).values())
    squares = sum(float(kernel.double().square().sum()) for kernel in kernels)
    count = sum(kernel.numel() for kernel in kernels)
    variances = [values for key, tensor in entries.items() if key.endswith("running_var")
                 and (values := dense(tensor)) is not None and values.numel()]
    blocks = {match[0] for key in entries if (match := re.match(r"layer\d\.\d+\.", key))}
    return Stage(name, len(entries), len(blocks), max((kernel.shape[0] for kernel in kernels), default=0),
                 sum(tensor.numel() for tensor in entries.values()),
                 math.sqrt(squares / count) if count else math.nan,
                 (float(min(values.min() for values in variances)),
                  float(max(values.max() for values in variances))) if variances else None)


def convolutions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: values for name, tensor in state.items()
            if (values := dense(tensor)) is not None and values.dim() == 4 and values.numel()}


def as_initialised(state: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Sign of no training -> layers that show it, layers that could.

    Batch norms as torch makes them; a weight of 0 is that of the last of a residual branch under
    zero_init_residual. Convolutions as torchvision draws them (torchvision/models/resnet.py: He's normal
    distribution by fan-out): mean and standard deviation within STANDARD_ERRORS of a sample's. A trained
    layer may show a sign by chance, and a short training may leave one.
    """
    norms = sorted(name.removesuffix("running_mean") for name in state if name.endswith("running_mean"))
    counters = [tensor for name, tensor in state.items() if name.endswith("num_batches_tracked")]
    kernels = convolutions(state).values()
    return {
        "batch counter 0": (sum(_all(tensor, 0) for tensor in counters), len(counters)),
        "running mean 0 and variance 1": (
            sum(_all(state.get(f"{norm}running_mean"), 0) and _all(state.get(f"{norm}running_var"), 1)
                for norm in norms), len(norms)),
        "batch norm's weight 1 (or 0), bias 0": (
            sum((_all(weight := state.get(f"{norm}weight"), 1) or _all(weight, 0))
                and _all(state.get(f"{norm}bias"), 0) for norm in norms), len(norms)),
        "convolution of mean 0, He's deviation": (sum(map(_drawn, kernels)), len(kernels)),
    }


def _all(tensor: Tensor | None, value: int) -> bool:
    if tensor is None:
        return False
    values = dense(tensor) if tensor.is_floating_point() else tensor
    try:
        return values is not None and bool((values == value).all())
    except (RuntimeError, NotImplementedError):  # meta, sparse, quantised, ...
        return False


def _drawn(kernel: Tensor) -> bool:
    kernel = kernel.double()
    wanted = math.sqrt(2 / (kernel.shape[0] * kernel[0, 0].numel()))
    error = wanted / math.sqrt(kernel.numel())  # of the mean; the deviation's is smaller by sqrt 2
    return bool(abs(kernel.mean()) < STANDARD_ERRORS * error
                and abs(kernel.std(correction=0) - wanted) < STANDARD_ERRORS * error / math.sqrt(2))


def sixteen_bit(raw: object, state: Mapping[str, Tensor]) -> list[str]:
    """What shows training in 16 bits, or the rounding of the weights to them; empty where nothing does.

    A gradient scaler's state is that of torch.amp.GradScaler or of NVIDIA/apex apex/amp/frontend.py; the
    precision is in the configuration of this suite's own checkpoints.
    """
    shown = [f"{path} is a gradient scaler's, for float16" for path in _scalers(raw)]
    config = raw.get("config") if isinstance(raw, Mapping) else None
    if isinstance(config, Mapping) and config.get("precision") in ("fp16", "bf16"):
        shown.append(f"config/precision is {config['precision']}")
    kernels = list(convolutions(state).values())
    for dtype in (torch.bfloat16, torch.float16):  # most bfloat16 numbers are float16 ones, too
        short = str(dtype).removeprefix("torch.")
        stored = Counter(kernel.dtype for kernel in kernels)[dtype]
        if stored:
            shown.append(f"{stored} of {len(kernels)} convolutions are stored in {short}")
        elif kernels and all(torch.equal(kernel, kernel.to(dtype).to(kernel.dtype)) for kernel in kernels):
            shown.append(f"every weight of the convolutions is a {short} number")
            break
    return shown


def _scalers(value: object, path: str = "") -> list[str]:
    if not isinstance(value, Mapping):
        return []
    if {"scale", "growth_factor"} <= value.keys() or {"loss_scale", "unskipped"} <= value.keys():
        return [path]
    return [found for key, item in value.items()
            for found in _scalers(item, f"{path}/{key}" if path else str(key))]
