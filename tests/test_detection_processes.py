"""Which processes Detectron2 takes for those of one machine, and which GPU it wraps the model for."""
import datetime
import socket

import pytest
import torch
import torch.distributed as dist
from detectron2.engine import defaults
from detectron2.utils import comm

from parallel.collectives import rank
from parallel.groups import COLLECTIVE_MINUTES
from parallel.launch import launch
from transfer.detection import d2, trainer

HOSTS = {  # of each process -> its place on its machine, and how many there are on it
    ("a", "b", "c"): [(0, 1), (0, 1), (0, 1)],
    ("a", "b", "b"): [(0, 1), (0, 2), (1, 2)],
    ("a", "b", "a"): [(0, 2), (0, 1), (1, 2)],
    ("a", "a", "a"): [(0, 3), (1, 3), (2, 3)],
}


def places():
    """Return what Detectron2 says of each process, in runs on each of HOSTS one after another."""
    found = []
    for hosts in HOSTS:
        socket.gethostname = lambda: hosts[rank()]
        d2.join_processes()
        seen = torch.ones(1)
        dist.all_reduce(seen, group=comm._LOCAL_PROCESS_GROUP)  # of the processes that it names
        found.append(comm.all_gather((comm.get_local_rank(), comm.get_local_size(), seen.item())))
    groups = comm._get_global_gloo_group(), comm._LOCAL_PROCESS_GROUP
    return found, [group._get_backend(torch.device("cpu")).options._timeout for group in groups]


def test_processes_of_one_host_are_a_local_group():
    """One process a host, as two tasks of SLURM on two nodes, and unequal numbers of them."""
    found, patience = launch(places, 3)
    assert found == [[(place, size, size) for place, size in wanted] for wanted in HOSTS.values()]
    assert patience == 2 * [datetime.timedelta(minutes=COLLECTIVE_MINUTES)]


@pytest.mark.parametrize("device, wanted", [("cuda", [0]), ("cpu", None)])
def test_the_model_is_wrapped_for_the_gpu_in_use(monkeypatch, device, wanted):
    """srun --gpus-per-task=1: the fourth process of a machine sees one GPU, number 0."""
    seen = {}
    monkeypatch.setattr(comm, "get_world_size", lambda: 4)
    monkeypatch.setattr(comm, "get_local_rank", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(defaults, "DistributedDataParallel", lambda model, **rest: seen.update(rest))
    with trainer._ddp_of(device):
        defaults.create_ddp_model(None, broadcast_buffers=False)
    assert seen == {"device_ids": wanted, "broadcast_buffers": False}
