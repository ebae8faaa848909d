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
from transfer.weights.architectures import ALL_NAMES, ARCHITECTURES, RESNET50, Architecture, nearest
from transfer.weights.backbone import Backbone
from transfer.weights.files import load, located, one_line
from transfer.weights.formats import LAST, NAMED_ONLY, READERS
from transfer.weights.kinds import INDEX
from transfer.weights.search import faults, is_trunk, nearest_entries, with_counters
from transfer.weights.states import flat, has

RANDOM_SEED = 0  # of the backbone called "random"
# A part of a name that only a variant has -> what it is
VARIANTS = {
    "conv1.0.": "a stem of three convolutions, as ResNet-C and -D have it", ".se.": "squeeze and excitation",
    ".IN.": "instance norm, as IBN-Net has it", ".mixing_conv.": "selective kernels",
    "downsample.2.": "pooling before the shortcut's convolution, as ResNet-D has it",
    "layer1.0.conv2.radix": "split attention", "layer1.0.conv2.fc1": "split attention, as ResNeSt has it",
}


@dataclass(frozen=True, eq=False)
class Contents:
    """What a file holds, recognised but not checked.

    format    the one reader that matched
    encoders  name -> its entries under torchvision's names, without heads and what else may stand beside
    default   the encoder that is taken where none is named; None where the file decides nothing
    sha256    of the file
    stem      of the network, where the file says it: a key of STEMS, else None
    classifier  of the default encoder, see Backbone, not checked
    """
    format: str
    encoders: dict[str, dict]
    sha256: str
    stem: str | None = None
    classifier: tuple[Tensor, Tensor] | None = None

    @property
    def default(self) -> str | None:
        return None if self.format == LAST and len(self.encoders) > 1 else next(iter(self.encoders))

    def label(self, chosen: str) -> str:
        """The format, with the encoder's name where that says more."""
        return self.format if chosen == self.default and self.format != LAST else f"{self.format}:{chosen}"


def read(path: str | Path, format: str | None = None, name: str | None = None, encoder: str | None = None,
         stem: str | None = None) -> Backbone:
    """The backbone in a file.

    path     of the file, of the index of a checkpoint in several files, or of a folder with one of them and
             no other weights; or the word "random", a ResNet-50, or "random:resnet18-cifar" and the like, see
             `random_backbone` (a file of that name is "./random")
    format   a name of READERS; by default the one reader that matches
    name     for tables and paths; by default that of the file without .pth, .pth.tar or the like
    encoder  which one, of a file with several (docs/weights.md); by default the one its project evaluates.
             Another one is part of Backbone.format, as in moco:key, and of Backbone.sha256, that of
             "<sha256 of the file>:<encoder>", so records never mix the two. Where a ResNet was found under a
             name that is no project's, Backbone.format says it, as in resnet:model.encoder
    stem     cifar or small, of a network with a 3 x 3 first convolution where the file does not say it; then
             part of Backbone.sha256 in the same way
    Raises FileNotFoundError, or ValueError with one line: what was expected, what was found, what to do.
    """
    if str(path).partition(":")[0] == "random":
        _require_known(format)
        for word, value in (("format", format), ("encoder", encoder), ("stem", stem)):
            if value is not None:
                raise ValueError(f"random is no file and has no {word}; leave out --{word} or write ./random")
        return random_backbone(name or "random", _random_arch(str(path)))
    contents = look(path, format)
    try:
        chosen = chosen_of(contents, encoder)
        arch, state = checked(contents, chosen, stem)
        classifier = fitting(contents, arch) if chosen == contents.default else None
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None
    sha256 = contents.sha256
    told = ([chosen] if chosen != contents.default else []) + (
        [arch.stem] if len(arch.stems) > 1 and contents.stem is None else [])
    for word in told:  # what the file does not say
        sha256 = hashlib.sha256(f"{sha256}:{word}".encode()).hexdigest()
    path = str(located(path))
    name = name or Path(path.removesuffix(".tar").removesuffix(INDEX)).stem
    return Backbone(name, contents.label(chosen), state, sha256, path, arch, classifier)


def look(path: str | Path, format: str | None = None) -> Contents:
    """What the file holds; the errors of `read` for a file that cannot be read or recognised."""
    _require_known(format)
    raw, sha256 = load(path)
    try:
        return recognised(raw, sha256, format)
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None


def recognised(raw: object, sha256: str, format: str | None = None) -> Contents:
    """What was loaded from a file; ValueError (without its path) unless exactly one reader matches."""
    _require_known(format)
    if not isinstance(raw, Mapping):
        raise ValueError(f"expected a dictionary of tensors, found a {type(raw).__name__}; save a state dict")
    state = flat(raw)
    name, encoders = _recognise(raw, state, format)
    for encoder, entries in encoders.items():
        encoders[encoder] = {part: tensor for part, tensor in entries.items()
                             if part in ALL_NAMES or is_trunk(part)}
    return Contents(name, encoders, sha256, _stem(raw, name, encoders), _classifier(name, state))


def _stem(raw: Mapping, format: str, encoders: dict[str, dict]) -> str | None:
    """That a checkpoint of this suite's pretraining says it has; of solo-learn, which has no other one of
    3 x 3, "solo"."""
    if format == "sololearn" and any(tuple(entries["conv1.weight"].shape[2:]) == (3, 3)
                                     for entries in encoders.values() if "conv1.weight" in entries):
        return "solo"
    config = raw.get("config")
    stem = config.get("stem") if isinstance(config, Mapping) else None
    return stem if isinstance(stem, str) and stem in STEMS else None


def _classifier(format: str, state: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """The online classifier of this suite's pretraining, or of solo-learn's."""
    prefix = "classifier." if format == "sololearn" else "online/classifier/"
    weight, bias = (state.get(prefix + part) for part in ("weight", "bias"))
    return None if weight is None or bias is None else (weight, bias)


def _require_known(format: str | None) -> None:
    if format is not None and format not in READERS:
        near = get_close_matches(format, READERS, n=1)
        raise ValueError(f"unknown weights format {format}, known are {', '.join(READERS)}"
                         + (f"; did you mean {near[0]}?" if near else ""))


def chosen_of(contents: Contents, encoder: str | None) -> str:
    """The encoder's name, by default the one that the file decides on; ValueError where there is none of
    that name, or none was named and it has to be."""
    names = list(contents.encoders)
    if encoder is None:
        if contents.default is None:
            raise ValueError(f"holds {len(names)} complete ResNets, {', '.join(names)}, and does not say"
                             " which to take; pass --encoder with one of these names")
        return contents.default
    encoder = encoder.rstrip(".")  # as names in the file have it: model.encoder.
    if encoder in names:
        return encoder
    if len(names) == 1:
        raise ValueError(f"holds one encoder ({contents.format}), so there is none to choose, found --encoder"
                         f" {encoder}; leave it out")
    raise ValueError(f"unknown encoder {encoder}, a file of the format {contents.format} has"
                     f" {', '.join(names)}; name one of them")


def _random_arch(path: str) -> Architecture:
    name = path.partition(":")[2] or RESNET50.name
    if name not in ARCHITECTURES:
        near = get_close_matches(name, ARCHITECTURES, n=1)
        raise ValueError(f"{path}: expected random:ARCHITECTURE, such as random:resnet18-cifar, found "
                         "another" + (f"; did you mean random:{near[0]}?" if near else ""))
    return ARCHITECTURES[name]


def random_backbone(name: str = "random", arch: Architecture = RESNET50) -> Backbone:
    """The "Random init" row: torchvision's default initialisation from seed 0 (He normal by fan-out; the last
    BN of a residual branch is not zeroed). It has no file, so its sha256 is that of names,
    shapes and values. torch promises equal random numbers only for one release and platform; the hash shows
    if they differ."""
    with torch.random.fork_rng(devices=[]):  # leaves the caller's generator where it was
        torch.manual_seed(RANDOM_SEED)
        state = dict(arch.network().state_dict())
    digest = hashlib.sha256()
    for key, tensor in state.items():
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return Backbone(name, "random", state, digest.hexdigest(), "random", arch)


def _recognise(raw: Mapping, state: dict[str, Tensor], format: str | None) -> tuple[str, dict]:
    """The name of the one matching reader and what it answered; ValueError for none or several."""
    tried = {name: READERS[name] for name in READERS if name != LAST} if format is None else {
        format: READERS[format]}
    answers = {name: reader(state) for name, reader in tried.items()}
    found = {name: encoders for name, encoders in answers.items() if encoders is not None}
    if not found and format is None and (encoders := READERS[LAST](state)):
        found = {LAST: encoders}
    if len(found) == 1:
        name = next(iter(found))
        if format is None and name in NAMED_ONLY:
            raise ValueError(f"{NAMED_ONLY[name]} pass --format {name}")
        return name, found[name]
    if found:
        raise ValueError(f"matches several formats ({', '.join(found)}); pass --format with one of them")
    if format is None:
        raise ValueError(f"no known format matched ({len(READERS)} tried, see docs/weights.md); "
                         f"{_nearest(raw, state)}{_lacking(state, tried)}. Give the weights of a ResNet of"
                         " torchvision, or add a reader (docs/extending.md)")
    try:
        other, _ = _recognise(raw, state, None)
    except ValueError as error:
        raise ValueError(f"not a file of the format {format}; {error}") from None
    raise ValueError(f"not a file of the format {format} but of {other}; leave --format away")


def _lacking(state: dict[str, Tensor], tried: dict) -> str:
    """The formats of which a part is there, the encoder, and what of the rest is not."""
    near = {}
    for name, reader in tried.items():
        needs: tuple[str, ...] = getattr(reader, "needs", ())
        missing = [prefix for prefix in needs if not has(state, prefix)]
        if missing and len(missing) < len(needs) and missing[0] != needs[0]:
            near[name] = f"{name} needs {', '.join(f'{prefix}*' for prefix in missing)} as well"
    return f" ({'; '.join(near.values())})" if near else ""


def _nearest(raw: Mapping, state: dict[str, Tensor]) -> str:
    """What comes closest in a file no reader knows: the prefix under which most names are a ResNet's."""
    near = nearest_entries(state)
    if near is None:
        keys = ", ".join(str(key)[:40] for key in list(raw)[:4])
        return f"no tensor of a ResNet found, the first keys are {keys or 'none: it is empty'}"
    prefix, entries = near
    arch = nearest(entries)
    return (f"nearest is torchvision's {arch.name}{f' under {prefix}*' if prefix else ''}, "
            f"{'; '.join(faults(arch, with_counters(entries))) or 'with tensors of another network in it'}")


def checked(contents: Contents, chosen: str, stem: str | None) -> tuple[Architecture, dict[str, Tensor]]:
    """The architecture of an encoder and its tensors in the network's order, copied; ValueError (without the
    file's path) when one is missing, foreign or unusable, or when nothing says which stem the network has."""
    state = with_counters(contents.encoders[chosen])
    arch = nearest(state)
    if found := faults(arch, state):
        kinds = [kind for part, kind in VARIANTS.items() if any(part in name for name in state)]
        raise ValueError(f"read as {contents.label(chosen)}: expected a ResNet of torchvision, nearest is"
                         f" {arch.model}, found {'; '.join(found + kinds)}. Give the weights of a standard"
                         " ResNet")
    arch = Architecture(arch.model, _chosen_stem(arch, contents.stem, stem))
    return arch, {name: usable(name, state[name]) for name in arch.expected}


def fitting(contents: Contents, arch: Architecture) -> tuple[Tensor, Tensor] | None:
    """The classifier of a file, copied, or None; ValueError for one that is not of its network."""
    if contents.classifier is None:
        return None
    weight, bias = (usable(f"classifier.{part}", tensor)
                    for part, tensor in zip(("weight", "bias"), contents.classifier))
    if weight.ndim != 2 or weight.shape[1] != arch.width or bias.shape != weight.shape[:1]:
        raise ValueError(f"expected a classifier of {arch.width} features, found weights "
                         f"{tuple(weight.shape)} and biases {tuple(bias.shape)}; the file is damaged")
    return weight, bias


def _chosen_stem(arch: Architecture, said: str | None, wanted: str | None) -> str:
    """The stem of a network whose tensors are arch's. said: by the file; wanted: by --stem."""
    stem = wanted or said or (arch.stems[0] if len(arch.stems) == 1 else None)
    if stem is None:
        raise ValueError(f"a {arch.model} with a 3 x 3 stem, and the file does not say whether max pooling"
                         " follows; pass --stem small if it does, --stem cifar if not, --stem solo if not and"
                         " the convolution pads by 2")
    found = arch.stems if said in (None, stem) else [said]
    if stem not in found:
        raise ValueError(f"expected the stem {stem}, found {' or '.join(found)}; correct --stem or leave it"
                         " out")
    return stem


def usable(name: str, tensor: Tensor) -> Tensor:
    """A contiguous copy: int64 for a counter, finite float32 for the others; ValueError if it cannot be."""
    counter = name.endswith("num_batches_tracked")
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        layout = str(tensor.layout).removeprefix("torch.").replace(
            "strided", "without values" if tensor.is_meta else "")
        raise ValueError(f"{name}: expected a dense real tensor, found {f'{kind} {layout}'.rstrip()}; save"
                         " the state dict of the float network")
    if tensor.dtype == torch.bool or not counter and not tensor.is_floating_point():
        raise ValueError(f"{name}: expected {'a number' if counter else 'floating-point numbers'}, found"
                         f" {kind}; save the state dict of the float network")
    try:
        wanted = (torch.float32 if not counter else
                  torch.float64 if tensor.is_floating_point() else torch.int64)  # a counter changes no output
        tensor = tensor.detach().to(wanted, copy=True, memory_format=torch.contiguous_format)
    except NotImplementedError:
        raise ValueError(f"{name}: expected numbers that torch can convert, found {kind}; save the state dict"
                         " of the float network") from None
    if bad := int((~torch.isfinite(tensor)).sum()):
        raise ValueError(f"{name}: expected finite values, found {bad} of {tensor.numel()} NaN or infinite;"
                         " the training diverged, take an earlier checkpoint")
    if name.endswith("running_var") and float(tensor.min()) < 0:
        raise ValueError(f"{name}: expected variances, found {float(tensor.min())}; the file is damaged")
    return tensor.to(torch.int64) if counter else tensor
