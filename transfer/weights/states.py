"""What the readers of formats.py are made of: the tensors of a file by name, and the encoders among them."""
import re
from collections.abc import Callable, Mapping
from functools import wraps

from torch import Tensor

from transfer.weights.search import respelled

CONTAINERS = ("state_dict", "model_state_dict", "model", "blobs")  # the first that there is holds the weights
Encoders = dict[str, dict[str, Tensor]]  # name -> entries under torchvision's names
THOP = ("total_ops", "total_params")  # counters that thop leaves in a network
# Put into names by torch.compile, FSDP, activation checkpointing, Lightning's Fabric
WRAPPED = re.compile(r"(?:^|(?<=\.))_(?:orig_mod|(fsdp|checkpoint)_wrapped_module|forward_module)\.")


def flat(raw: object) -> dict[str, Tensor]:
    """Every tensor by name. Those in the container of the weights keep their names, and without a container
    those in none, so a safetensors file looks like its `.pth`. Others get their path as a prefix, such as
    teacher/backbone.conv1.weight, or ./ beside the container. `module.` of a network wrapped for several
    processes is dropped, and so is what WRAPPED finds."""
    if not isinstance(raw, Mapping):
        return {}
    named = {key: _named(raw[key], "") for key in CONTAINERS if isinstance(raw.get(key), Mapping)}
    container = next((key for key in named if named[key]), None)
    if container is None:
        return _named(raw, "")
    beside = {f"./{key}" if isinstance(value, Tensor) else key: value
              for key, value in raw.items() if key != container and isinstance(key, str)}
    return {**_named(beside, ""), **named[container]}


def _named(mapping: Mapping, path: str) -> dict[str, Tensor]:
    named = {WRAPPED.sub("", key): value for key, value in mapping.items() if isinstance(key, str)}
    if all(key.startswith("module.") for key in named if key != "n_averaged"):  # of torch's AveragedModel
        named = {key.removeprefix("module."): value for key, value in named.items()}
    tensors: dict[str, Tensor] = {}
    for name, value in named.items():
        if isinstance(value, list):
            value = {str(number): one for number, one in enumerate(value) if isinstance(one, Mapping)}
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
    """Those encoders that the file holds, in the order given, under torchvision's names."""
    return {name: respelled(under(state, prefix)) for name, prefix in prefixes.items()
            if has(state, prefix)}


def layout(*needs: str, lacks: tuple[str, ...] = ()) -> Callable[
        [Callable[[dict[str, Tensor]], Encoders | None]], Callable[[dict[str, Tensor]], Encoders | None]]:
    """Make a function of the flat state a reader, which answers only if each prefix in needs begins a
    name and none in lacks does. The encoder's prefix comes first; readers.py finds near-misses by
    reader.needs."""
    def made(function):
        @wraps(function)
        def reader(state):
            if all(has(state, prefix) for prefix in needs) and not any(has(state, bad) for bad in lacks):
                return function(state) or None
            return None
        reader.needs = needs
        return reader
    return made


def prefixed(*needs: str, lacks: tuple[str, ...] = (),
             **prefixes: str) -> Callable[[dict[str, Tensor]], Encoders | None]:
    """Return the reader of a layout whose encoders stand under these prefixes, the default one first."""
    return layout(*needs, lacks=lacks)(lambda state: encoders(state, **prefixes))
