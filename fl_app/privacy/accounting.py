"""Epsilon of repeated Gaussian noise on Poisson samples, and the noise for an epsilon.

By numerical composition of privacy loss random variables (Gopi et al. 2021,
https://arxiv.org/abs/2106.02848), as Opacus has it: Renyi accounting is up to a fifth above it.
Neighbours are data sets that differ by one member more or less.
"""

import math
import warnings
from functools import lru_cache

from opacus.accountants import PRVAccountant
from opacus.accountants.utils import get_noise_multiplier

PRECISION = 1e-3  # of a noise multiplier, relative


@lru_cache(maxsize=4096)
def epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """Return an upper bound of epsilon at ``delta``; infinity if there is no finite one.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise over the clipping length, > 0.
    sample_rate : float
        Probability in (0, 1] that a member is in the sample of a step; 1: no sampling.
    steps : int
        Noised sums that were released, >= 0.
    """
    if steps == 0:
        return 0.0
    accountant = PRVAccountant()
    accountant.history = [(noise_multiplier, sample_rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of the tails, where exp overflows
        return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=4096)
def noise_multiplier(target: float, sample_rate: float, steps: int, delta: float) -> float:
    """Return the least noise multiplier, to a thousandth, whose ``epsilon`` is at most ``target``.

    Raises
    ------
    ValueError
        If no noise is enough.
    """
    # The looser accountant is much faster and its answer is enough noise: the search starts below.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # where it is looser still
        enough = get_noise_multiplier(
            target_epsilon=target,
            target_delta=delta,
            sample_rate=sample_rate,
            steps=steps,
            accountant="rdp",
        )
    while not epsilon(enough, sample_rate, steps, delta) <= target:
        enough *= 1.1
        if not math.isfinite(enough) or enough > 1e6:
            raise ValueError(f"no noise gives epsilon {target} over {steps} steps: raise epsilon")
    too_little = 0.0
    while enough - too_little > PRECISION * enough:
        # Halving from above stays clear of the tiny multipliers, whose composition takes minutes.
        middle = max((too_little + enough) / 2, 0.9 * enough)
        if epsilon(middle, sample_rate, steps, delta) <= target:
            enough = middle
        else:
            too_little = middle
    return enough
