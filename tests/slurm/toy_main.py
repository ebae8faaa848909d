"""pretrain/main.py with the tests' tiny network, in which a step takes at least TOY_SECONDS.

The sleep, not the network, makes a run last: tests that interrupt it need time, and no processor.
"""
import os
import signal
import sys
import time
from pathlib import Path

# As main.py does while it imports.
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
sys.path[0] = str(Path(__file__).resolve().parents[2])

from parallel import process
from pretrain import backbones, main
from tests.pretrain_toys import toy_backbone


def slow_backbone(arch, stem):
    backbone, width = toy_backbone(arch, stem)
    backbone.register_forward_pre_hook(lambda *_: time.sleep(float(os.environ.get("TOY_SECONDS", 0)) / 2))
    return backbone, width  # two views, hence half of it


backbones.build_backbone = slow_backbone  # also in the processes that are spawned: they import this file

if __name__ == "__main__":
    sys.exit(process.last(main.main()))
