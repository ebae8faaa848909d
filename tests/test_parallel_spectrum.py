"""The effective rank by its formula, and of several processes' rows together."""
import numpy as np
import pytest
import torch

from parallel.launch import launch
from parallel.process import rank
from parallel.spectrum import effective_rank, joint_effective_rank, singular_values


def rankme(rows):
    """Equation 1 of arXiv 2210.02885 in NumPy's float64."""
    sigma = np.linalg.svd(np.asarray(rows, np.float64), compute_uv=False)
    p = sigma / np.abs(sigma).sum() + 1e-7
    return np.exp(-(p * np.log(p)).sum())


def features(count, width):
    """Positive ones, as behind a ReLU, whose directions fade."""
    draw = torch.Generator().manual_seed(0)
    return (torch.randn(count, width, generator=draw) * torch.linspace(1, 0.01, width)).relu()


@pytest.mark.parametrize("count, width", [(50, 12), (12, 50), (9000, 6)])
def test_it_is_that_of_the_formula(count, width):
    rows = features(count, width)
    assert effective_rank(singular_values(rows)) == pytest.approx(rankme(rows), rel=1e-9)
    assert 2 < rankme(rows) < min(count, width) - 0.5  # neither end


def test_a_collapse_and_all_directions():
    line = torch.rand(40, 1, generator=torch.Generator().manual_seed(0)) @ torch.ones(1, 16)
    assert effective_rank(singular_values(line)) == pytest.approx(1, rel=1e-4)
    assert effective_rank(singular_values(line)) == pytest.approx(rankme(line.double()), rel=1e-6)
    assert effective_rank(singular_values(torch.eye(16).repeat(3, 1))) == pytest.approx(16, rel=1e-4)
    assert effective_rank(singular_values(torch.zeros(4, 3))) < 1.001


def joint(matrices, sizes):
    return [joint_effective_rank(rows.split([len(rows) - sum(sizes), *sizes])[rank()]) for rows in matrices]


@pytest.mark.parametrize("sizes", [[], [4]], ids=["one", "two"])
def test_two_processes_have_that_of_all_rows(sizes):
    """With more rows than columns, and with fewer."""
    matrices = [features(13, 5), features(5, 13)]
    wanted = [pytest.approx(rankme(rows), rel=1e-9) for rows in matrices]
    assert launch(joint, 1 + len(sizes), matrices, sizes) == wanted
