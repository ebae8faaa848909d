"""ResNets in a file, whatever they are called there: under which prefix, in whose spelling of the names."""
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from transfer.weights.architectures import ALL_NAMES, ARCHITECTURES, Architecture

MOST = 32  # complete ResNets looked at in one file
FEW = 10   # names that any numbered network may share with a ResNet's


def _numbered(first: int) -> dict[str, str]:
    """Names of nn.Sequential(*resnet.children()): conv1, bn1, relu, maxpool, layer1 to layer4 are 0 to 7;
    without the max pooling, as some do for CIFAR-10, layer1 to layer4 are 3 to 6. first: of layer1."""
    numbers = {"conv1": 0, "bn1": 1, **{f"layer{stage}": first + stage - 1 for stage in (1, 2, 3, 4)}}
    return {f"{numbers[name.split('.')[0]]}.{name.split('.', 1)[1]}": name for name in ALL_NAMES}


def _hugging_face(name: str) -> str:
    """huggingface/transformers src/transformers/models/resnet/modeling_resnet.py"""
    for ours, theirs in ((r"^conv1\.", "embedder.embedder.convolution."),
                         (r"^bn1\.", "embedder.embedder.normalization."),
                         (r"\.downsample\.0\.", ".shortcut.convolution."),
                         (r"\.downsample\.1\.", ".shortcut.normalization.")):
        name = re.sub(ours, theirs, name)
    name = re.sub(r"^layer(\d)\.(\d+)\.", lambda part: f"encoder.stages.{int(part[1]) - 1}.layers.{part[2]}.",
                  name)
    kinds = {"conv": "convolution", "bn": "normalization"}
    return re.sub(r"\.(conv|bn)(\d)\.", lambda part: f".layer.{int(part[2]) - 1}.{kinds[part[1]]}.", name)


# Each: their name -> torchvision's
SPELLINGS: tuple[dict[str, str], ...] = (
    {name: name for name in ALL_NAMES},
    {name.replace(".downsample.", ".shortcut."): name for name in ALL_NAMES},  # HobbitLong/SupContrast
    _numbered(4), _numbered(3),
    {_hugging_face(name): name for name in ALL_NAMES},
)
# Each: first part of their names -> of torchvision's
FIRST = tuple({theirs.partition(".")[0]: ours.partition(".")[0] for theirs, ours in spelling.items()}
              for spelling in SPELLINGS)
PARTS = max(len(name.split(".")) for spelling in SPELLINGS for name in spelling)
TRUNK = re.compile(r"(conv|bn|layer|norm|stem|maxpool|downsample)\d*")  # what only another network has there
Found = dict[str, dict[str, Tensor]]  # prefix, with its last dot or slash -> entries, torchvision's names


def is_trunk(name: str) -> bool:
    """Whether a name that torchvision's ResNets have not would be a part of the network before its features.
    Heads, decoders, counters of epochs and the like may stand beside it."""
    return TRUNK.fullmatch(name.partition(".")[0]) is not None


def respelled(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries under torchvision's names, if they are in one of the spellings."""
    number = max(range(len(SPELLINGS)), key=lambda number: sum(name in SPELLINGS[number] for name in entries))
    return {_ours(name, number): tensor for name, tensor in entries.items()}


def _ours(name: str, number: int) -> str:
    """The name in torchvision's spelling; of one that no ResNet has, at least the first part."""
    first, dot, rest = name.partition(".")
    return SPELLINGS[number].get(name) or FIRST[number].get(first, first) + dot + rest


def resnets(state: Mapping[str, Tensor]) -> Found:
    """The complete ResNets of torchvision's architectures in a flat state (states.flat), shortest prefix
    first; of several with equal tensors, as where two modules share one, the first."""
    groups = _groups(state)
    places = sorted((place for place in groups if _complete(groups[place])), key=lambda place: len(place[0]))
    found: Found = {}
    for prefix, number in places[:MOST]:
        beside = (_ours(name[len(prefix):], number) for name in state if name.startswith(prefix))
        entries = groups[prefix, number]
        if not any(name not in ALL_NAMES and is_trunk(name) for name in beside) \
                and not any(_equal(entries, other) for other in found.values()):
            found[prefix] = entries
    return found


def nearest_entries(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]] | None:
    """The prefix below which most names are a ResNet's, and the entries there; None where no name is."""
    groups = _groups(state)
    best = max((place for place in sorted(groups) if place[1] == 0 or len(groups[place]) > FEW),
               key=lambda place: len(groups[place]), default=None)
    return None if best is None else (best[0], groups[best])


def _groups(state: Mapping[str, Tensor]) -> dict[tuple[str, int], dict[str, Tensor]]:
    """(prefix, number of the spelling) -> what stands there under names of the spelling."""
    groups: dict[tuple[str, int], dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in state.items():
        for start in _starts(name):
            for number, names in enumerate(SPELLINGS):
                if (ours := names.get(name[start:])) is not None:
                    groups[name[:start], number][ours] = tensor
    return groups


def _starts(name: str) -> Iterator[int]:
    """Where the last parts of a name begin, as many as any spelling has."""
    yield from [0, *(dot.end() for dot in re.finditer(r"[./]", name))][-PARTS:]


def _complete(entries: dict[str, Tensor]) -> bool:
    if "conv1.weight" not in entries or "layer4.0.conv1.weight" not in entries:
        return False
    shapes = {name: tuple(tensor.shape) for name, tensor in with_counters(entries).items()}
    return any(arch.expected == shapes for arch in ARCHITECTURES.values())


def with_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BN counters came with PyTorch 0.4.1: torchvision's first ResNets and VISSL's files have none. Then all
    start at 0, which changes no output. It is a fault if only some are missing."""
    counters = {f"{name.removesuffix('running_var')}num_batches_tracked": torch.tensor(0) for name in state
                if name.endswith("running_var")}
    return dict(state) if counters.keys() & state.keys() else {**state, **counters}


def faults(arch: Architecture, state: Mapping[str, Tensor]) -> list[str]:
    """In what the entries differ from the architecture's, in words: none if they are complete."""
    found = []
    if missing := [name for name in arch.expected if name not in state]:
        found.append(f"{len(missing)} of {len(arch.expected)} backbone tensors missing, first {missing[0]}")
    if foreign := [name for name in state if name not in arch.expected]:
        found.append(f"{len(foreign)} foreign to {arch.model}, first {foreign[0]}")
    if reshaped := [name for name, shape in arch.expected.items()
                    if name in state and tuple(state[name].shape) != shape]:
        name = reshaped[0]
        found.append(f"{len(reshaped)} of another shape, first {name}: expected {arch.expected[name]},"
                     f" found {tuple(state[name].shape)}")
    return found


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    try:
        return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    except (RuntimeError, NotImplementedError):  # types that torch cannot compare
        return False
