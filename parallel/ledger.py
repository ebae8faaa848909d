"""What computing costs, kernel by kernel: memory, operations and bytes, of real tensors or of fake ones.

Under torch's FakeTensorMode tensors have shapes but no values, so a step of any size runs in seconds on any
machine, without its memory. What a kernel needs inside itself (workspaces of cuDNN and cuBLAS) is not seen,
nor is what the CUDA context and NCCL take.
"""
import weakref
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

BLOCK = 512  # bytes: CUDA's caching allocator hands out multiples of it

aten = torch.ops.aten
# In place, these compute the same as their namesakes, which torch's own counter knows.
IN_PLACE = {aten.addmm_: aten.addmm, aten.baddbmm_: aten.baddbmm}
# These compute nothing.
VIEWS = {aten.view, aten.t, aten.transpose, aten.permute, aten.expand, aten.slice, aten.select, aten.detach,
         aten.alias, aten.unsqueeze, aten.squeeze, aten.as_strided, aten.split, aten.unbind,
         aten._unsafe_view, aten.split_with_sizes, aten.diagonal, aten.empty, aten.new_empty, aten.empty_like}


class Kernel(NamedTuple):
    """flops: of matrix products and convolutions, two for each multiplication with its addition; bytes: of
    inputs and outputs; dtype: of the first output."""
    flops: int
    bytes: int
    dtype: torch.dtype


class Ledger(TorchDispatchMode):
    """Inside a `with` block: held, the bytes of all tensors made in it that are alive; peak, the most so far;
    kernels, what ran. `restart` begins a new count of the last two. Within a FakeTensorMode it comes second.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self.kernels: list[Kernel] = []
        self.storages: dict[int, weakref.ref] = {}

    @property
    def flops(self) -> int:
        return sum(kernel.flops for kernel in self.kernels)

    def restart(self) -> None:
        self.peak, self.kernels = self.held, []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        outputs = function(*args, **kwargs)
        packet = function._overloadpacket
        made = [one for one in tree_leaves(outputs) if isinstance(one, torch.Tensor)]
        for tensor in made:
            self.hold(tensor.untyped_storage())
        if made and packet not in VIEWS:
            counted = flop_registry.get(IN_PLACE.get(packet, packet))
            flops = counted(*args, **kwargs, out_val=outputs) if counted else 0
            read = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
            moved = sum(one.numel() * one.element_size() for one in (*read, *made))
            self.kernels.append(Kernel(flops, moved, made[0].dtype))
        return outputs

    def hold(self, storage: torch.UntypedStorage) -> None:
        """Count a tensor's memory until it is given back."""
        key = storage._cdata
        if key in self.storages:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK

        def given_back(_: weakref.ref) -> None:
            self.held -= size
            del self.storages[key]

        self.storages[key] = weakref.ref(storage, given_back)
        self.held += size
        self.peak = max(self.peak, self.held)
