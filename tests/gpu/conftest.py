"""What the proofs on CUDA share: the device, its settings, and measures of distance."""
import os

import pytest
import torch

from transfer.precision import tf32

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before the first product: test_gpu_resume.py

ASKED = "no CUDA device here; --gpu-device cpu runs the miniature"


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker("gpu")


@pytest.fixture(scope="session")
def device(request):
    """The device of --gpu-device; skips without CUDA unless the CPU was asked for."""
    asked = request.config.getoption("--gpu-device") or "cuda"
    if asked == "cuda" and not torch.cuda.is_available():
        pytest.skip(ASKED)
    return torch.device(asked, 0) if asked == "cuda" else torch.device("cpu")


@pytest.fixture
def cuda(device):
    """The device, for what a CPU has not; skips there."""
    if device.type != "cuda":
        pytest.skip("needs CUDA itself: streams, NCCL or the memory of a GPU")
    return device


@pytest.fixture(autouse=True)
def as_before():
    """Leave torch's switches as they were: the trainer sets cudnn.benchmark, and some tests set others."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
    yield
    cudnn.benchmark, cudnn.deterministic = before[:2]
    torch.use_deterministic_algorithms(before[2])


@pytest.fixture
def exact(device):
    """float32 without TF32, in products and convolutions."""
    with tf32(allowed=False):
        yield
