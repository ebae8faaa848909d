"""Helpers for all data sources: many strings in little memory, and fingerprints."""
import hashlib
import os
from collections.abc import Iterable

import numpy as np

Index = int | slice | np.ndarray  # of one picture, or of several
Labels = np.integer | np.ndarray | None  # theirs; None where there are none


class Strings:
    """Many strings in one buffer. A list of a million strings would gradually be copied into every worker of
    a data loader, since reference counting writes to their memory."""

    def __init__(self, strings: Iterable[str | os.PathLike[str]]):
        encoded = [os.fsencode(string) for string in strings]
        self.ends = np.cumsum([len(one) for one in encoded], dtype=np.int64)
        self.buffer = np.frombuffer(b"".join(encoded), np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.buffer[start:self.ends[index]].tobytes())


def sha256(*parts: object) -> str:
    """Return the hash of arrays and of what can be written as text, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else f"{part}\n".encode())
    return digest.hexdigest()


def pick(labels: np.ndarray | None, index: Index) -> Labels:
    return None if labels is None else labels[index]


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
