"""Detectron2's checkpointer without its handling of files: it would run the code in a pickle, load whatever
fits of a checkpoint, and only warn about the rest.

last_checkpoint holds the bare name of a .pth file of the run's folder. That file has Detectron2's form:
model, iteration, trainer (iteration, hooks, the optimiser in _trainer); and `identity`, which is ours.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectron2.checkpoint import DetectionCheckpointer

from parallel import checkpoints
from parallel.collectives import agree, require_same
from parallel.files import write_whole
from transfer.detection import configuration
from transfer.weights import export

if TYPE_CHECKING:
    from transfer.detection.trainer import Trainer

MARK = "last_checkpoint"


def newest(out: str | Path) -> Path:
    """Return the path that last_checkpoint names. ValueError unless it is the bare name of a .pth file."""
    mark = checkpoints.regular(Path(out) / MARK)
    name = mark.read_bytes()[:256].decode(errors="replace").strip()
    if Path(name).name != name or not name.endswith(".pth"):
        others = sorted(path.name for path in Path(out).glob("model_*.pth"))
        raise ValueError(f"{mark}: expected the name of a .pth file of this folder, found {name!r}; write "
                         f"that of a good checkpoint there ({', '.join(others[-3:]) or 'none is there'}), or "
                         "start over with --rerun")
    return Path(out) / name


def read(out: str | Path, identity: dict[str, Any], model: dict[str, Any], max_iter: int,
         trainer: "Trainer | None" = None) -> dict[str, Any] | None:
    """Return the run's newest checkpoint, found whole and this run's; None where there is none. Every rank
    calls it.

    identity: JSON dict that a run shares with its own checkpoints only; one written before there was any is
    known by the folder's run.json alone. model: state dict of the network as built. trainer: if given, its
    state has to fit, too. ValueError, one line and the same on every rank, where something does not.
    """
    state = agree(_fitting, out, identity, model, max_iter, trainer)
    require_same(state and state["iteration"], lambda mine, first: (
        f"{out}: expected the same checkpoint on every process, found iteration {mine} here, {first} on the "
        "main one; choose an --output that all machines share"))
    return state


def _fitting(out, identity, model, max_iter, trainer):
    if not os.path.lexists(Path(out) / MARK):
        return None
    path = newest(out)
    try:
        state = checkpoints.read(path, ("model", "trainer", "iteration"))
        checkpoints.require_like(state["iteration"], 0, "iteration")
        if not 0 <= state["iteration"] < max_iter:
            raise ValueError(f"iteration {state['iteration']} is none of {max_iter}")
        _require_same_run(state.get("identity", identity), identity)
        checkpoints.require_like(state["model"], model, "model")
        if trainer:
            _require_fitting_trainer(state["trainer"], trainer, state["iteration"])
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: {reason}; name another one in {MARK}, or start over with "
                         "--rerun") from None
    return state


def _require_same_run(found, identity):
    """A setting that did not exist yet has its default."""
    if not isinstance(found, dict):
        raise ValueError(f"identity: expected dict, found {type(found).__name__}")
    usual = configuration.flat(configuration.defaults())
    changed = checkpoints.difference({key: usual[key] for key in identity if key in usual} | found, identity)
    if changed:
        raise ValueError(f"it is of {changed}")


def _require_fitting_trainer(found, trainer, iteration):
    wanted = trainer.state_dict()
    inner = found.get("_trainer") if isinstance(found, dict) else None
    if isinstance(inner, dict):
        wanted["_trainer"]["optimizer"] = inner.get("optimizer")  # looked at below
    checkpoints.require_like(found, wanted, "trainer")
    slots = ("momentum_buffer",) if trainer.cfg.SOLVER.MOMENTUM else ()
    inner["optimizer"] = checkpoints.optimizer_state(inner["optimizer"], trainer.optimizer, slots,
                                                     fresh=trainer.cfg.SOLVER.AMP.ENABLED)  # it may overflow
    wanted["hooks"]["LRScheduler"]["last_epoch"] = iteration + 1
    if not found["iteration"] == inner["iteration"] == iteration or found["hooks"] != wanted["hooks"]:
        raise ValueError(f"trainer: expected iteration {iteration} and the rates of this recipe, found "
                         f"iterations {found['iteration']} and {inner['iteration']}, {found['hooks']!r:.80}")


class Checkpointer(DetectionCheckpointer):
    """A checkpointer that writes each file whole and reads only the backbone, which this suite wrote.

    identity: of the run, see `read`; to be set before the first file is written.
    """

    def save(self, name: str, **more: Any) -> None:
        """Write name.pth and note in last_checkpoint that it is the newest. Detectron2's hook calls it."""
        if not self.save_to_disk:
            return
        state = {"model": self.model.state_dict(), "identity": self.identity, **more}
        state.update({key: part.state_dict() for key, part in self.checkpointables.items()})
        checkpoints.write(state, Path(self.save_dir) / f"{name}.pth")
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_whole(Path(self.save_dir) / MARK, last_filename_basename)

    def get_checkpoint_file(self) -> str:
        return str(newest(self.save_dir)) if self.has_checkpoint() else ""

    def _load_file(self, filename):
        """The backbone that the run has just written, for Detectron2 to match by name."""
        tensors, _, _ = agree(lambda: export.read_written(checkpoints.regular(filename)))
        return {"model": tensors, "__author__": export.AUTHOR, "matching_heuristics": True}
