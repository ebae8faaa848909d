"""Collectives of one process and of several."""
import pytest

from parallel.collectives import local_device
from parallel.launch import launch
from tests.test_parallel_launch import collectives


@pytest.mark.parametrize("processes", [1, 3])
def test_collectives_allow_unequal_rows(processes):
    size, rows, counts, total = launch(collectives, processes)
    assert size == processes
    assert rows[:, 0].tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 2.0][:sum(range(1, processes + 1))]
    assert counts == list(range(1, processes + 1))
    assert total.item() == sum(range(1, processes + 1))


@pytest.mark.parametrize("device, message", [("tpu", "must be cuda or cpu")])
def test_unknown_devices_are_refused(device, message):
    with pytest.raises(ValueError, match=message):
        local_device(device)
