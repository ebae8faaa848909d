"""What a proof found, for people and for programs; kept beside a written file as `<its name>.proof.json`."""
import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from parallel.files import write_whole
from transfer.weights.activations import LIMIT, SIZES, SWAPPED_LIMIT


@dataclass(frozen=True)
class Network:
    """What was proven of one detector.

    architecture  C4 or FPN
    in_place      tensors in place: all less the counters (num_batches_tracked) that frozen BN does not keep
    tensors       of the backbone
    initialised   module -> number of its tensors that do not come from the backbone
    differences   stage -> largest relative difference over all sizes
    swapped       stage -> relative difference with red and blue swapped
    """
    architecture: str
    in_place: int
    tensors: int
    initialised: dict[str, int]
    differences: dict[str, float]
    swapped: dict[str, float]

    def lines(self) -> list[str]:
        absent = self.tensors - self.in_place
        parts: Counter[str] = Counter()
        for module, count in self.initialised.items():
            parts[module.partition(".")[0]] += count
        rest = ", ".join(f"{count} of {part}" for part, count in parts.items())
        sizes = " and ".join(f"{height} x {width}" for height, width in SIZES)
        return [f"{self.architecture} network: {self.in_place} of {self.tensors} tensors in place"
                + (f", {absent} counters have none in frozen BN" if absent else "")
                + f"; at initialisation {rest or 'none'}",
                f"  activations at {sizes}: {_stages(self.differences)} apart (limit {LIMIT:.0e})",
                f"  with red and blue swapped: {_stages(self.swapped)} apart (at least {SWAPPED_LIMIT:.0e})"]


@dataclass(frozen=True)
class Report:
    """What was proven. A proof that fails raises ValueError instead.

    weights   the metadata: source_sha256, reader, conventions (export.metadata)
    file      name, layout, sha256, bytes, tensors of the file written; None where a network was proven
    networks  one a detector that the weights were proven in; none for files that are not Detectron2's
    """
    weights: dict
    file: dict | None
    networks: tuple[Network, ...]

    def lines(self) -> list[str]:
        """The report for people."""
        lines = []
        if self.file is not None:
            count, size = self.file["tensors"], self.file["bytes"] / 2**20
            lines = [f"file: {count} of {count} tensors bit-equal, no others; {self.file['layout']},"
                     f" {size:.0f} MiB, sha256 {self.file['sha256'][:16]}..."]
        return lines + [line for network in self.networks for line in network.lines()]

    def save(self, path: str | Path) -> None:
        """As JSON, the lines for people first; whole or not at all."""
        content = {"summary": self.lines(), **dataclasses.asdict(self)}
        write_whole(path, json.dumps(content, indent=1) + "\n")


def _stages(values: dict[str, float]) -> str:
    return ", ".join(f"{stage} {value:.1e}" for stage, value in values.items())


def report_path(path: Path) -> Path:
    """Where the report of a written file is."""
    return path.with_name(f"{path.name}.proof.json")
