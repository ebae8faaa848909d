"""What computing costs, kernel by kernel: memory, operations and bytes, of real tensors or of fake ones.

Under torch's FakeTensorMode tensors have shapes but no values, so a step of any size runs in seconds on any
machine, without its memory. What a kernel needs inside itself (workspaces of cuDNN and cuBLAS) is not seen,
nor is what the CUDA context and NCCL take.
"""
import weakref
from typing import Any, NamedTuple

import torch
from torch import nn
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
# These read their inputs for the statistics, and once more.
TWICE = {aten.native_batch_norm, aten.native_batch_norm_backward}


def renewed(network: nn.Module) -> nn.Module:
    """Replace all parameters and buffers by new ones on the CPU without the values; within a FakeTensorMode
    and a Ledger they are fake, and counted."""
    def like(value: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")

    for module in network.modules():
        for name, value in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(like(value), value.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, like(buffer))
    return network


class Kernel(NamedTuple):
    """flops: of matrix products and convolutions, two for each multiplication with its addition; bytes: of
    inputs and outputs, which it reads and writes; dtype: of the first output."""
    flops: int
    bytes: int
    dtype: torch.dtype


class Ledger(TorchDispatchMode):
    """Inside a `with` block: held, the bytes of all tensors made in it that are alive; peak, the most so far;
    kernels, what ran. `restart` begins a new count of the last two. Within a FakeTensorMode it comes second.

    device: its kind ("cuda"), whose memory alone is counted; fake tensors are on a GPU without one, too.
    """

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self.device = device
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
        kwargs, packet = kwargs or {}, function._overloadpacket
        # What is made of other operations arrives whole in inference mode, else in parts.
        if torch.is_inference_mode_enabled() and function is not torch.ops.prim.device.default:
            with self:
                outputs = function.decompose(*args, **kwargs)
            if outputs is not NotImplemented:
                return outputs
        outputs = function(*args, **kwargs)
        made = [one for one in tree_leaves(outputs) if isinstance(one, torch.Tensor)]
        for tensor in made:
            if self.device in (None, tensor.device.type):
                self.hold(tensor.untyped_storage())
        if made and packet not in VIEWS:
            counted = flop_registry.get(IN_PLACE.get(packet, packet))
            flops = counted(*args, **kwargs, out_val=outputs) if counted else 0
            read = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
            moved = sum(one.nbytes for one in (*read, *(read if packet in TWICE else ()), *made))
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
