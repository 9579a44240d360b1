"""Flower's robust strategies, held to what their papers ask for.

With f hostile clients among n, the largest f is

=============  ============  ==============================================================
FedMedian      n >= 2f + 1   Yin et al. 2018, arXiv 1803.01498: the median of each coordinate
FedTrimmedAvg  beta n >= f   the same paper: the mean without the int(beta n) least and largest
Krum           n >= 2f + 3   Blanchard et al. 2017: the model nearest to its n - f - 2 nearest
MultiKrum      the same      the mean of the m best; m <= n - f - 2, Damaskinos et al. 2019
Bulyan         n >= 4f + 3   El Mhamdi et al. 2018: a trimmed mean of the n - 2f best
=============  ============  ==============================================================
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    FedMedian,
    FedTrimmedAvg,
    Krum,
    MultiKrum,
    Strategy,
)
from omegaconf import DictConfig

from fl_app.config import ConfigError
from strategies._wrapper import Wrapper


class TooManyHostileError(ValueError):
    """So few replies that the strategy promises nothing."""


class Robust(Wrapper):
    """Around a robust strategy of Flower's: no model without the paper's promise.

    Flower goes on with any number of replies: Krum takes one neighbour where there should be
    n - f - 2, and a trimmed mean of four with beta = 0.2 trims nothing. Here such a round fails.

    Flower's Krum takes distances of whole models as ``|x|^2 + |y|^2 - 2xy``. In float32 that is
    rounding error where clients moved little from a large start, and infinite for a large
    hostile model, so that replies are handed on in float64.

    Parameters
    ----------
    strategy : Strategy
        FedMedian, FedTrimmedAvg, Krum, MultiKrum or Bulyan of Flower.
    num_malicious_nodes : int
        f: the hostile clients among those of a round that are to do no harm.
    """

    def __init__(self, strategy: Strategy, num_malicious_nodes: int) -> None:
        super().__init__(strategy)
        self.num_malicious_nodes = num_malicious_nodes

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let Flower's strategy aggregate.

        Raises
        ------
        TooManyHostileError
            If there are too few replies.
        """
        replies = list(replies)
        self.check_replies(len(replies))
        return self.strategy.aggregate_train(server_round, list(map(_in_float64, replies)))

    def check(self, cfg: DictConfig) -> None:
        """Check that rounds have enough clients; ConfigError if they do not."""
        try:
            self.check_replies(cfg.clients_per_round)
        except TooManyHostileError as error:
            raise ConfigError(
                f"{error}: raise clients_per_round, or lower strategy.inner.num_malicious_nodes"
            ) from None

    def check_replies(self, replies: int) -> None:
        """Check that the strategy withstands ``num_malicious_nodes`` among so many replies.

        Raises
        ------
        TooManyHostileError
            If it does not.
        ValueError
            If the strategy is none of those above.
        """
        name, f = type(self.strategy).__name__, self.num_malicious_nodes
        if name not in _NEEDS:
            raise ValueError(f"{name} is no robust strategy: use one of {', '.join(_NEEDS)}")
        needs, holds = _NEEDS[name]
        if f < 1 or not holds(replies, f, self.strategy):
            raise TooManyHostileError(
                f"{name} needs {needs}, and here are n={replies} replies, f={f} hostile"
            )


_NEEDS: dict[str, tuple[str, Callable[[int, int, Any], bool]]] = {
    FedMedian.__name__: ("n >= 2f + 1 and f >= 1", lambda n, f, _: n >= 2 * f + 1),
    FedTrimmedAvg.__name__: (
        "n >= 2f + 1, f >= 1 and int(beta n) >= f",
        lambda n, f, strategy: n >= 2 * f + 1 and int(strategy.beta * n) >= f,
    ),
    Krum.__name__: ("n >= 2f + 3 and f >= 1", lambda n, f, _: n >= 2 * f + 3),
    MultiKrum.__name__: (
        "n >= 2f + 3, f >= 1 and num_nodes_to_select in 1..n - f - 2",
        lambda n, f, strategy: n >= 2 * f + 3 and 1 <= strategy.num_nodes_to_select <= n - f - 2,
    ),
    Bulyan.__name__: ("n >= 4f + 3 and f >= 1", lambda n, f, _: n >= 4 * f + 3),
}


def _in_float64(reply: Message) -> Message:
    """Put new arrays into ``reply``, in float64."""
    ((name, record),) = reply.content.array_records.items()
    wide = {key: Array(array.numpy().astype(np.float64)) for key, array in record.items()}
    reply.content = RecordDict({**reply.content, name: ArrayRecord(wide)})
    return reply
