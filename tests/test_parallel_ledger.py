"""The ledger counts what the allocator and torch's own counter count, of real tensors and of fake ones."""
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

from parallel.ledger import BLOCK, Ledger


def test_memory_is_counted_in_blocks_until_it_is_given_back():
    with Ledger() as ledger:
        a = torch.ones(1000)  # 4000 bytes
        b = a.view(10, 100)[2:]  # no memory of its own
        assert ledger.held == 8 * BLOCK == ledger.peak
        c = a + 1
        del a
        assert ledger.held == 16 * BLOCK  # b keeps a's memory
        del b, c
        assert ledger.held == 0 and ledger.peak == 16 * BLOCK
        ledger.restart()
        assert ledger.peak == 0 and ledger.kernels == []


def test_a_kernel_has_its_operations_bytes_and_type():
    with FakeTensorMode(), Ledger() as ledger:
        a, b = torch.zeros(3, 5), torch.zeros(5, 7)
        ledger.restart()
        torch.zeros(3, 7).addmm_(a, b.view(5, 7))  # torch's counter does not know it
        (a.bfloat16() @ b.bfloat16()).relu()
    product = 2 * 3 * 5 * 7
    assert [kernel.flops for kernel in ledger.kernels] == [0, product, 0, 0, product, 0]
    assert ledger.kernels[1].bytes == 4 * (2 * 21 + 15 + 35) and ledger.flops == 2 * product
    assert ledger.kernels[-1] == (0, 2 * 2 * 21, torch.bfloat16)


def test_batch_norm_reads_its_input_twice():
    with FakeTensorMode(), Ledger() as ledger:
        x = torch.zeros(50, 4)
        ledger.restart()
        torch.batch_norm(x, None, None, None, None, True, 0.0, 1e-5, False)
    kernel, = ledger.kernels
    assert kernel.bytes == 4 * (2 * 200 + 200 + 2 * 4)  # and y, mean and inverse deviation


def test_memory_of_a_gpu_is_told_from_the_hosts():
    with FakeTensorMode(), Ledger("cuda") as ledger:
        on_host = torch.zeros(1000)
        on_gpu = on_host.to("cuda")
        assert ledger.held == 8 * BLOCK and on_gpu.device.type == "cuda"


@pytest.mark.parametrize("fake", [False, True])
def test_operations_are_those_of_torchs_counter(fake):
    def work():
        network = resnet18()
        network(torch.randn(2, 3, 64, 64)).sum().backward()

    with FlopCounterMode(display=False) as counter:
        work()
    with FakeTensorMode() if fake else torch.enable_grad(), Ledger() as ledger:
        work()
    assert ledger.flops == counter.get_total_flops() > 1e9
