"""Epsilon of repeated Gaussian noise on Poisson samples, and the noise for an epsilon.

By numerical composition of privacy loss random variables (Gopi et al. 2021,
https://arxiv.org/abs/2106.02848), as Opacus has it: Renyi accounting is up to a fifth above it.
Neighbours are data sets that differ by one member more or less.
"""

import warnings
from functools import lru_cache

from opacus.accountants import PRVAccountant, RDPAccountant

PRECISION = 1e-3  # of a noise multiplier, relative
MOST = 1e6  # noise multiplier
LARGE = 30.0  # beyond it there is nothing to promise, and the exact composition fills the memory


@lru_cache(maxsize=4096)
def epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """Return an upper bound of epsilon at ``delta``, above ``LARGE`` a looser one.

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
    history = [(noise_multiplier, sample_rate, steps)]
    loose, tight = RDPAccountant(), PRVAccountant()
    loose.history, tight.history = history, history
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tails, where exp overflows; of how loose it is
        bound = float(loose.get_epsilon(delta))
        return bound if bound > LARGE else float(tight.get_epsilon(delta))


@lru_cache(maxsize=4096)
def noise_multiplier(target: float, sample_rate: float, steps: int, delta: float) -> float:
    """Return the least noise multiplier, to a thousandth, whose ``epsilon`` is at most ``target``.

    Raises
    ------
    ValueError
        If no noise is enough: ``target`` is below the accountant's own precision, 0.01.
    """

    def holds(noise: float) -> bool:
        return epsilon(noise, sample_rate, steps, delta) <= target

    enough = 1.0
    while not holds(enough):
        enough *= 2
        if enough > MOST:
            raise ValueError(f"no noise gives privacy.epsilon={target} in {steps} steps: raise it")
    too_little = 0.0
    while enough - too_little > PRECISION * enough:
        middle = (too_little + enough) / 2
        if holds(middle):
            enough = middle
        else:
            too_little = middle
    return enough
