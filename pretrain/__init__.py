"""Self-supervised pretraining: images in, `checkpoint.pth` and a backbone file out.

From Python: `pretrain.train(methods.recipe(...), pretrain.Run(data, folder))`.
"""
import functools
import importlib

from parallel import process

command = functools.partial(process.command, "pretrain.main")


def __getattr__(name: str) -> object:
    """Return train, Run or Outcome, whose module takes seconds to import: an installed command first has to
    heed signals."""
    if name in ("train", "Run", "Outcome"):
        return getattr(importlib.import_module("pretrain.trainer"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
