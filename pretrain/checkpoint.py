"""Files of a run: `checkpoint.pth` after each epoch, the backbone at the end. Both in the official format."""
import dataclasses
import os
from pathlib import Path

import torch

from pretrain.config import difference
from pretrain.distributed import all_gather_rows, is_main, rank


def write_atomically(state, path: Path) -> None:
    """torch.save that leaves either the old file or the whole new one, whenever it is interrupted."""
    path = Path(path)
    draft = path.with_name(path.name + ".part")
    with open(draft, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def save(path, epoch, network, optimizer, scaler, config, images) -> None:
    """Every process calls it, the main one writes.

    epoch: number of finished epochs. Keys epoch, model (names start with module.) and optimizer are the
    official ones; scaler, rng (one row a process), config and images (in the data set) are for an exact
    resume.
    """
    rng = {"cpu": all_gather_rows(torch.get_rng_state()[None])}
    if torch.cuda.is_initialized():
        rng["cuda"] = all_gather_rows(torch.cuda.get_rng_state()[None])
    if is_main():
        write_atomically({"epoch": epoch, "model": {"module." + name: value for name, value in
                                                    network.state_dict().items()},
                          "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(), "rng": rng,
                          "config": dataclasses.asdict(config), "images": images}, path)


def load_model(network, state: dict) -> None:
    """Load the `model` entry of a checkpoint, ours or the official code's, into a BarlowTwins network."""
    network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})


def resume(path, network, optimizer, scaler, config, images) -> int:
    """Restore a run from its checkpoint, if there is one; returns the number of finished epochs.

    ValueError when the file cannot be read or belongs to another recipe or data set.
    """
    path = Path(path)
    if not path.is_file():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for files that are not its own
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: cannot be read as a checkpoint ({reason}); move it away to start anew") \
            from None
    missing = {"epoch", "model", "optimizer", "scaler", "rng", "config", "images"} - set(state)
    if missing:
        raise ValueError(f"{path}: expected a checkpoint of this program, found one without "
                         f"{', '.join(sorted(missing))}; move it away or choose another --checkpoint-dir")
    changed = difference(state["config"] | {"images": state["images"]},
                         dataclasses.asdict(config) | {"images": images})
    if changed:
        raise ValueError(f"{path} was written by another recipe: {changed}; use the same settings or another "
                         "--checkpoint-dir")
    load_model(network, state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scaler.load_state_dict(state["scaler"])
    if rank() < len(state["rng"]["cpu"]):  # a process that was not there before keeps its fresh state
        torch.set_rng_state(state["rng"]["cpu"][rank()])
        if "cuda" in state["rng"] and torch.cuda.is_initialized():
            torch.cuda.set_rng_state(state["rng"]["cuda"][rank()])
    return state["epoch"]


def finished_epochs(path) -> int:
    """How many epochs a checkpoint holds; 0 when there is none."""
    if not Path(path).is_file():
        return 0
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["epoch"]


def export_backbone(path, network) -> None:
    """The backbone's state dict, torchvision's names, without fc: the official resnet50.pth."""
    write_atomically(network.backbone.state_dict(), path)
