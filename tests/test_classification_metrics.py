"""Top-k and average precision against values worked by hand."""
import numpy as np
import pytest
import torch

from transfer.classification.metrics import average_precision, percent, topk_correct


def test_topk_counts_and_ties():
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [3.0, 2.0, 1.0]])
    labels = torch.tensor([1, 0, 1, 2])
    # A constant row predicts class 0: right for the second sample, second place for the third.
    assert topk_correct(scores, labels, (1, 2, 3)).tolist() == [2, 3, 4]
    assert topk_correct(scores, labels, (5,)).tolist() == [4]
    assert percent(torch.tensor([2, 3]), 8) == [25.0, 37.5]


def test_topk_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match="not finite"):
        topk_correct(torch.tensor([[float("nan"), 1.0]]), torch.tensor([0]), (1,))


# Labels 1, -1 and 0 (ignored). Points (recall, precision) are worked out in the comments.
CASES = {
    # + - + : (1/2, 1), (1/2, 1/2), (1, 2/3) -> 1/2 * 1 + 1/2 * 2/3; points 0..0.5 have 1, 0.6..1 have 2/3
    "plain": ([3, 2, 1], [1, -1, 1], 5 / 6, (6 + 5 * 2 / 3) / 11),
    "perfect": ([3, 2, 1], [1, 1, -1], 1, 1),
    # - + : precision 1/2 at every recall
    "last": ([2, 1], [-1, 1], 1 / 2, 1 / 2),
    # The ignored one is on top and must not count as a false positive.
    "ignored": ([9, 3, 2, 1], [0, 1, -1, 1], 5 / 6, (6 + 5 * 2 / 3) / 11),
    # Tie of + and -: one threshold, (1, 1/2), whichever is written first.
    "tie": ([1, 1], [1, -1], 1 / 2, 1 / 2),
    "tie, other order": ([1, 1], [-1, 1], 1 / 2, 1 / 2),
    # + then a tie of {+ - -}: (1/2, 1), (1, 2/4)
    "tie below": ([2, 1, 1, 1], [1, -1, 1, -1], 3 / 4, (6 + 5 / 2) / 11),
    # - + + +: precision rises 0, 1/2, 2/3, 3/4, so the interpolated curve is 3/4 throughout
    "interpolated": ([4, 3, 2, 1], [-1, 1, 1, 1], 3 / 4, 3 / 4),
    # + x 3, then - x 3, then + x 7: recall 3/10 has precision 1, beyond it 10/13; point 0.3 is just reached
    "point on the edge": (range(13, 0, -1), [1] * 3 + [-1] * 3 + [1] * 7, 0.3 + 0.7 * 10 / 13,
                          (4 + 7 * 10 / 13) / 11),
}


@pytest.mark.parametrize("scores, labels, area, eleven", CASES.values(), ids=CASES)
def test_average_precision_by_hand(scores, labels, area, eleven):
    assert average_precision(list(scores), labels) == pytest.approx(100 * area, abs=1e-12)
    assert average_precision(list(scores), labels, "11point") == pytest.approx(100 * eleven, abs=1e-12)


def test_average_precision_does_not_depend_on_the_order_of_samples():
    draw = np.random.default_rng(0)
    scores, labels = draw.integers(0, 6, 60), draw.integers(-1, 2, 60)
    order = draw.permutation(60)
    assert average_precision(scores, labels) == average_precision(scores[order], labels[order])


@pytest.mark.parametrize("scores, labels, method, message", [
    ([1.0], [-1], "area", "at least one positive"),
    ([float("nan")], [1], "area", "finite"),
    ([1.0], [1], "areas", "area or 11point"),
])
def test_average_precision_errors(scores, labels, method, message):
    with pytest.raises(ValueError, match=message):
        average_precision(scores, labels, method)
