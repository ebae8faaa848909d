"""The projector of a Barlow Twins checkpoint, official or ours: linear layers with norms between."""
from pathlib import Path

from torch import Tensor

from transfer.weights.export import VERSION
from transfer.weights.files import load, located, one_line
from transfer.weights.readers import usable
from transfer.weights.states import flat

PREFIX = "projector."
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def read(path: str | Path, name: str | None = None) -> tuple[dict[str, Tensor], dict]:
    """Tensors of the projector under the names of its nn.Sequential ("0.weight", "1.weight", ...), and their
    metadata, for proof.convert_projector.

    The file is checkpoint.pth, {epoch, model, optimizer, ...} whose model has `module.projector.` or
    `projector.` (facebookresearch/barlowtwins main.py:144-149, 195-205). ValueError where there is none, or
    where a tensor is missing, of another shape or not finite.
    """
    raw, sha256 = load(path)
    tensors = {name.removeprefix(PREFIX): value for name, value in flat(raw).items()
               if name.startswith(PREFIX)}
    if not tensors:
        raise ValueError(f"{path}: expected a full Barlow Twins checkpoint whose model has projector.*, found"
                         " none; give checkpoint.pth, as resnet50.pth is the backbone alone")
    try:
        width, *sizes = _sizes(tensors)
        tensors = {name: usable(PREFIX + name, tensor) for name, tensor in tensors.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None
    return tensors, {"name": name or located(path).stem, "source_sha256": sha256,
                     "reader": "barlowtwins_checkpoint", "converter_version": VERSION,
                     "input_features": width, "projector": "-".join(str(size) for size in sizes)}


def _sizes(tensors: dict[str, Tensor]) -> list[int]:
    """Width of the input and of each layer; ValueError unless the tensors are those of such a projector."""
    sizes: list[int] = []
    while (weight := tensors.get(f"{3 * len(sizes)}.weight")) is not None and weight.dim() == 2:
        sizes.append(weight.shape[0])
    width = tensors["0.weight"].shape[1] if sizes else 0
    wanted: dict[str, tuple[int, ...]] = {}
    for number, size in enumerate(sizes):
        wanted[f"{3 * number}.weight"] = (size, [width, *sizes][number])
        if number < len(sizes) - 1:
            wanted |= {f"{3 * number + 1}.{part}": () if part == NORM[-1] else (size,) for part in NORM}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if differing := sorted(name for name in wanted.keys() | found.keys()
                           if wanted.get(name) != found.get(name)):
        name = differing[0]
        raise ValueError("expected a projector of linear layers with batch norm between, found"
                         f" projector.{name} of shape {found.get(name, 'none')}, expected"
                         f" {wanted.get(name, 'none')}; give the checkpoint of a Barlow Twins run")
    return [width, *sizes]
