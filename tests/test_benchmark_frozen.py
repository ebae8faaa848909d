"""The frozen step's benchmark compares formulations that compute the same; the sweep's has ten heads."""
import classification_toys as toys
import pytest
import torch

from benchmarks import frozen, sweep

SMALL = torch.device("cpu"), 4, 32, 5


@pytest.mark.parametrize("precision, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_both_steps_agree(precision, tolerance):
    plain = frozen.plain(*SMALL, toys.backbone())
    ours = frozen.ours(*SMALL, toys.backbone(), precision)
    first, second = [plain().item() for _ in range(2)], [ours().item() for _ in range(2)]
    assert first == pytest.approx(second, rel=tolerance) and abs(first[0] - first[1]) > 0.1


def test_the_sweep_has_ten_heads_and_one():
    assert [len(config.grid) for config in sweep.CONFIGS.values()] == [1, 10]
