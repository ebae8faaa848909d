"""Collectives.

Everything here also works in a single process without a process group: the collectives are then the
identity, so callers need no special case. Tensors on a CPU travel through gloo and tensors on a GPU
through NCCL; both are in the same group, so a run with `--device cpu` works on a GPU machine too.
"""
import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from parallel.process import in_group, is_main, rank

Note = Callable[[str, int], None]  # (kind of collective, bytes of its whole result)
_rehearsed: tuple[int, Note] | None = None


@contextlib.contextmanager
def rehearsing(processes: int, note: Note) -> Iterator[None]:
    """Inside, this process takes itself for one of so many, each with as many rows. The collectives of
    tensors send nothing and tell `note` instead. Results have the right shapes and no meaning: this is for
    tensors without values."""
    global _rehearsed
    _rehearsed = processes, note
    try:
        yield
    finally:
        _rehearsed = None


def world_size() -> int:
    """Return the number of processes that take part in collectives, 1 outside a group."""
    if _rehearsed:
        return _rehearsed[0]
    return dist.get_world_size() if in_group() else 1


def barrier() -> None:
    """Wait for all processes. It uses gloo, so it needs no GPU and always blocks the host."""
    all_reduce_sum(torch.zeros(1))


def local_device(device: str) -> torch.device:
    """Return this process's own GPU for "cuda", the CPU for "cpu". Raises ValueError if there is no such
    GPU."""
    if device == "cpu":
        return torch.device("cpu")
    if device != "cuda":
        raise ValueError(f"device must be cuda or cpu, found {device!r}")
    if not torch.cuda.is_available():
        raise ValueError("device cuda: this PyTorch finds no GPU; install a driver or pass --device cpu")
    index, found = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if index >= found:
        raise ValueError(f"device cuda: process {index} of this machine finds only {found} GPUs; "
                         f"start at most {found} processes")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over processes, in place. Returns the same tensor. Invisible to autograd."""
    if world_size() == 1:
        return tensor
    if _rehearsed:
        _rehearsed[1]("all-reduce", tensor.nbytes)
        return tensor
    with torch.no_grad():
        dist.all_reduce(tensor)
    return tensor


def all_reduce_max(tensor: torch.Tensor) -> torch.Tensor:
    """Take the largest value over processes, in place. Returns the same tensor."""
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def row_counts(rows: int) -> list[int]:
    """Return how many rows each process holds, by rank."""
    if world_size() == 1 or _rehearsed:
        return [rows] * world_size()
    counts = torch.zeros(world_size(), dtype=torch.int64)
    counts[rank()] = rows
    return all_reduce_sum(counts).tolist()


@torch.no_grad()
def all_gather_rows(tensor: torch.Tensor, counts: list[int] | None = None) -> torch.Tensor:
    """Gather (n_r, ...) of each rank into (sum of n_r, ...), in the order of ranks. n_r may differ. No
    autograd.

    counts: the n_r if they are known (`row_counts`), which saves a collective.
    """
    tensor = tensor.detach()
    if world_size() == 1:
        return tensor
    counts = row_counts(len(tensor)) if counts is None else counts
    most = max(counts)
    padded = tensor.contiguous()
    if len(tensor) < most:  # gloo and NCCL need the same shape from every process
        padded = torch.cat([padded, padded.new_zeros(most - len(tensor), *tensor.shape[1:])])
    parts = [torch.empty_like(padded) for _ in counts]
    if _rehearsed:
        _rehearsed[1]("all-gather", padded.nbytes * len(parts))
    else:
        dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts)])


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        counts = row_counts(len(tensor))
        start = sum(counts[:rank()]) if len(counts) > 1 else 0
        ctx.own = slice(start, start + len(tensor))
        return all_gather_rows(tensor, counts).clone()

    @staticmethod
    def backward(ctx, grad):
        return grad[ctx.own]


def batch_order(counts: list[int]) -> torch.Tensor:
    """Return where each row of the joint batch (N,) stands among the rows of all processes, those of rank 0
    first. A loader deals a batch out in turn: row k of process r is row k W + r of the batch. counts: by
    rank."""
    return torch.cat([torch.arange(count) for count in counts]).argsort(stable=True)


def gather_batch(rows: torch.Tensor) -> torch.Tensor:
    """Gather (n_r, ...) of each rank as (N, ...) in the order of the batch (`batch_order`). No autograd."""
    counts = row_counts(len(rows))
    return all_gather_rows(rows, counts)[batch_order(counts).to(rows.device, non_blocking=True)]


def gather_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Gather rows as all_gather_rows, with a backward that returns to each process the gradient of its own
    rows. This is right if every process computes the same value from the gathered rows and parameter
    gradients are summed afterwards."""
    return _GatherRows.apply(tensor)


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, grad):
        return grad / world_size()


def shared(parameter: torch.Tensor) -> torch.Tensor:
    """Return a parameter for a loss that every process computes alike, from gathered rows. Its gradient is
    divided among the processes, so that their sum counts it once."""
    return _Shared.apply(parameter)


# Decisions that all processes make alike

USER_ERRORS = (ValueError, OSError)  # their message is the whole story; any other error is a bug


def gather(value: Any) -> list:
    """Return every process's value, by rank. For small things that can be pickled."""
    if world_size() == 1:
        return [value]
    values: list = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def agree(function: Callable, *args: Any) -> Any:
    """Call function(*args) in every process; returns this one's value.

    Where it fails in one with a user's error, that error is raised in all of them (that of the lowest rank),
    so that none goes on into a collective alone. The function itself may use no collective.
    """
    value = story = None
    try:
        value = function(*args)
    except USER_ERRORS as found:
        if world_size() == 1:
            raise
        story = isinstance(found, FileNotFoundError), str(found)
    for story in gather(story):
        if story:
            error: Any = (FileNotFoundError if story[0] else ValueError)(story[1])
            error.agreed = True  # all processes raise it here: the group may go on after it
            raise error
    return value


def of_main(function: Callable, *args: Any) -> Any:
    """Call function(*args) in the main process only; returns its value, or raises its user's error, in
    every process."""
    return gather(agree(lambda: function(*args) if is_main() else None))[0]


def require_same(value: Any, difference: Callable[[Any, Any], str]) -> None:
    """Raise ValueError in every process if one has another value than the main one. difference(mine, main's)
    says in words what differs and what to do."""
    first, *others = gather(value)
    for number, other in enumerate(others, 1):
        if other != first:
            error: Any = ValueError(f"process {number} of {world_size()}: {difference(other, first)}")
            error.agreed = True
            raise error
