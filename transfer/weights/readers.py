"""Reading a ResNet backbone from a file: `read` finds the format in formats.py that fits and checks all.

    from transfer.weights.readers import read
    backbone = read("resnet50.pth")

No code from a file is run (files.py), and nothing is guessed: exactly one reader must match, the tensors must
be those of one architecture (architectures.py) in their shapes, and every value must be finite.
"""
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor

from parallel.resnets import STEMS
from transfer.weights.architectures import ALL_NAMES, RESNET50, Architecture, nearest
from transfer.weights.backbone import Backbone
from transfer.weights.files import load
from transfer.weights.formats import NAMED_ONLY, READERS
from transfer.weights.states import flat, has, under

RANDOM_SEED = 0  # of the backbone called "random"


@dataclass(frozen=True, eq=False)
class Contents:
    """What a file holds, recognised but not checked.

    format    the one reader that matched
    encoders  name -> its entries under torchvision's names, the default encoder first
    sha256    of the file
    stem      of the network, where the file says it: a key of STEMS, else None
    """
    format: str
    encoders: dict[str, dict]
    sha256: str
    stem: str | None = None


def read(path: str | Path, format: str | None = None, name: str | None = None, encoder: str | None = None,
         stem: str | None = None) -> Backbone:
    """The backbone in a file.

    path     of the file; or the word "random", see `random_backbone` (a file of that name is "./random")
    format   a name of READERS; by default the one reader that matches
    name     for tables and paths; by default that of the file without .pth, .pth.tar or the like
    encoder  which one, of a file with several (docs/weights.md); by default the one its project evaluates.
             Another one is part of Backbone.format, as in moco:key, and of Backbone.sha256, that of
             "<sha256 of the file>:<encoder>", so records never mix the two
    stem     cifar or small, of a network with a 3 x 3 first convolution where the file does not say it; then
             part of Backbone.sha256 in the same way
    Raises FileNotFoundError, or ValueError with one line: what was expected, what was found, what to do.
    """
    if str(path) == "random":
        _require_known(format)
        for word, value in (("format", format), ("encoder", encoder), ("stem", stem)):
            if value is not None:
                raise ValueError(f"random is no file and has no {word}; leave out --{word} or write ./random")
        return random_backbone(name or "random")
    contents = look(path, format)
    try:
        chosen = chosen_of(contents, encoder)
        arch, state = checked(contents, chosen, stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    sha256 = contents.sha256
    told = ([chosen] if chosen != next(iter(contents.encoders)) else []) + (
        [arch.stem] if len(arch.stems) > 1 and contents.stem is None else [])
    for word in told:  # what the file does not say
        sha256 = hashlib.sha256(f"{sha256}:{word}".encode()).hexdigest()
    name = name or Path(str(path).removesuffix(".tar")).stem
    return Backbone(name, _label(contents, chosen), state, sha256, str(path), arch)


def look(path: str | Path, format: str | None = None) -> Contents:
    """What the file holds; the errors of `read` for a file that cannot be read or recognised."""
    _require_known(format)
    raw, sha256 = load(path)
    try:
        return recognised(raw, sha256, format)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def recognised(raw: object, sha256: str, format: str | None = None) -> Contents:
    """What was loaded from a file; ValueError (without its path) unless exactly one reader matches."""
    _require_known(format)
    return Contents(*_recognise(raw, format), sha256, _stem(raw))


def _stem(raw: object) -> str | None:
    """That a checkpoint of this suite's pretraining says it has."""
    config = raw.get("config") if isinstance(raw, Mapping) else None
    stem = config.get("stem") if isinstance(config, Mapping) else None
    return stem if isinstance(stem, str) and stem in STEMS else None


def _label(contents: Contents, chosen: str) -> str:
    return contents.format + ("" if chosen == next(iter(contents.encoders)) else f":{chosen}")


def _require_known(format: str | None) -> None:
    if format is not None and format not in READERS:
        near = get_close_matches(format, READERS, n=1)
        raise ValueError(f"unknown weights format {format}, known are {', '.join(READERS)}"
                         + (f"; did you mean {near[0]}?" if near else ""))


def chosen_of(contents: Contents, encoder: str | None) -> str:
    """The encoder's name, by default the first; ValueError where there is none of that name."""
    names = list(contents.encoders)
    if encoder is None:
        return names[0]
    if len(names) == 1:
        raise ValueError(f"holds one encoder ({contents.format}), so there is none to choose, found --encoder"
                         f" {encoder}; leave it out")
    if encoder not in names:
        raise ValueError(f"unknown encoder {encoder}, a file of the format {contents.format} has"
                         f" {', '.join(names)}; name one of them")
    return encoder


def random_backbone(name: str = "random") -> Backbone:
    """The "Random init" row: torchvision's default initialisation of a ResNet-50 from seed 0 (He normal by
    fan-out; the last BN of a residual branch is not zeroed). It has no file, so its sha256 is that of names,
    shapes and values. torch promises equal random numbers only for one release and platform; the hash shows
    if they differ."""
    with torch.random.fork_rng(devices=[]):  # leaves the caller's generator where it was
        torch.manual_seed(RANDOM_SEED)
        state = dict(RESNET50.network().state_dict())
    digest = hashlib.sha256()
    for key, tensor in state.items():
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return Backbone(name, "random", state, digest.hexdigest(), "random")


def _recognise(raw: object, format: str | None) -> tuple[str, dict]:
    """The name of the one matching reader and what it answered; ValueError for none or several."""
    tried = READERS if format is None else {format: READERS[format]}
    answers = {name: reader(raw) for name, reader in tried.items()}
    found = {name: encoders for name, encoders in answers.items() if encoders is not None}
    if len(found) == 1:
        name = next(iter(found))
        if format is None and name in NAMED_ONLY:
            raise ValueError(f"{NAMED_ONLY[name]} pass --format {name}")
        return name, found[name]
    if found:
        raise ValueError(f"matches several formats ({', '.join(found)}); pass --format with one of them")
    if format:
        raise ValueError(f"not a file of the format {format}; {_nearest(raw)}{_lacking(raw, tried)}."
                         " Leave --format away or name another")
    raise ValueError(f"no known format matched ({len(tried)} tried, see docs/weights.md); {_nearest(raw)}"
                     f"{_lacking(raw, tried)}. Pass --format or add a reader")


def _lacking(raw: object, tried: dict) -> str:
    """The formats of which a part is there, the encoder, and what of the rest is not."""
    state, near = flat(raw), {}
    for name, reader in tried.items():
        needs: tuple[str, ...] = getattr(reader, "needs", ())
        missing = [prefix for prefix in needs if not has(state, prefix)]
        if missing and len(missing) < len(needs) and missing[0] != needs[0]:
            near[name] = f"{name} needs {', '.join(f'{prefix}*' for prefix in missing)} as well"
    return f" ({'; '.join(near.values())})" if near else ""


def _nearest(raw: object) -> str:
    """What comes closest in a file no reader knows: the prefix under which most names are a ResNet's."""
    if not isinstance(raw, Mapping):
        return f"expected a dictionary of tensors, found a {type(raw).__name__}"
    state = flat(raw)
    where = nearest_prefix(state)
    if where is None:
        keys = ", ".join(str(key) for key in list(raw)[:4])
        return f"no tensor of a ResNet found, the first keys are {keys or 'none: it is empty'}"
    arch = nearest(under(state, where))
    missing = [name for name in arch.expected if where + name not in state]
    lack = (f"{len(missing)} of {len(arch.expected)} backbone tensors missing, first {missing[0]}" if missing
            else f"all {len(arch.expected)} backbone names there")
    return f"nearest is torchvision's {arch.name}{f' under {where}*' if where else ''}, {lack}"


def nearest_prefix(state: Mapping) -> str | None:
    """The prefix under which most names of the flat state are a ResNet's; None where no name is."""
    # The text before any of these names may be the prefix. There are three, in case one is missing.
    # (layer1.0.conv1.weight also proposes the prefix layer1.0., which then scores low.)
    anchors = ("conv1.weight", "bn1.weight", "layer4.1.bn2.bias")
    prefixes = {name.removesuffix(anchor) for name in state for anchor in anchors if name.endswith(anchor)}
    return max(sorted(prefixes), key=lambda prefix: sum(prefix + name in state for name in ALL_NAMES),
               default=None)


def checked(contents: Contents, chosen: str, stem: str | None) -> tuple[Architecture, dict[str, Tensor]]:
    """The architecture of an encoder and its tensors in the network's order, copied; ValueError (without the
    file's path) when one is missing, foreign or unusable, or when nothing says which stem the network has."""
    state = _with_counters(contents.encoders[chosen])
    arch = nearest(state)
    faults, count = [], len(arch.expected)
    if missing := [name for name in arch.expected if name not in state]:
        faults.append(f"{len(missing)} of {count} backbone tensors missing, first {missing[0]}")
    if foreign := [name for name in state if name not in arch.expected]:
        faults.append(f"{len(foreign)} foreign to {arch.model}, first {foreign[0]}")
    if reshaped := [name for name, shape in arch.expected.items()
                    if name in state and tuple(state[name].shape) != shape]:
        name = reshaped[0]
        faults.append(f"{len(reshaped)} of another shape, first {name}: expected {arch.expected[name]},"
                      f" found {tuple(state[name].shape)}")
    if faults:
        raise ValueError(f"read as {_label(contents, chosen)}: expected a ResNet of torchvision, nearest is"
                         f" {arch.model}, found {'; '.join(faults)}. Give the weights of a standard ResNet")
    arch = Architecture(arch.model, _chosen_stem(arch, contents.stem, stem))
    return arch, {name: _usable(name, state[name]) for name in arch.expected}


def _chosen_stem(arch: Architecture, said: str | None, wanted: str | None) -> str:
    """The stem of a network whose tensors are arch's. said: by the file; wanted: by --stem."""
    stem = wanted or said or (arch.stems[0] if len(arch.stems) == 1 else None)
    if stem is None:
        raise ValueError(f"a {arch.model} with a 3 x 3 stem, and the file does not say whether max pooling"
                         " follows; pass --stem small if it does, --stem cifar if not")
    found = arch.stems if said in (None, stem) else [said]
    if stem not in found:
        raise ValueError(f"expected the stem {stem}, found {' or '.join(found)}; correct --stem or leave it"
                         " out")
    return stem


def _with_counters(state: Mapping) -> dict:
    """BN counters came with PyTorch 0.4.1: torchvision's first ResNets and VISSL's files have none. Then all
    start at 0, which changes no output. It is a fault if only some are missing."""
    counters = {f"{name.removesuffix('running_var')}num_batches_tracked": torch.tensor(0) for name in state
                if name.endswith("running_var")}
    return dict(state) if counters.keys() & state.keys() else {**state, **counters}


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
