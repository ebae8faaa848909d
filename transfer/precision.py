"""What float32 means on a GPU: exact, or rounded to TF32 within convolutions and matrix products."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Inside, convolutions and matrix products of float32 on a GPU round to TF32 (10 bits) where `allowed`,
    and are exact float32 otherwise: left alone, torch lets convolutions round."""
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = allowed
        yield
    finally:
        for backend, value in zip(backends, before):
            backend.allow_tf32 = value
