"""Reading a ResNet-50 backbone from a file: one function a checkpoint format; `read` finds the one that fits.

    from transfer.weights.readers import read
    backbone = read("resnet50.pth")

No code from a file is run (`weights_only=True`), and nothing is guessed: exactly one reader must match, the
318 tensors of ResNet-50 must be there in their shapes and no others, and every value must be finite.
"""
import hashlib
import re
import zipfile
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor

from transfer.weights.backbone import Backbone, expected, resnet50

RANDOM_SEED = 0  # of the backbone called "random"


# A reader takes what torch.load gave and answers the backbone's entries under torchvision names, or None when
# the layout is not its own. It drops what it knows to be no backbone (fc, projector); `read` does the checks.

def from_torchvision(raw) -> dict | None:
    """A bare ResNet-50 state dict, with or without fc: torchvision's files (torchvision/models/resnet.py) and
    resnet50.pth of the official Barlow Twins (facebookresearch/barlowtwins main.py:150-152)."""
    if not _is_state(raw) or not any(name in expected() for name in raw):
        return None
    return {name: value for name, value in raw.items() if not name.startswith("fc.")}


def from_barlowtwins_checkpoint(raw) -> dict | None:
    """checkpoint.pth of the official Barlow Twins, {epoch, model, optimizer}: model has `module.backbone.`,
    `module.projector.` and `module.bn.`, the loss's own BN (facebookresearch/barlowtwins main.py:144-149,
    186-205); without `module.` when it was trained by one process."""
    if not isinstance(raw, Mapping) or not {"epoch", "model", "optimizer"} <= raw.keys():
        return None
    for prefix in ("module.", ""):
        if _is_state(raw["model"]) and f"{prefix}bn.running_mean" in raw["model"]:
            return _under(raw["model"], f"{prefix}backbone.") or None
    return None


READERS = {
    "torchvision": from_torchvision,
    "barlowtwins_checkpoint": from_barlowtwins_checkpoint,
}


def _is_state(value) -> bool:
    """A flat dictionary name -> tensor, not empty."""
    return (isinstance(value, Mapping) and len(value) > 0
            and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()))


def _under(state: Mapping, prefix: str) -> dict:
    """The entries whose names start with the prefix, without it."""
    return {name[len(prefix):]: value for name, value in state.items() if name.startswith(prefix)}


def read(path, format=None, name=None) -> Backbone:
    """The backbone in a file.

    path    of the file; or the word "random", see `random_backbone` (a file of that name is "./random")
    format  a name of READERS; by default the one reader that matches
    name    for tables and paths; by default the stem of the file name
    Raises FileNotFoundError, or ValueError with one line: what was expected, what was found, what to do.
    """
    if format is not None and format not in READERS:
        near = get_close_matches(format, READERS, n=1)
        raise ValueError(f"unknown weights format {format}, known are {', '.join(READERS)}"
                         + (f"; did you mean {near[0]}?" if near else ""))
    if str(path) == "random":
        if format is not None:
            raise ValueError("random is no file and has no format; leave --format away, or write ./random")
        return random_backbone(name or "random")
    raw, sha256 = _load(Path(path))
    try:
        format, state = _recognise(raw, format)
        state = _checked(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Backbone(name or Path(path).stem, format, state, sha256, str(path))


def random_backbone(name="random") -> Backbone:
    """The "Random init" row: torchvision's default initialisation from seed 0 (He normal by fan-out; the last
    BN of a residual branch is not zeroed). Having no file, its sha256 is that of names, shapes and values;
    torch promises equal random numbers only for one release and platform; the hash tells when they differ."""
    with torch.random.fork_rng(devices=[]):  # leaves the caller's generator where it was
        torch.manual_seed(RANDOM_SEED)
        state = dict(resnet50().state_dict())
    digest = hashlib.sha256()
    for key, tensor in state.items():
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return Backbone(name, "random", state, digest.hexdigest(), "random")


def _load(path: Path) -> tuple[object, str]:
    """What the file holds and its sha256, from one open file: they agree even if it is replaced meanwhile."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such weights file; give a checkpoint's path, or the word random")
    if not path.is_file():
        raise ValueError(f"{path}: expected a weights file, found a folder or device; name the file in it")
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        if file.tell() == 0:
            raise ValueError(f"{path}: the file is empty (0 bytes); copy or download it again")
        try:
            _refuse_damaged_archive(file)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True), digest.hexdigest()
        except Exception as error:  # foreign bytes raise almost anything: KeyError, EOFError, struct.error
            raise ValueError(f"{path}: {_why_unreadable(error)}") from None


def _refuse_damaged_archive(file) -> None:
    """torch.load ignores the checksums of its zip archives: a flipped bit in a weight would pass (tried)."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"the checksum of {damaged} does not match")


def _why_unreadable(error: Exception) -> str:
    """One line for the user, from whatever torch.load raised."""
    text = " ".join(str(error).split())
    if code := re.search(r"GLOBAL:? ([\w.]+)", text):
        return (f"refused, as it holds {code[1]}, which is neither tensor nor plain value and may run code;"
                " save only the state dict of its network and read that")
    short = text if len(text) <= 100 else text[:97] + "..."
    return ("expected a PyTorch checkpoint, found a damaged, truncated or foreign file"
            f" ({type(error).__name__}: {short}); copy or download it again")


def _recognise(raw, format: str | None) -> tuple[str, dict]:
    """The name of the one matching reader and what it answered; ValueError for none or several."""
    tried = READERS if format is None else {format: READERS[format]}
    answers = {name: reader(raw) for name, reader in tried.items()}
    found = {name: state for name, state in answers.items() if state is not None}
    if len(found) == 1:
        return next(iter(found.items()))
    if found:
        raise ValueError(f"matches several formats ({', '.join(found)}); pass --format with one of them")
    if format:
        raise ValueError(f"not a file of the format {format}; {_nearest(raw)}."
                         " Leave --format away or name another")
    raise ValueError(f"no known format matched (tried {', '.join(tried)}); {_nearest(raw)}."
                     " Pass --format or add a reader")


def _nearest(raw) -> str:
    """What comes closest in a file no reader knows: the prefix under which most names are ResNet-50's."""
    if not isinstance(raw, Mapping):
        return f"expected a dictionary of tensors, found a {type(raw).__name__}"
    containers = {"": raw}
    containers |= {f"{key}: ": value for key, value in raw.items() if isinstance(value, Mapping)}
    best = (0, "", {})
    for where, container in containers.items():
        state = {name: value for name, value in container.items() if isinstance(name, str)}
        # Whatever stands before one of these names may be the prefix; three, in case one of them is missing.
        # (layer1.0.conv1.weight proposes the prefix layer1.0. too, which then scores low.)
        anchors = ("conv1.weight", "bn1.weight", "layer4.2.bn3.bias")
        prefixes = {name[:-len(anchor)] for name in state for anchor in anchors if name.endswith(anchor)}
        for prefix in sorted(prefixes):
            inside = _under(state, prefix)
            score = len(expected().keys() & inside.keys())
            if score > best[0]:
                best = (score, where + prefix, inside)
    score, where, state = best
    if score == 0:
        keys = ", ".join(str(key) for key in list(raw)[:4])
        return f"none of the 318 backbone tensors found, the first keys are {keys or 'none: it is empty'}"
    missing = [name for name in expected() if name not in state]
    lack = (f"{len(missing)} of 318 backbone tensors missing, first {missing[0]}" if missing
            else "all 318 backbone names there")
    return f"nearest is torchvision{f' under {where}*' if where else ''}, {lack}"


def _checked(state: Mapping) -> dict[str, Tensor]:
    """The 318 tensors in the network's order, copied; ValueError when one is missing, foreign or unusable."""
    state = _with_counters(state)
    faults = []
    if missing := [name for name in expected() if name not in state]:
        faults.append(f"{len(missing)} of 318 backbone tensors missing, first {missing[0]}")
    if foreign := [name for name in state if name not in expected()]:
        faults.append(f"{len(foreign)} tensors that ResNet-50 does not have, first {foreign[0]}")
    if reshaped := [name for name, shape in expected().items()
                    if name in state and tuple(state[name].shape) != shape]:
        name = reshaped[0]
        faults.append(f"{len(reshaped)} of another shape, first {name}: expected {expected()[name]},"
                      f" found {tuple(state[name].shape)}")
    if faults:
        raise ValueError(f"expected torchvision's ResNet-50, found {'; '.join(faults)}{_hint(state)}."
                         " Give the weights of a standard ResNet-50")
    return {name: _usable(name, state[name]) for name in expected()}


def _with_counters(state: Mapping) -> dict:
    """BN counters came with PyTorch 0.4.1: torchvision's first ResNet-50 and VISSL's files (PROTOCOLS 7.1,
    item 6) have none, and then all 53 start at 0, which changes no output. Only some missing is a fault."""
    counters = {name: torch.tensor(0) for name in expected() if name.endswith("num_batches_tracked")}
    return dict(state) if counters.keys() & state.keys() else {**state, **counters}


def _hint(state: Mapping) -> str:
    """What else the weights may be of, from names and shapes; empty when nothing is known."""
    stem = state.get("conv1.weight")
    if stem is not None and tuple(stem.shape[2:]) == (3, 3):
        return " (its 3 x 3 first convolution is that of networks for small images such as CIFAR)"
    if "layer1.0.conv2.weight" in state and "layer1.0.conv3.weight" not in state:
        return " (blocks of two convolutions: ResNet-18 or 34)"
    if "layer3.6.conv1.weight" in state:
        return " (more blocks: ResNet-101 or 152)"
    return ""


def _usable(name: str, tensor: Tensor) -> Tensor:
    """A contiguous copy: int64 for a counter, finite float32 for the others; ValueError if it cannot be."""
    counter = name.endswith("num_batches_tracked")
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        raise ValueError(f"{name}: expected a dense real tensor, found {tensor.dtype} {tensor.layout};"
                         " save the state dict of the float network")
    if counter == tensor.is_floating_point() or tensor.dtype == torch.bool:
        raise ValueError(f"{name}: expected {'an integer' if counter else 'floating-point numbers'},"
                         f" found {tensor.dtype}; save the state dict of the float network")
    tensor = tensor.detach().to(torch.int64 if counter else torch.float32, copy=True,
                                memory_format=torch.contiguous_format)
    if bad := int((~torch.isfinite(tensor)).sum()):
        raise ValueError(f"{name}: expected finite values, found {bad} of {tensor.numel()} NaN or infinite;"
                         " the training diverged, take an earlier checkpoint")
    if name.endswith("running_var") and float(tensor.min()) < 0:
        raise ValueError(f"{name}: expected variances, found {float(tensor.min())}; the file is damaged")
    return tensor
