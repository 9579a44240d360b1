"""FedEx-LoRA (Singhal et al. 2024, https://arxiv.org/abs/2410.09432): FedAvg made exact.

The product of the means is not the mean of the products. FedEx-LoRA averages B and A as FedAvg does
and adds what is missing to the frozen weights, with p_k the clients' shares::

    W0 <- W0 + alpha/r (sum_k p_k B_k A_k - B' A'),     B' = sum_k p_k B_k,   A' = sum_k p_k A_k.

Needs ``adapter=lora`` and a base that is not quantized.

The residual is sent in factors. Since sum_k p_k (B_k - B') = 0, it is also::

    sum_k p_k (B_k - B') (A_k - A_K),

whose last term is 0: rank (K - 1) r, without a decomposition and without loss. With B' and A' a
client gets K times the bytes of FedAvg's model, which is what the paper's tables count for both
FedEx-LoRA and FLoRA. From a single reply the residual is 0 and nothing is sent.
"""

from collections.abc import Iterable

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg
from omegaconf import DictConfig

from fl_app.tree import Tree
from strategies._lora_factors import check_patching, factors, patch, put, stacked, weights


class FedExLoRA(FedAvg):
    """The means of B and A, and the residual; what else is trained is averaged.

    ``weighted_by_key`` is "num-examples" for shares by data, or "one" for equal ones.
    """

    _patch: Tree

    def check(self, cfg: DictConfig) -> None:
        """Check that clients train both factors over a base that can change; ConfigError if not."""
        check_patching(cfg)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return FedAvg's model; `take_patch` has what it misses."""
        replies = list(replies)
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None:
            return None, metrics
        p = weights(replies, self.weighted_by_key)[:, None, None]
        self._patch = {}
        for name, b, a in factors(replies):
            mean_b, mean_a = (p * b).sum(axis=0), (p * a).sum(axis=0)
            self._patch |= patch(name, *stacked((p * (b - mean_b))[:-1], (a - a[-1])[:-1]))
            put(arrays, name, mean_b, mean_a)
        return arrays, metrics

    def take_patch(self) -> Tree:
        """Return the residual of the last ``aggregate_train``."""
        return self._patch
