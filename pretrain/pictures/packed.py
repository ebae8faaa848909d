"""Helpers for all data sources: many strings in little memory, and fingerprints."""
import hashlib
import os

import numpy as np


class Strings:
    """Many strings in one buffer. A list of a million strings would gradually be copied into every worker of
    a data loader, since reference counting writes to their memory."""

    def __init__(self, strings):
        encoded = [os.fsencode(string) for string in strings]
        self.ends = np.cumsum([len(one) for one in encoded], dtype=np.int64)
        self.buffer = np.frombuffer(b"".join(encoded), np.uint8)

    def __len__(self):
        return len(self.ends)

    def __getitem__(self, index):
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.buffer[start:self.ends[index]].tobytes())


def sha256(*parts) -> str:
    """Return the hash of strings and arrays, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else f"{part}\n".encode())
    return digest.hexdigest()


def pick(labels, index):
    return None if labels is None else labels[index]


def first_line(error) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
