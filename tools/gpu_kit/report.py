"""The tables of what was measured: gpu.md, and a short one for the terminal."""
import json
from pathlib import Path
from typing import Any

from tools.gpu_kit import job

PREDICTIONS = Path(__file__).with_name("predictions.json")  # {"phase: name": value}, written before a run


def write(out: Path) -> str:
    """Write gpu.md into the results folder and return the short table."""
    found = job.lines(out)
    miniature = any(line.get("asked") == "cpu" for line in found)
    predicted = {} if miniature else json.loads(PREDICTIONS.read_text())
    (out / "gpu.md").write_text(markdown(found, predicted))
    return "\n".join(short(found, predicted))


def phases(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return {phase: {"start": line, "end": line, "rows": {name: its last line}}}."""
    sorted_out: dict[str, dict[str, Any]] = {}
    for line in found:
        phase = sorted_out.setdefault(line["phase"], {"rows": {}})
        if "event" in line:
            phase[line["event"]] = line
        else:
            phase["rows"][line["name"]] = line
    return sorted_out


def cells(line: dict[str, Any], predicted: dict[str, float]) -> list[str]:
    """Return figure, value with unit, prediction, target, and whether it is met; a dash where there is
    none."""
    name = f"{line['phase']}: {line['name']}"
    guess = number(predicted[name]) if name in predicted else "–"
    if "why" in line:
        return [line["name"], f"not measured: {line['why']}", guess, "–", "–"]
    target, met = "–", "–"
    for kind, reached in (("least", float.__ge__), ("most", float.__le__)):
        if kind in line:
            target = f"at {kind} {number(line[kind])}"
            met = "yes" if reached(float(line["value"]), float(line[kind])) else "no"
    return [line["name"], f"{number(line['value'])} {line['unit']}".strip(), guess, target, met]


def number(value: float) -> str:
    """Return four significant digits, whole numbers as they are."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def ending(phase: dict[str, Any]) -> str:
    """Return how a phase ended, in words."""
    end = phase.get("end")
    if end is None:
        return "no end was noted: it was stopped from outside"
    return f"{end['status']} after {end['seconds']:.0f} s" + (f": {end['why']}" if end.get("why") else "")


def markdown(found: list[dict[str, Any]], predicted: dict[str, float]) -> str:
    """Return the page of tables."""
    text = ["# Measured on one device by tools/gpu.py", ""]
    for name, phase in phases(found).items():
        text += [f"## {name}", "", f"{ending(phase)}."]
        if start := phase.get("start"):
            text += ["", f"{start['device']}, {start['cores']} cores; Python {start['python']}, "
                     f"torch {start['torch']}, torchvision {start['torchvision']}, "
                     f"CUDA {start['cuda'] or '–'}, cuDNN {start['cudnn'] or '–'}; {start['began']}."]
            if start["device"].startswith("CPU"):
                text += ["", "The miniature: tiny sizes, which say nothing about a GPU."]
        rows = [cells(line, predicted) for line in phase["rows"].values()]
        if rows:
            text += ["", "| figure | measured | predicted | target | met |", "|---|---|---|---|---|",
                     *(f"| {' | '.join(row)} |" for row in rows)]
        text.append("")
    return "\n".join(text)


def short(found: list[dict[str, Any]], predicted: dict[str, float]) -> list[str]:
    """Return the lines for the terminal."""
    text = []
    for name, phase in phases(found).items():
        text.append(f"{name}: {ending(phase)}")
        for figure, value, guess, target, met in (cells(line, predicted) for line in phase["rows"].values()):
            extra = "".join([f"  predicted {guess}" if guess != "–" else "",
                             f"  target {target}: {met}" if target != "–" else ""])
            text.append(f"  {figure:<58} {value}{extra}")
    return text
