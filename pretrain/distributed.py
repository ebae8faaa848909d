"""Several processes: starting them, collectives, and batch normalisation over all of them.

Everything here also works in a single process without a process group: the collectives are then the
identity, so callers need no special case. Tensors on a CPU travel through gloo and tensors on a GPU
through NCCL; both are in the same group, so a run with `--device cpu` works on a GPU machine too.
"""
import functools
import itertools
import multiprocessing
import multiprocessing.connection
import os
import pickle
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

USER_ERRORS = (ValueError, FileNotFoundError)  # their message is the whole story; others keep a traceback
GRACE_SECONDS = 2.0  # after the first death, wait for the others' stories: one of them may be the cause


class WorkerError(RuntimeError):
    """A worker died of something else than a user's mistake."""


def in_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Number of processes that take part in collectives; 1 outside a group."""
    return dist.get_world_size() if in_group() else 1


def rank() -> int:
    """This process's number. Outside a group it is torchrun's RANK, so that a script may also ask before
    and after `launch`."""
    return dist.get_rank() if in_group() else int(os.environ.get("RANK", 0))


def is_main() -> bool:
    return rank() == 0


def barrier() -> None:
    """Wait for all processes. Goes through gloo, so that it needs no GPU and blocks the host for certain."""
    all_reduce_sum(torch.zeros(1))


def local_device(device: str) -> torch.device:
    """"cuda" -> this process's own GPU, "cpu" -> the CPU. ValueError when there is no such GPU."""
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


# Collectives without gradients

def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over processes, in place; returns the same tensor. Invisible to autograd."""
    if world_size() > 1:
        with torch.no_grad():
            dist.all_reduce(tensor)
    return tensor


def row_counts(rows: int) -> list[int]:
    """How many rows each process holds, by rank."""
    if world_size() == 1:
        return [rows]
    counts = torch.zeros(world_size(), dtype=torch.int64)
    counts[rank()] = rows
    return all_reduce_sum(counts).tolist()


@torch.no_grad()
def all_gather_rows(tensor: torch.Tensor, counts: list[int] | None = None) -> torch.Tensor:
    """(n_r, ...) on each rank -> (sum of n_r, ...), ranks in order; unequal n_r allowed, no autograd.

    counts: the n_r where they are known already (`row_counts`), which saves asking for them.
    """
    tensor = tensor.detach()
    if world_size() == 1:
        return tensor
    counts = row_counts(len(tensor)) if counts is None else counts
    most = max(counts)
    padded = tensor.contiguous()
    if len(tensor) < most:  # gloo and NCCL want the same shape from everybody
        padded = torch.cat([padded, padded.new_zeros(most - len(tensor), *tensor.shape[1:])])
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts)])


# Batch normalisation over all processes

class _JointBatchNorm(torch.autograd.Function):
    """Normalise with the mean and the biased variance of all processes' rows; exact forward and backward.

    Weight and bias get this process's own share of the gradient: their sum over processes is the gradient.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        dims = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        wide = x.double() if x.dtype == torch.float64 else x.float()
        count_and_sum = torch.cat([wide.new_tensor([x.numel() / x.size(1)]), wide.sum(dims)])
        all_reduce_sum(count_and_sum)
        count, mean = count_and_sum[0], count_and_sum[1:] / count_and_sum[0]
        centred = wide - mean.view(shape)
        # A second pass for the variance: E[x^2] - E[x]^2 would lose digits when the mean is large.
        variance = all_reduce_sum(centred.square().sum(dims)) / count
        inverse = (variance + eps).rsqrt()
        normal = centred * inverse.view(shape)
        y = normal if weight is None else normal * weight.view(shape) + bias.view(shape)
        ctx.save_for_backward(normal, inverse, weight, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return y.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx, grad, *_):
        normal, inverse, weight, count = ctx.saved_tensors
        dims = [0, *range(2, grad.dim())]
        shape = [1, -1] + [1] * (grad.dim() - 2)
        wide = grad.to(normal.dtype)
        own = torch.stack([wide.sum(dims), (wide * normal).sum(dims)])  # (2, C): gradients of bias and weight
        joint = all_reduce_sum(own.clone()) / count
        scale = inverse if weight is None else inverse * weight
        dx = (wide - joint[0].view(shape) - normal * joint[1].view(shape)) * scale.view(shape)
        if weight is None:
            return dx.to(grad.dtype), None, None, None
        return dx.to(grad.dtype), own[1].to(weight.dtype), own[0].to(weight.dtype), None


class CPUSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation with joint statistics over gloo, for any number of dimensions (N, C, ...).

    torch's own SyncBatchNorm runs on GPUs only. Processes may hold different numbers of rows. Running
    statistics as torch keeps them (unbiased variance). Not a subclass of torch's: DDP refuses that on CPUs.
    """

    def _check_input_dim(self, x):
        if x.dim() < 2:
            raise ValueError(f"batch normalisation expected (N, C, ...), found {x.dim()} dimensions")

    def forward(self, x):
        if not self.training or world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        if x.is_cuda:
            raise ValueError("this batch norm was converted for a CPU and met a GPU tensor; "
                             "move the module to its device before convert_sync_batchnorm")
        y, mean, variance, count = _JointBatchNorm.apply(x, self.weight, self.bias, self.eps)
        if count < 2:
            raise ValueError("batch normalisation expected more than one value per channel over all "
                             "processes, found 1; enlarge the batch")
        update_running_statistics(self, mean, variance, count)
        return y


@torch.no_grad()
def update_running_statistics(layer, mean: torch.Tensor, variance: torch.Tensor, count) -> None:
    """Move a batch-norm layer's buffers as torch does: momentum None means the plain average over batches,
    and the running variance is the unbiased one, variance (biased) x count / (count - 1)."""
    if not layer.track_running_stats or layer.running_mean is None:
        return
    layer.num_batches_tracked += 1
    momentum = 1.0 / layer.num_batches_tracked.item() if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), momentum)
    layer.running_var.lerp_((variance * (count / (count - 1))).to(layer.running_var.dtype), momentum)


def convert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Replace every batch norm below (and at) `module` by one with joint statistics; no-op in one process.

    Call it after the module is on its device: GPU layers become torch's SyncBatchNorm, CPU layers ours.
    Parameters and buffers are taken over, not copied, and the state dict's names stay.
    """
    if world_size() == 1:
        return module
    tensor = next(iter([*module.parameters(), *module.buffers()]), None)
    if tensor is not None and tensor.is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    return _convert_for_cpu(module)


def _convert_for_cpu(module):
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, CPUSyncBatchNorm):
        new = CPUSyncBatchNorm(module.num_features, module.eps, module.momentum, module.affine,
                               module.track_running_stats)
        for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            setattr(new, name, value)
        return new.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, _convert_for_cpu(child))
    return module


# Starting processes

def adopt_slurm() -> None:
    """In a step of a SLURM job (`srun`), say in torchrun's variables which process this is.

    Nothing happens under torchrun, in a step of one task, and in a batch script outside srun, where
    SLURM_NTASKS may be there without anybody having started the tasks. The meeting point is MASTER_ADDR and
    MASTER_PORT where given, else the step's first node and a port from 15000 to 34999 that follows from the
    numbers of job and step, so that two jobs on one node rarely meet (then: set MASTER_PORT).
    """
    environment = os.environ
    step = "SLURM_STEP_NUM_TASKS" in environment or "SLURM_STEP_ID" in environment
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", 1)))
    if "RANK" in environment or not step or tasks < 2 or "SLURM_PROCID" not in environment:
        return
    local = int(environment.get("SLURM_LOCALID", 0))
    if torch.cuda.device_count() == 1:  # --gpus-per-task=1: each task sees its own GPU as number 0
        local = 0
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", "localhost"))
    job, number = (int(environment.get(name, 0)) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    environment.setdefault("MASTER_ADDR", first_node(nodes))
    environment.setdefault("MASTER_PORT", str(15000 + (job * 10 + number) % 20000))
    environment.update(RANK=environment["SLURM_PROCID"], WORLD_SIZE=str(tasks), LOCAL_RANK=str(local))


def first_node(nodes: str) -> str:
    """SLURM's short form of a list of nodes, such as gpu[003-010,12],cpu7 -> its first node, gpu003."""
    first = re.match(r"(?:[^,\[]|\[[^]]*\])+", nodes.strip())
    if not first:
        raise ValueError(f"SLURM's list of nodes cannot be read, found {nodes!r}; set MASTER_ADDR")
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", first[0])


_workers = []  # started by this process
_missed = []  # signals that came before the workers could get them


def pass_on(number: int) -> None:
    """Send a signal to the processes that `launch` started here, if any; safe in a signal handler."""
    for worker in _workers:
        if worker.pid is None:
            _missed.append(number)
            continue
        try:
            os.kill(worker.pid, number)
        except ProcessLookupError:
            pass  # it has ended, and whoever waits for it knows


def launch(function, processes: int, *args):
    """Call function(*args) in every process of a group and return rank 0's value.

    - Under torchrun (RANK and WORLD_SIZE in the environment) and in a step of a SLURM job (see
      `adopt_slurm`): joins that group; other ranks return None.
    - Inside a group already, or processes <= 1: calls the function here.
    - Else spawns `processes` workers that meet through a temporary file, so no port is fixed and several
      runs fit on one machine. `function` must be importable (a module's own function), args picklable.

    A worker's ValueError or FileNotFoundError reaches the caller as it is; any other failure as one
    WorkerError that names the process, its traceback printed. No worker outlives the call.
    """
    if in_group():
        return function(*args)
    adopt_slurm()
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        rank_, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        # A prefix for each call: in the same store a second group would meet at the first one's addresses.
        _join(dist.PrefixStore(f"launch{next(_launches)}", _meeting_point(rank_, size)), rank_, size)
        value, main = function(*args), is_main()
        dist.destroy_process_group()  # not after an error: it could wait for the others
        return value if main else None
    if processes <= 1:
        return function(*args)
    return _spawn(function, processes, args)


_launches = itertools.count()


@functools.cache
def _meeting_point(rank_, size):
    """Return the store through which torchrun's processes meet, one for all groups of this process."""
    return next(dist.rendezvous("env://", rank_, size))[0]


def _join(store, rank_, size):
    gpu = torch.cuda.is_available() and int(os.environ.get("LOCAL_RANK", rank_)) < torch.cuda.device_count()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank_)))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", store=store, rank=rank_, world_size=size)


def _spawn(function, processes, args):
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="rendezvous-") as folder:
        workers = [context.Process(target=_worker, args=(function, number, processes, folder, args))
                   for number in range(processes)]
        _missed.clear()
        _workers.extend(workers)
        try:
            for worker in workers:
                worker.start()
            for number in set(_missed):
                pass_on(number)
            _wait(workers, Path(folder))
        finally:  # also on KeyboardInterrupt and on SystemExit from a signal handler of the caller
            _workers.clear()
            _stop(workers)
        return pickle.loads((Path(folder) / "value").read_bytes())


def _worker(function, number, processes, folder, args):
    threading.Thread(target=_die_with_parent, daemon=True).start()
    # A spawned process would spawn its own children, too, so data loaders would start slowly.
    multiprocessing.set_start_method(None, force=True)
    os.environ["LOCAL_RANK"] = str(number)
    try:
        _join(dist.FileStore(f"{folder}/store", processes), number, processes)
        value = function(*args)
        if number == 0:
            (Path(folder) / "value").write_bytes(pickle.dumps(value))
        dist.destroy_process_group()
    except KeyboardInterrupt:
        os._exit(130)  # the parent has it too, and speaks for everybody
    except Exception as error:
        story = (time.time(), type(error).__name__, isinstance(error, USER_ERRORS), str(error),
                 traceback.format_exc())
        draft = Path(folder) / f"draft-{number}"
        draft.write_bytes(pickle.dumps(story))
        draft.replace(Path(folder) / f"error-{number}")
        os._exit(1)  # without the group's tear-down, which could wait for the others


def _die_with_parent():
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _wait(workers, folder):
    """Return when all workers ended well; raise one error for the first that did not."""
    alive = list(workers)
    while alive:
        multiprocessing.connection.wait([worker.sentinel for worker in alive])
        alive = [worker for worker in alive if worker.is_alive()]
        if any(worker.exitcode for worker in workers):
            deadline = time.monotonic() + GRACE_SECONDS
            for worker in workers:
                worker.join(max(0.0, deadline - time.monotonic()))
            raise _cause(workers, folder)


def _cause(workers, folder):
    """The most telling error: a worker killed from outside, else the earliest exception. The others' are
    mostly consequences ("connection closed by peer")."""
    for number, worker in enumerate(workers):
        code = worker.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in signal.Signals._value2member_map_ else str(-code)
            return WorkerError(f"process {number} of {len(workers)} was ended by {name}; on SIGKILL look "
                               "for too little memory, else see the lines above")
    stories = sorted((pickle.loads(path.read_bytes()), path.name[6:]) for path in folder.glob("error-*"))
    user = [story for story, _ in stories if story[2]]
    if user:
        _, kind, _, message, _ = user[0]
        return FileNotFoundError(message) if kind == "FileNotFoundError" else ValueError(message)
    if stories:
        (_, kind, _, message, trace), number = stories[0]
        print(trace, file=sys.stderr, end="")
        return WorkerError(f"process {number} of {len(workers)} failed with {kind}: {message.strip()}")
    number, code = next((number, worker.exitcode) for number, worker in enumerate(workers) if worker.exitcode)
    return WorkerError(f"process {number} of {len(workers)} left with exit status {code} without an error")


def _stop(workers):
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
    deadline = time.monotonic() + 5
    for worker in workers:
        if worker.pid is not None:
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                worker.kill()
                worker.join()
