"""One client per round: the model is passed from client to client.

The communication-optimal entry of the PFL-DocVQA competition trains one client per round for many
epochs. With one reply there is nothing to average, so the update is relayed: what one client sent
is what the next one receives.
"""

from collections.abc import Iterable

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg
from omegaconf import DictConfig

from fl_app.config import ConfigError


class SingleClient(FedAvg):
    """Relay the one reply of a round as the new model, the very ArrayRecord.

    ``Coded`` recognises the record and sends the bytes on as they came, so a lossy codec loses
    once per client, not twice (and NF4 of an NF4 value is exact anyway).
    """

    def check(self, cfg: DictConfig) -> None:
        """Check that rounds have one client; ConfigError if not."""
        if cfg.clients_per_round != 1:
            raise ConfigError(
                f"clients_per_round={cfg.clients_per_round} should be 1 with "
                "strategy=single_client; strategy=fedavg averages more"
            )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the reply's model and metrics.

        Raises
        ------
        ValueError
            If more than one client replied: ``clients_per_round`` is not 1.
        """
        replies = list(replies)
        if len(replies) > 1:
            raise ValueError(
                f"single_client got {len(replies)} replies in round {server_round}: set "
                "clients_per_round=1, or use strategy=fedavg to average"
            )
        arrays, metrics = super().aggregate_train(server_round, replies)
        return (replies[0].content.array_records["arrays"] if arrays else None), metrics
