"""Detectron2's global state, set up for one run: data-set registry, processes, log.

What Detectron2 does with environment variables and module-level registries at import time is done here
explicitly. One process can therefore run several tasks, roots and seeds, one after the other.
"""

import contextlib
import datetime
import logging
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from parallel.groups import COLLECTIVE_MINUTES
from transfer.detection import roi_heads  # noqa: F401  registers Res5ROIHeadsExtraNorm
from transfer.detection.sets.contract import Part

# Loggers whose lines are shown on the console; log.txt has everything. The checkpointer's warnings of what
# the file does not hold are not shown: the proof counts them (transfer/weights/proof.py).
SPOKEN = ("detectron2.utils.events", "detectron2.evaluation.evaluator", "detectron2.engine.hooks",
          "transfer.detection")
UNSPOKEN = ("fvcore.common.checkpoint", "detectron2.checkpoint")


# Data sets

def register(parts: dict[str, Part]) -> None:
    """Enter data sets, {name: Part}, into Detectron2's registries, whatever these held under the names."""
    for name, part in parts.items():
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog.list():
                catalog.remove(name)
        part.register(name)
        MetadataCatalog.get(name).set(part=part)


# Processes

def join_processes() -> None:
    """Tell Detectron2 of the processes of this run and which of them share this machine; its own launch()
    would have done so. Called on every rank, anew in every process group.

    torch.distributed is initialised already, or there is one process. Detectron2 v0.6 gathers objects through
    a gloo group, which it makes for the backend "nccl" only, once and for all; ours is "cpu:gloo,cuda:nccl",
    and under torchrun each run has its own. Its launch() and later versions' create_local_process_group()
    know of machines with equally many processes, once in a program; SLURM may spread them unevenly.
    """
    if not dist.is_initialized():
        return
    patience = datetime.timedelta(minutes=COLLECTIVE_MINUTES)  # a new group does not inherit it
    everybody: Any = dist.new_group(backend="gloo", timeout=patience)
    comm._get_global_gloo_group = lambda: everybody
    hosts: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(hosts, socket.gethostname(), everybody)
    together = [[rank for rank, other in enumerate(hosts) if other == host] for host in dict.fromkeys(hosts)]
    comm._LOCAL_PROCESS_GROUP, _ = dist.new_subgroups_by_enumeration(together, patience)


# Log

@contextlib.contextmanager
def log_to(out: Path) -> Iterator[None]:
    """While open, Detectron2's log goes to out/log.txt (other ranks: log.txt.rankN), progress to the console.

    Handlers are removed at the end: runs in one process must not write into each other's files.
    """
    rank = comm.get_rank()
    file = logging.FileHandler(out / ("log.txt" if rank == 0 else f"log.txt.rank{rank}"))
    layout = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
    file.setFormatter(Uncoloured(layout, "%m/%d %H:%M:%S"))
    handlers: list[logging.Handler] = [file]
    if rank == 0:
        console = logging.StreamHandler(sys.stdout)
        console.addFilter(_spoken)
        console.setFormatter(Uncoloured("[%(asctime)s] %(message)s", "%H:%M:%S"))
        handlers.append(console)
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "transfer.detection")]
    loop = logging.getLogger("detectron2.engine.train_loop")
    loop.addFilter(_without_traceback)
    logging.captureWarnings(True)
    warned = logging.getLogger("py.warnings")
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    for logger in [*loggers, warned]:
        logger.addHandler(file)
    for logger in loggers:
        for handler in handlers[1:]:
            logger.addHandler(handler)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        loop.removeFilter(_without_traceback)
        for logger in [*loggers, warned]:
            for handler in handlers:
                logger.removeHandler(handler)
        file.close()


class Uncoloured(logging.Formatter):
    """Lines without the colours that Detectron2 puts into some where the output is a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return re.sub(r"\x1b\[[0-9;]*m", "", super().format(record))


def _spoken(record):
    if record.levelno >= logging.WARNING:
        return not record.name.startswith(UNSPOKEN)
    return record.name.startswith(SPOKEN)


def _without_traceback(record):
    return record.exc_info is None  # the exception itself reaches the caller, who says it in one line
