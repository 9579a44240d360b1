"""Epsilon of repeated Gaussian noise on Poisson samples, and the noise for an epsilon.

By numerical composition of privacy loss random variables (Gopi et al. 2021,
https://arxiv.org/abs/2106.02848), as Opacus has it: Renyi accounting is up to a fifth above it.
Neighbours are data sets that differ by one member more or less.
"""

import warnings
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.utils import get_noise_multiplier

PRECISION = 5e-3  # of a noise multiplier, relative
LEAST = 0.05  # target: the accountant's own precision is 0.01
ORDERS = list(range(2, 65))  # of Renyi divergences; fractional ones take most of the time
LARGE = 30.0  # beyond it there is nothing to promise, and the exact composition fills the memory
# Of more steps the exact composition takes gigabytes, and how many there are a node's rows decide:
# a million steps took 7 GB and two minutes.
MOST_STEPS = 100_000


Release = tuple[float, float, int]
"""Noised sums of one kind: noise multiplier, sample rate, and how many there were."""


def epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """Return an upper bound of epsilon at ``delta``.

    Above ``LARGE``, and for more than ``MOST_STEPS``, it is a looser one.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise over the clipping length, > 0.
    sample_rate : float
        Probability in (0, 1] that a member is in the sample of a step; 1: no sampling.
    steps : int
        Noised sums that were released, >= 0.
    """
    return composed([(noise_multiplier, sample_rate, steps)], delta)


def composed(history: Iterable[Release], delta: float) -> float:
    """Return an upper bound of epsilon at ``delta`` of releases of several kinds together."""
    steps: Counter[tuple[float, float]] = Counter()
    for noise, rate, count in history:
        steps[noise, rate] += count
    return _epsilon(tuple((*kind, n) for kind, n in sorted(steps.items()) if n), delta)


@lru_cache(maxsize=4096)
def _epsilon(history: tuple[Release, ...], delta: float) -> float:
    if not history:
        return 0.0
    loose, tight = RDPAccountant(), PRVAccountant()
    loose.history, tight.history = [*history], [*history]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tails, where exp overflows; of how loose it is
        bound = float(loose.get_epsilon(delta, alphas=ORDERS))
        loosely = bound > LARGE or sum(steps for _, _, steps in history) > MOST_STEPS
        return bound if loosely else float(tight.get_epsilon(delta))


@lru_cache(maxsize=4096)
def noise_multiplier(target: float, sample_rate: float, steps: int, delta: float) -> float:
    """Return the least noise multiplier, to half a percent, that keeps to the epsilon ``target``.

    Raises
    ------
    ValueError
        If ``target`` is too small for the accountant's precision.
    """

    def holds(noise: float) -> bool:
        return epsilon(noise, sample_rate, steps, delta) <= target

    if target < LEAST:
        raise ValueError(f"privacy.epsilon={target} should be at least {LEAST}, or null")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Fast, and enough or nearly so, since it is the looser accountant.
        enough = get_noise_multiplier(
            target_epsilon=target,
            target_delta=delta,
            sample_rate=sample_rate,
            steps=steps,
            accountant="rdp",
            alphas=ORDERS,
        )
    while not holds(enough):
        enough *= 1.1
    too_little = enough / 2
    while holds(too_little):
        enough, too_little = too_little, too_little / 2
    while enough - too_little > PRECISION * enough:
        middle = (too_little + enough) / 2
        if holds(middle):
            enough = middle
        else:
            too_little = middle
    return enough
