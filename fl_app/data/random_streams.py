"""Random generators of the synthetic data: every provider, document and problem has its own."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def generator(*key: int) -> np.random.Generator:
    """Return the generator of a key; generators of different keys are independent."""
    return np.random.default_rng(np.random.SeedSequence(key))


def choose(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Return one of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]
