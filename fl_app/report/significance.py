"""Tests whether differences between configurations are larger than the spread over seeds.

Welch's t test (1947), two-sided, compares the means over seeds of two configurations, whose
variances are unknown and not assumed equal. It is not paired: two methods share the number of a
seed, but draw different batches and starts from it. Each baseline is compared with every other
configuration, so that the p values are corrected by Holm (1979): the probability that any of a
baseline's differences is called significant although there is none is at most 5 %, whatever the
dependence. There is no correction for choosing the best configuration as the baseline.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MIN_SEEDS = 3
"""With fewer seeds there is no test: the spread of two values is hardly known."""
LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """The difference between a configuration's mean and the baseline's.

    Attributes
    ----------
    index : int
        The configuration.
    difference : float
        Its mean minus the baseline's.
    low, high : float or None
        The 95 % interval; None if neither has any spread, so that there is nothing to test.
    p, holm : float or None
        The p value, and the p value corrected by Holm.
    """

    index: int
    difference: float
    low: float | None
    high: float | None
    p: float | None
    holm: float | None = None


def enough(values: Sequence[float]) -> bool:
    """Tell whether a configuration has enough seeds for a test."""
    return len(values) >= MIN_SEEDS


def differences(samples: Sequence[Sequence[float]], baseline: int) -> list[Difference]:
    """Return the difference of every other sample from ``samples[baseline]``.

    Samples that are too small for a test are left out.
    """
    found = [
        welch(i, sample, samples[baseline])
        for i, sample in enumerate(samples)
        if i != baseline and enough(sample) and enough(samples[baseline])
    ]
    tested = [d.p for d in found if d.p is not None]
    corrected = iter(holm(tested))
    return [
        Difference(
            d.index, d.difference, d.low, d.high, d.p, None if d.p is None else next(corrected)
        )
        for d in found
    ]


def welch(index: int, sample: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Return the difference of two means with Welch's test."""
    mean = sum(sample) / len(sample) - sum(baseline) / len(baseline)
    if len({*sample}) == len({*baseline}) == 1:
        return Difference(index, mean, None, None, None)
    from scipy import stats  # takes a second to import; the end of a run does not need it

    result = stats.ttest_ind(sample, baseline, equal_var=False)
    interval = result.confidence_interval(1 - LEVEL)
    return Difference(index, mean, float(interval.low), float(interval.high), float(result.pvalue))


def holm(values: Sequence[float]) -> list[float]:
    """Return p values corrected by Holm's step-down procedure, in the given order."""
    corrected = [0.0] * len(values)
    least = 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        least = max(least, min(1.0, (len(values) - rank) * values[i]))
        corrected[i] = least
    return corrected
