"""A check of a configuration against the weights it starts from, before a model is built.

    lint(cfg, export.metadata(backbone), backbone.arch)

Each of these mistakes trains without an error and costs average precision. The proof (weights/proof.py) finds
those that change activations, but only after minutes and by their effect. This check names the line to
change.
"""
import json
import shlex
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from transfer.weights.architectures import Architecture
from transfer.weights.export import CONVENTIONS

# Of those that get_norm knows (detectron2/layers/batch_norm.py)
TRAINED = ("SyncBN", "BN", "naiveSyncBN", "naiveSyncBN_N", "nnSyncBN")
STAGES = (0, 1, 2, 3, 4, 5)  # FREEZE_AT: nothing, the stem, and up to res2, res3, res4, res5


def lint(cfg: CfgNode, notes: Mapping[str, Any], arch: Architecture | None = None) -> None:
    """ValueError for the first key that does not fit: its value, the one expected and why, the line to write.

    cfg    CfgNode of Detectron2
    notes  metadata of the weights (transfer/weights/export.py): CONVENTIONS; reader, where it is known
    arch   their Architecture, where it is known
    """
    for key, fitting, reason in _demands(cfg, notes, arch):
        found = cfg
        for part in key.split("."):
            found = found[part]
        found = list(found) if isinstance(found, tuple) else found
        if found not in fitting:
            place, _, leaf = key.rpartition(".")
            expected = " or ".join(str(value) for value in fitting)
            raise ValueError(f"{key}: expected {expected} ({reason}), found {found!r};"
                             f" write `{leaf}: {json.dumps(fitting[0])}` under {place} in the YAML, or pass"
                             f" {key} {shlex.quote(str(fitting[0]))}")


def _demands(cfg, notes, arch):
    """Yield (key, the values that fit, the reason); the first value is the one to write."""
    for key in CONVENTIONS:
        yield key, [notes[key]], "the weights were trained so"
    for key, value in arch.detectron2.items() if arch else ():
        yield key, [value], f"the weights are a {arch.name}'s"
    norm = cfg.MODEL.RESNETS.NORM
    if notes.get("reader") == "random":
        yield "MODEL.RESNETS.NORM", TRAINED, "random weights come without statistics that could be frozen"
    yield "MODEL.RESNETS.NORM", (*TRAINED, "FrozenBN"), "others lose the weights' batch statistics"
    # Norms are trained and nothing is frozen (docs/protocols.md#detection). Detectron2's default is 2, so a
    # YAML that trains its norms and omits this key freezes stem and res2, norms included. Frozen stages
    # belong to the other recipe, where all norms are frozen (Detectron2's baselines from MSRA weights; PIRL).
    if norm in TRAINED:
        yield ("MODEL.BACKBONE.FREEZE_AT", (0,),
               f"MODEL.RESNETS.NORM is {norm}, which is trained; frozen stages go with FrozenBN")
    yield "MODEL.BACKBONE.FREEZE_AT", STAGES, "the stages are stem, res2 to res5"
