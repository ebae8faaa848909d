"""How benchmarks measure: side by side, in rotating order, as ratios of medians with their spread.

Seconds on a shared machine vary too much to support a claim. Ratios do not, if both sides run in one process
on the same inputs, one after the other. Memory is the process's resident high-water mark (on a GPU: the
allocator's) above what was resident before the call, each time in a fresh process.
"""
import argparse
import concurrent.futures
import contextlib
import ctypes
import importlib
import multiprocessing
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tabulate
import torch

MIB = 2 ** 20
PRELOADED = ["torch", "torchvision", "lightly.loss"]  # what takes seconds to import, as far as it is there


@dataclass(frozen=True)
class Ratio:
    """The reference's figure divided by ours: above 1 ours wins. low and high: of single rounds."""
    median: float
    low: float
    high: float

    def __str__(self):
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class Row:
    """What a benchmark found about one case. measured: what the value is a ratio or a number of; beside: more
    figures, in words; missed: whether a target of a CPU was."""
    case: str
    measured: str
    value: Ratio | float
    target: str = ""
    beside: str = ""
    missed: bool = False

    def cells(self) -> tuple[str, ...]:
        value = self.value
        if isinstance(value, Ratio):
            figures = f"{value.median:.2f}", f"{value.low:.2f} to {value.high:.2f}"
        else:
            figures = f"{value:.3g}" if value < 100 else f"{value:,.0f}", ""
        return (self.case, self.measured, *figures, self.target, self.beside)


def table(rows: list[Row], form: str) -> str:
    """Return rows as a table in a format of tabulate."""
    return tabulate.tabulate([row.cells() for row in rows], disable_numparse=True, tablefmt=form,
                             headers=("case", "measured", "median", "spread", "target", "beside it"))


def main(doc: str, flags: dict, measure, arguments: list[str] | None = None) -> int:
    """Run one benchmark and print its rows. measure(namespace of flags) -> rows. Returns the exit status: 1
    where targets were missed on a CPU, for which they are, 2 where it cannot run here."""
    args = options(doc, arguments, **flags)
    lacking = lack(getattr(args, "device", "cpu"))
    if lacking:
        print(f"error: {lacking}", file=sys.stderr)
        return 2
    rows = measure(args)
    print(table(rows, "simple"))
    missed = [f"{row.case}, {row.measured}" for row in rows if row.missed]
    if missed and getattr(args, "device", "cpu") == "cpu":
        print(f"error: target missed: {'; '.join(missed)}", file=sys.stderr)
        return 1
    return 0


def lack(device: str) -> str:
    """Return what is missing here to run on a device, in words, or ""."""
    if device == "cuda" and not torch.cuda.is_available():
        return "expected a GPU, found none; run this benchmark where PyTorch finds one"
    return ""


def options(doc: str, given: list[str] | None, **defaults) -> argparse.Namespace:
    """A benchmark's flags, one for each default and of its type: --device cpu, --rounds 5."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"(default: {value})")
    return parser.parse_args(given)


def compare(competitors: dict, rounds: int = 7, least_seconds: float = 0.1, synchronise=lambda: None) -> dict:
    """Time functions side by side: {name: function without arguments} -> {name: seconds of one call, one
    figure a round}.

    One warm-up round comes first. It also decides how often a short function is called in a round, so that a
    round takes at least `least_seconds`. The order of the competitors rotates by one each round.
    """
    names = list(competitors)
    calls = {}
    for name in names:
        competitors[name]()  # allocates, compiles, fills caches
        calls[name] = max(1, round(least_seconds / max(clock(competitors[name], 1, synchronise), 1e-9)))
    seconds = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name].append(clock(competitors[name], calls[name], synchronise))
    return seconds


def clock(function, calls, synchronise) -> float:
    """Return the mean seconds of a call."""
    synchronise()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    synchronise()
    return (time.perf_counter() - start) / calls


def ratio(reference: list[float], ours: list[float]) -> Ratio:
    """Return the ratio of the medians. The spread is that of single rounds."""
    single = [a / b for a, b in zip(reference, ours, strict=True)]
    return Ratio(statistics.median(reference) / statistics.median(ours), min(single), max(single))


def measured(name: str, flags: dict) -> tuple[list[Row], int]:
    """Return the rows of the benchmark of that name, and the threads that it ran with. flags: its changes."""
    module = importlib.import_module(f"benchmarks.{name}")
    rows = module.measure(argparse.Namespace(**{**module.FLAGS, **flags}))
    return rows, torch.get_num_threads()


def in_fresh_process(function, *arguments):
    """Return the value of a module's own function, called in a process that has imported PRELOADED and
    done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def peak_bytes(function, device: torch.device) -> int:
    """Return the most memory that `function` needs at once, above what is there now. On a CPU this is the
    resident size as Linux reports it, so libraries' buffers count; call it in a fresh process."""
    if device.type == "cuda":
        torch.cuda.init()  # before it, there are no statistics to reset
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    with contextlib.suppress(AttributeError):  # only glibc has it: it returns what malloc keeps for later
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to the present size
    except OSError as error:
        raise ValueError(f"/proc/self/clear_refs expected to be writable (Linux), found {error.strerror}; "
                         "peak memory cannot be measured here") from None
    before = resident("VmRSS")
    function()
    return resident("VmHWM") - before


def built(make, device: torch.device, calls: int = 2) -> tuple:
    """Return the function that make() returns, called a few times, and the most bytes that this took on the
    device, from before it was made."""
    found = []

    def first_calls():
        found.append(make())
        for _ in range(calls):
            found[0]()
    most = peak_bytes(first_calls, device)
    return found[0], most


def resident(field: str) -> int:
    """Return VmRSS or VmHWM of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status expected a line {field} (Linux), found none")


def synchroniser(device: torch.device):
    """Return a function that waits until the device's work is done."""
    return torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
