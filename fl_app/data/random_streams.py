"""Random generators of the synthetic data: one for every thing that is made, by its key."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def generator(*key: int) -> np.random.Generator:
    """The generator of what ``key`` names; other keys have unrelated ones."""
    return np.random.default_rng(np.random.SeedSequence(key))


def choose(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]
