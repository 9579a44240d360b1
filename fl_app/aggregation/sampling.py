"""Which clients take part in a round.

A pure function of the seed and the round, over partitions: Flower's node ids are random per run
and its own sampling uses the global generator, so neither can be repeated.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np


def uniform(clients: Sequence[int], count: int, seed: int, server_round: int) -> list[int]:
    """Draw ``count`` of ``clients`` without replacement, anew each round."""
    rng = np.random.default_rng([seed, server_round])
    return sorted(rng.choice(np.asarray(clients), size=count, replace=False).tolist())


def cyclic(clients: Sequence[int], count: int, seed: int, server_round: int) -> list[int]:
    """Take every client once, in random order, before any is taken twice."""
    queue: list[int] = []
    passes = 0
    for _ in range(server_round):
        cohort: list[int] = []
        while len(cohort) < count:
            fresh = [client for client in queue if client not in cohort]
            if not fresh:
                order = np.random.default_rng([seed, passes]).permutation(np.asarray(clients))
                queue += order.tolist()
                passes += 1
                continue
            cohort.append(fresh[0])
            queue.remove(fresh[0])
    return sorted(cohort)


def turns(
    sampler: str, clients: Sequence[int], count: int, seed: int, rounds: Iterable[int]
) -> Counter[int]:
    """Return how often each client is taken in ``rounds``."""
    draw = SAMPLERS[sampler]
    return Counter(k for number in rounds for k in draw(clients, count, seed, number))


Sampler = Callable[[Sequence[int], int, int, int], list[int]]
SAMPLERS: dict[str, Sampler] = {"uniform": uniform, "cyclic": cyclic}
