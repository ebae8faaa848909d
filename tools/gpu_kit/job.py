"""What a phase is given, and the ledger that all phases write: results.jsonl, one JSON object a line.

A line is one of
    {"phase", "name", "value", "unit", "least" or "most" (the target, if there is one)}   measured
    {"phase", "name", "why"}                                                             could not be measured
    {"phase", "event": "start", "device", "versions", ...}                               where it ran
    {"phase", "event": "end", "status": "done", "failed" or "cut off", "seconds", "why"}
`at`: seconds after the phase began. Lines are only added; of two with one name the later counts.
"""
import datetime
import json
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEDGER = "results.jsonl"


@dataclass(frozen=True)
class Job:
    """One phase at work. out: the results. work: what need not come back (data, checkpoints). pack: what was
    prepared. device: cuda, or cpu for the miniature. seconds: the phase's budget."""
    phase: str
    out: Path
    work: Path
    pack: Path
    device: str
    seconds: float
    began: float = field(default_factory=time.monotonic)

    @property
    def small(self) -> bool:
        """Whether all sizes are those of the miniature."""
        return self.device == "cpu"

    @property
    def workers(self) -> int:
        """Return the loader processes: all cores, as far as this process may use them."""
        return len(os.sched_getaffinity(0))

    def left(self) -> float:
        """Return the seconds of the budget that are left."""
        return self.seconds - (time.monotonic() - self.began)

    def note(self, name: str, value: float, unit: str, **target: float) -> None:
        """Keep a measured figure. target: least=... or most=..., what it is to reach."""
        self.write(name=name, value=value, unit=unit, **target)

    def goal(self, **target: float) -> dict[str, float]:
        """Return a target for `note`; the miniature has none, since its sizes mean nothing."""
        return {} if self.small else target

    def cannot(self, name: str, why: str) -> None:
        """Keep the reason why a figure was not measured."""
        self.write(name=name, why=why)

    def write(self, **line: Any) -> None:
        line = {"phase": self.phase, "at": round(time.monotonic() - self.began, 1)} | line
        add(self.out, line)
        print(json.dumps(line), flush=True)


def add(out: Path, line: dict[str, Any]) -> None:
    """Append a line to the ledger of a results folder."""
    with open(out / LEDGER, "a") as file:
        file.write(json.dumps(line) + "\n")


def lines(out: Path) -> list[dict[str, Any]]:
    """Return the ledger's lines; of the last one, a whole line or nothing, since its writer may be killed."""
    path = out / LEDGER
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]


def finished(out: Path, phase: str) -> bool:
    """Return whether a phase has come to its end, in this call or an earlier one."""
    return any(line["phase"] == phase and line.get("status") == "done" for line in lines(out))


def surroundings(device: str) -> dict[str, Any]:
    """Return where this runs: device, versions, cores, and the time (UTC)."""
    import torch
    import torchvision

    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {platform.machine()}"
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"device": name, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(),
            "torch": torch.__version__, "torchvision": torchvision.__version__, "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "asked": device, "began": now}
