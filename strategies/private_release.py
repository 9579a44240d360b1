"""Client-level privacy: clipped updates, and noise on every mean that the server releases.

McMahan et al. 2018, https://arxiv.org/abs/1710.06963, with clients of equal weight. Flower has the
same as wrappers of strategies. They are not used: they divide by zero where an update is zero,
divide the noise by the clients asked while the mean is over those who replied, and draw it from
numpy's global Mersenne Twister.
"""

from collections.abc import Iterable

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fl_app.privacy import CLIPPERS, CLIPPING_NORM
from fl_app.privacy.clipping import shortened
from fl_app.privacy.gaussian import normal
from fl_app.privacy.keystream import KeyStream, secret_key, seeded_key
from fl_app.tree import Tree
from strategies._wrapper import Wrapper


class MissingRepliesError(RuntimeError):
    """Fewer clients replied than the noise is for."""


class PrivateRelease(Wrapper):
    """Around a strategy that averages: x <- mean_k(clip(x_k - x)) + x + N(0, (z C / n)^2).

    Parameters
    ----------
    strategy : Strategy
        Takes the plain mean of the replies; ``fl_app.privacy.checks`` knows which do.
    noise_multiplier : float
        z: standard deviation of the noise on the sum of the n updates, over ``clipping_norm``.
    clipping_norm : float
        C: length of an update at most.
    clipped_by : str
        "server", or "client": then every client clips its own, and is trusted to.
    seed : int or None
        None: the noise is from the operating system. A seed is known to whoever knows the run's
        configuration, who could take the noise off again: to repeat a simulation.
    """

    def __init__(
        self,
        strategy: Strategy,
        noise_multiplier: float,
        clipping_norm: float,
        clipped_by: str = CLIPPERS[0],
        seed: int | None = None,
    ) -> None:
        super().__init__(strategy)
        self.noise_multiplier = noise_multiplier
        self.clipping_norm = clipping_norm
        self.clipped_by = clipped_by
        self.seed = seed
        self._asked = 0
        self._start = ArrayRecord()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Keep the start of the round, and count whom the strategy asks."""
        self._start = arrays
        if self.clipped_by == "client":
            config[CLIPPING_NORM] = self.clipping_norm
        messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        self._asked = len(messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Clip, let the strategy average, and add noise.

        Raises
        ------
        MissingRepliesError
            If a client's reply is missing.
        """
        replies = list(replies)
        if not replies or len(replies) != self._asked:
            raise MissingRepliesError(
                f"round {server_round}: {len(replies)} of {self._asked} clients replied, and the "
                "noise is for the mean of all; nothing is released"
            )
        if self.clipped_by == "server":
            for reply in replies:
                ((name, arrays),) = reply.content.array_records.items()
                short = shortened(_arrays(arrays), _arrays(self._start), self.clipping_norm)
                reply.content[name] = ArrayRecord({key: Array(x) for key, x in short.items()})
        mean, metrics = self.strategy.aggregate_train(server_round, replies)
        return (None if mean is None else self._noised(mean, server_round)), metrics

    def _noised(self, mean: ArrayRecord, server_round: int) -> ArrayRecord:
        stream = KeyStream(
            secret_key() if self.seed is None else seeded_key(self.seed, server_round)
        )
        deviation = self.noise_multiplier * self.clipping_norm / self._asked
        noised = {}
        for name, array in mean.items():
            values = array.numpy()
            noise = deviation * normal(stream, values.size).reshape(values.shape)
            noised[name] = Array((values + noise).astype(values.dtype))
        return ArrayRecord(noised)


def _arrays(record: ArrayRecord) -> Tree:
    return {name: array.numpy() for name, array in record.items()}
