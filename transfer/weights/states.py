"""What the readers of formats.py are made of: the tensors of a file by name, and the encoders among them."""
import re
from collections.abc import Callable, Mapping
from functools import wraps

from torch import Tensor

CONTAINERS = ("state_dict", "model_state_dict", "model", "blobs")  # the first that there is holds the weights
Encoders = dict[str, dict[str, Tensor]]  # name -> entries under torchvision's names
THOP = ("total_ops", "total_params")  # counters that thop leaves in a network


def flat(raw: object) -> dict[str, Tensor]:
    """Every tensor by name. Those in the container of the weights, and those in none, keep their names, so a
    safetensors file looks like its `.pth`. Tensors in other containers get their path as a prefix, such as
    teacher/backbone.conv1.weight. `module.` of a network wrapped for several processes is dropped."""
    if not isinstance(raw, Mapping):
        return {}
    container = next((key for key in CONTAINERS if isinstance(raw.get(key), Mapping)), None)
    beside = {key: value for key, value in raw.items() if key != container}
    return {**_named(beside, ""), **_named({} if container is None else raw[container], "")}


def _named(mapping: Mapping, path: str) -> dict[str, Tensor]:
    named = {key: value for key, value in mapping.items() if isinstance(key, str)}
    if all(key.startswith("module.") for key in named):
        named = {key.removeprefix("module."): value for key, value in named.items()}
    tensors: dict[str, Tensor] = {}
    for name, value in named.items():
        if isinstance(value, Mapping):
            tensors |= _named(value, f"{path}{name}/")
        elif isinstance(value, Tensor) and not name.endswith(THOP):
            tensors[path + name] = value
    return tensors


def has(state: Mapping, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in state)


def under(state: Mapping, prefix: str) -> dict[str, Tensor]:
    """The entries whose names start with the prefix, without it, and without fc: in many methods the
    projector stands in the place of the classifier. Nothing of other containers."""
    entries = {name[len(prefix):]: value for name, value in state.items() if name.startswith(prefix)}
    return {name: value for name, value in entries.items()
            if not name.startswith("fc.") and "/" not in name}


def encoders(state: Mapping, **prefixes: str) -> Encoders:
    """Those encoders that the file holds, in the order given; numbered names become torchvision's."""
    return {name: _unnumbered(under(state, prefix)) for name, prefix in prefixes.items()
            if has(state, prefix)}


def _unnumbered(entries: dict) -> dict:
    """nn.Sequential(*resnet.children()) names conv1, bn1, relu, maxpool, layer1 to layer4 by 0 to 7; without
    the max pooling, as some do for CIFAR-10, layer1 to layer4 are 3 to 6."""
    if "0.weight" not in entries:
        return entries
    first = 4 if has(entries, "7.") else 3
    names = {"0": "conv1", "1": "bn1", **{str(first + index): f"layer{index + 1}" for index in range(4)}}
    return {re.sub(r"^\d+(?=\.)", lambda number: names.get(number[0], number[0]), name): value
            for name, value in entries.items()}


def layout(*needs: str, lacks: tuple[str, ...] = ()) -> Callable[
        [Callable[[dict[str, Tensor]], Encoders | None]], Callable[[object], Encoders | None]]:
    """Turn a function of the flat state into a reader, which is asked only if each prefix in needs begins a
    name and none in lacks does. The encoder's prefix comes first; readers.py finds near-misses by
    reader.needs."""
    def made(function):
        @wraps(function)
        def reader(raw):
            state = flat(raw)
            if all(has(state, prefix) for prefix in needs) and not any(has(state, bad) for bad in lacks):
                return function(state) or None
            return None
        reader.needs = needs
        return reader
    return made


def prefixed(*needs: str, lacks: tuple[str, ...] = (),
             **prefixes: str) -> Callable[[object], Encoders | None]:
    """Return the reader of a layout whose encoders stand under these prefixes, the default one first."""
    return layout(*needs, lacks=lacks)(lambda state: encoders(state, **prefixes))
