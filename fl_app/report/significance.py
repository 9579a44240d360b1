"""Which differences between configurations are more than the spread over seeds.

Welch's t test (1947), two-sided: the mean over seeds of one configuration against that of another,
their variances unknown and not assumed equal. It is not paired: two methods share a seed's number,
but draw other batches and another start with it. Against one baseline there is a test for every
other configuration, so the p values are corrected by Holm (1979): the chance that any of a
baseline's differences is called significant though there is none is at most 5 %, whatever the
dependence. That the baseline is often chosen for being best is not corrected for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MIN_SEEDS = 3
"""With two values the spread itself is a guess: nothing is said of fewer seeds than this."""
LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """A configuration's mean less the baseline's: 95 % interval, p value, and p after Holm.

    ``p`` and ``holm`` are None where neither has any spread, so that there is nothing to test.
    """

    index: int
    difference: float
    low: float | None
    high: float | None
    p: float | None
    holm: float | None = None


def enough(values: Sequence[float]) -> bool:
    """Return whether a configuration has the seeds for a test."""
    return len(values) >= MIN_SEEDS


def differences(samples: Sequence[Sequence[float]], baseline: int) -> list[Difference]:
    """Return every sample's difference from ``samples[baseline]``, but that of the baseline.

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
    """Return the difference of two means, and Welch's test of it."""
    mean = sum(sample) / len(sample) - sum(baseline) / len(baseline)
    if len({*sample}) == len({*baseline}) == 1:
        return Difference(index, mean, None, None, None)
    from scipy import stats  # a second to import, which the end of a run does not need

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
