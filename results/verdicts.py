"""What seeds show: mean, spread, 95 % interval, and the verdict on a mean against a published figure.

RULE is the rule of the verdict, as the tables print it. Two means of n runs and of one differ by chance by up
to 1.96 s sqrt(1/n + 1) in 19 cases of 20. The known s is that of SPREADS in catalogue.py, t is Student's for
n - 1 degrees, and 0.05 is half of the last printed digit. Where chance explains more than a point, agreement
would mean nothing. Where ours prints as 0.0, the task is deterministic or the seeds agree by luck. A
published figure counts as one run, since papers rarely say how many there were. A backbone of another name
gets no verdict: another method's figure would say nothing about it.
"""

import math
from collections.abc import Sequence

ALPHA, POWER = 0.05, 0.8
ROUNDING = 0.05
RESOLUTION = 1.0
MOST_SEEDS = 1000
RULE = ("reproduced: the means differ by no more than chance explains, 1.96 s sqrt(1/n + 1) + 0.05, with "
        "s the task's known standard deviation over seeds, or t s sqrt(1/n + 1) + 0.05 with our own where"
        " none is known or ours is more than twice as large; and that is at most 1 point. above, below: "
        "they differ by more. inconclusive: n = 1, or chance explains more than 1 point, or no spread is "
        "known, ours prints as 0.0, and they differ by more than chance, but at most 1 point. A published"
        " figure counts as one run. A backbone is judged against the published row of its own name "
        "(--name of transfer/run.py); one that is named bt, or read from Barlow Twins' checkpoint.pth, "
        "against Barlow Twins; one of another name gets no verdict")


# scipy.special is imported where it is needed: it takes as long as most tables. scipy.stats takes twice that.


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return (mean, sample standard deviation) of figures; the latter is None for one."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def student(count: int) -> float:
    """Return the 97.5 % quantile of Student's t for `count` figures, 2 or more."""
    from scipy import special

    return float(special.stdtrit(count - 1, 1 - ALPHA / 2))


def interval(mean: float, std: float | None, count: int) -> tuple[float, float] | None:
    """Return (low, high), the 95 % interval of a mean of normal figures; None for one figure."""
    if std is None:
        return None
    half = student(count) * std / math.sqrt(count)
    return mean - half, mean + half


def welch(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float] | None:
    """Return (low, high), the 95 % interval of the difference of two means of normal figures with spreads of
    their own (Welch 1947); None where either has one figure."""
    from scipy import special

    (mean, std), (other, spread) = mean_std(ours), mean_std(theirs)
    if std is None or spread is None:
        return None
    parts = std ** 2 / len(ours), spread ** 2 / len(theirs)
    if not sum(parts):
        return mean - other, mean - other
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(ours) - 1) + parts[1] ** 2 / (len(theirs) - 1))
    half = float(special.stdtrit(freedom, 1 - ALPHA / 2)) * math.sqrt(sum(parts))
    return mean - other - half, mean - other + half


def bound(std: float, count: int, known: float | None = None) -> float:
    """Return by how much a mean of `count` runs may differ from a single one by chance, as the rule says."""
    spread = 1.96 * known if known and std <= 2 * known else student(count) * std
    return spread * math.sqrt(1 / count + 1) + ROUNDING


def verdict(mean: float, std: float | None, count: int, published: float, known: float | None = None) -> str:
    """Return "reproduced", "below", "above" or "inconclusive". Percent; std is None for one run."""
    if std is None:
        return "inconclusive"
    difference, chance = mean - published, bound(std, count, known)
    if abs(difference) > chance:
        if not known and std < ROUNDING and abs(difference) <= RESOLUTION:
            return "inconclusive"
        return "above" if difference > 0 else "below"
    return "reproduced" if chance <= RESOLUTION else "inconclusive"


def seeds_needed(difference: float, std: float) -> int | None:
    """Return how many pairs of seeds show a mean difference of that size with power 0.8; None above 1000.

    A two-sided paired t test at 0.05, by the noncentral t distribution. std: standard deviation of the
    differences between the seeds of a pair.
    """
    import numpy
    from scipy import special

    counts = numpy.arange(2, MOST_SEEDS + 1)
    if std == 0:
        return 2
    critical = special.stdtrit(counts - 1, 1 - ALPHA / 2)
    shift = numpy.minimum(abs(difference) / std * numpy.sqrt(counts), 30)  # beyond, the power is 1 anyway
    power = 1 - special.nctdtr(counts - 1, shift, critical) + special.nctdtr(counts - 1, shift, -critical)
    enough = numpy.flatnonzero(power >= POWER)
    return int(counts[enough[0]]) if len(enough) else None
