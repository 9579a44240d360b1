"""Flower's wrappers for client-level privacy, made repeatable and strict."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from strategies.wrapper import Wrapper


class MissingRepliesError(RuntimeError):
    """Fewer clients replied than the noise is for."""


class PrivateRelease(Wrapper):
    """Around one of Flower's wrappers: every mean that the server releases has its noise.

    Flower divides the noise of a mean by the clients that it has asked, but the mean is over those
    who replied, and it draws from numpy's global generator. Here a round with a missing reply
    fails, and the global generator is seeded anew for a release, and put back.

    Parameters
    ----------
    strategy : Strategy
        A wrapper of Flower's around the strategy that averages.
    seed : int or None
        Of the noise. A seed of the run is known to whoever knows its configuration, who could take
        the noise off again: it is for simulations that are to be repeated. None: from the
        operating system, anew in every round.
    """

    def __init__(self, strategy: Strategy, seed: int | None) -> None:
        super().__init__(strategy)
        self.seed = seed
        self._asked = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the wrapper configure, and count whom it asks."""
        messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        self._asked = len(messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let the wrapper clip, average and add noise.

        Raises
        ------
        MissingRepliesError
            If a client's reply is missing.
        """
        replies = list(replies)
        if len(replies) != self._asked:
            raise MissingRepliesError(
                f"round {server_round}: {len(replies)} of {self._asked} clients replied, and the "
                "noise is for the mean of all; nothing is released"
            )
        with _numpy_seeded(None if self.seed is None else [self.seed, server_round]):
            return self.strategy.aggregate_train(server_round, replies)


@contextmanager
def _numpy_seeded(seed: list[int] | None) -> Iterator[None]:
    """Seed numpy's global generator, from the operating system for None, and put it back."""
    before = np.random.get_state()
    np.random.seed(np.random.SeedSequence(seed).generate_state(8))
    try:
        yield
    finally:
        np.random.set_state(before)
