"""What a run reports while it works: a bar on a terminal, one JSON line an epoch in log.txt, files to
keep."""
import json
import sys
import time
from typing import Any

import torch
from tqdm import tqdm

from parallel.attachments import attach
from parallel.collectives import is_main
from transfer.classification.metrics import confusion
from transfer.settings import Context


class Journal:
    """Rank 0's log in context.out/log.txt; silent on other ranks. A resumed run continues the file."""

    def __init__(self, context: Context):
        self.path, self.start = context.out / "log.txt", time.time()
        if is_main() and not context.resume:
            self.path.unlink(missing_ok=True)

    def line(self, show: bool = True, **values: Any) -> None:
        """Append values and the seconds since the start as one JSON line; print it too if `show`."""
        if not is_main():
            return
        text = json.dumps({**values, "seconds": round(time.time() - self.start, 1)})
        with open(self.path, "a") as file:
            file.write(text + "\n")
        if show:
            tqdm.write(text)
            sys.stdout.flush()  # a job's output is a file, in which lines would only show at the end


def keep(context: Context, name: str, content: Any) -> None:
    """`attach` to what the record of the run is going to keep; on rank 0, at once."""
    if is_main():
        attach(context.out / "record", name, content)


def keep_predictions(context: Context, classes: tuple[str, ...], truth: torch.Tensor,
                     predicted: torch.Tensor) -> None:
    """Keep per_class.json, each class's accuracy or None where it has no sample, and of at most 100 classes
    confusion.json (rows: truth): iNat18's matrix would have 66 million counts.

    truth and predicted (n,): class numbers of all ranks' samples.
    """
    hits, totals = (torch.bincount(labels, minlength=len(classes)).tolist()
                    for labels in (truth[truth == predicted], truth))
    keep(context, "per_class.json", {name: {"top1": 100 * hit / total if total else None}
                                     for name, hit, total in zip(classes, hits, totals, strict=True)})
    if len(classes) <= 100:
        keep(context, "confusion.json", {"classes": list(classes),
                                         "matrix": confusion(truth, predicted, len(classes)).tolist()})
