"""From the data loader's batches to views on the device. The next batch is on its way while one is used."""
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from parallel.collectives import is_main, rank, world_size
from pretrain.pictures import batches
from pretrain.pictures.augment import Backend, make_backend
from pretrain.pictures.resident import ResidentViews, hold
from pretrain.pictures.sources import open_source
from pretrain.recipe import Recipe

if TYPE_CHECKING:  # it imports this module
    from pretrain.trainer import Run


class Feed:
    """The batches of this process.

    record: the file that lists unusable pictures.
    steps: per epoch. identity: what the data set is, for checkpoints. place: where it is. waited: seconds
    spent waiting for the loader since it was last set to 0. replaced: samples made from another picture than
    their own, over the whole run and all processes, as far as `note_replaced` was told. source: the
    pictures.
    """

    def __init__(self, config: Recipe, run: "Run", device: torch.device, record: Path | None = None):
        self.device, self.epochs, self.waited = device, config.epochs, 0.0
        self.memory_format = run.memory_format
        self.labelled = config.labelled or run.online_probe is not None
        self.source = source = open_source(run.data)
        held = hold(source, config, run, device)
        views = config.view_recipes()
        backend: Backend = ResidentViews(held, views) if held else make_backend(config.views, views)
        self.loader = batches.build_loader(held or source, backend, config, run.workers, world_size(), rank(),
                                           device.type == "cuda", record, self.labelled)
        # A generator of its own: iterating must not advance the global one, which checkpoints keep.
        self.loader.generator = torch.Generator().manual_seed(config.seed)
        self.steps = len(self.loader)
        self.identity = {"images": len(source), "fingerprint": source.fingerprint}
        self.place = source.place
        self.replaced = self.before = 0

    def note_replaced(self, count: int) -> None:
        """Add to the total what this start of the run has replaced, over all processes."""
        self.replaced = self.before + count

    def state_dict(self) -> dict:
        return {"replaced": self.replaced}

    def load_state_dict(self, state: dict) -> None:
        self.replaced = self.before = state["replaced"]

    def batches(self, epoch: int, start: int) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield the views, each (n, 3, S, S) float32 with an S of its own, and for a labelled recipe or an
        online probe the classes (n,), all on the device, for the steps from `start` to the epoch's end."""
        self.loader.batch_sampler.epoch, self.loader.batch_sampler.start = epoch, start
        hosts = self.from_loader(epoch, start)
        if self.device.type != "cuda":
            for batch in hosts:
                yield self.finish(batch)
            return
        stream, upcoming = torch.cuda.Stream(self.device), None
        for batch in hosts:
            with torch.cuda.stream(stream):
                views = self.finish(batch)
            if upcoming:
                yield upcoming
            torch.cuda.current_stream().wait_stream(stream)
            for view in views:
                view.record_stream(torch.cuda.current_stream())
            upcoming = views
        if upcoming:
            yield upcoming

    def finish(self, batch: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        batch, labels = (batch[:-1], batch[-1:]) if self.labelled else (batch, [])
        views = (view.contiguous(memory_format=self.memory_format)
                 for view in self.loader.backend.finish(batch, self.device))
        return *views, *(one.to(self.device, non_blocking=True) for one in labels)

    def from_loader(self, epoch: int, start: int) -> Iterator[list[torch.Tensor]]:
        """Yield the loader's batches, with a progress bar on a terminal."""
        # Of the whole run, as its time to go.
        bar = tqdm(total=self.epochs * self.steps, initial=epoch * self.steps + start,
                   desc=f"epoch {epoch + 1}/{self.epochs}",
                   disable=not (is_main() and sys.stderr.isatty()))
        before = time.perf_counter()
        try:
            for batch in self.loader:
                self.waited += time.perf_counter() - before
                yield batch
                bar.update()
                before = time.perf_counter()
        except ValueError as error:
            raise batches.one_line(error) from None
        finally:
            bar.close()
