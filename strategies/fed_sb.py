"""Fed-SB (Singhal et al. 2025, https://arxiv.org/abs/2502.15436): average R, and nothing else.

With B and A the same on every client, B (mean_k R_k) A = mean_k (B R_k A): the mean of the R is
exactly the mean of the clients' updates, which for a mean of B and a mean of A it is not. Needs
``adapter=lora_sb``; where B, A and R0 come from is the adapter's ``init``.
"""

from collections.abc import Iterable
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg
from omegaconf import DictConfig

from fl_app.config import ConfigError


class FedSB(FedAvg):
    """R <- sum_k w_k R_k (eq. 7), taken in float64 and rounded once.

    ``weighted_by_key`` is "one" for the plain mean of the paper and its code, or "num-examples".
    What else is trained, such as a classifier, is averaged with it.
    """

    mean_type = True

    def check(self, cfg: DictConfig) -> None:
        """Check that the adapter trains an R; ConfigError if not."""
        if cfg.adapter.id != "lora_sb":
            raise ConfigError(
                f"strategy=fed_sb averages R: set adapter=lora_sb, not {cfg.adapter.id}"
            )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the mean of the replies' tensors, and of their metrics."""
        replies = list(replies)
        _, metrics = super().aggregate_train(server_round, replies)
        trees = [reply.content.array_records["arrays"] for reply in replies]
        weights = [
            cast(float, reply.content.metric_records["metrics"][self.weighted_by_key])
            for reply in replies
        ]
        mean = {
            name: Array(_mean([tree[name].numpy() for tree in trees], weights)) for name in trees[0]
        }
        return ArrayRecord(mean), metrics


def _mean(values: list[np.ndarray], weights: list[float]) -> np.ndarray:
    stacked = np.stack([value.astype(np.float64) for value in values])
    return np.average(stacked, axis=0, weights=weights).astype(np.float32)
