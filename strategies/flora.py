"""FLoRA (Wang et al. 2024, https://arxiv.org/abs/2409.05976): the clients' factors stacked.

With p_k the clients' shares::

    (B_1 ... B_K) (p_1 A_1; ...; p_K A_K) = sum_k p_k B_k A_k

is exactly the mean of the updates, of rank K r: it is added to the frozen weights, and the factors
start anew. Needs ``adapter=lora`` and a base that is not quantized.

The paper draws A anew every round; here A and B go back to their start, A of the seed and B = 0.
That start is sent like any model, so that a client gets K + 1 times the bytes of a mean of A and B:
K of the patch, as published, and one of a start that is always the same. The stack is sent as it
is, also where the product would be smaller, K r (out + in) > out in. ``codec.down`` codes the patch
as it does a model; server and clients add what arrives of it.
"""

from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from omegaconf import DictConfig

from fl_app.tree import Tree
from strategies._lora_factors import A_KEY, check_patching, factors, patch, put, stacked, weights


class FLoRA(FedAvg):
    """W0 <- W0 + alpha/r sum_k p_k B_k A_k, B <- 0; what else is trained is averaged.

    ``weighted_by_key`` is "num-examples" for shares by data, or "one" for equal ones.
    """

    _start: ArrayRecord | None = None
    _patch: Tree

    def check(self, cfg: DictConfig) -> None:
        """Check that clients train both factors over a base that can change; ConfigError if not."""
        check_patching(cfg)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the model; the first one is what later rounds start from too."""
        if self._start is None:
            self._start = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Stack the replies' factors; return the start, and the mean of what is no factor."""
        replies = list(replies)
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None or self._start is None:
            return None, metrics
        p = weights(replies, self.weighted_by_key)
        self._patch = {}
        for name, b, a in factors(replies):
            self._patch |= patch(name, *stacked(b, p[:, None, None] * a))
            put(arrays, name, np.zeros_like(b[0]), self._start[name + A_KEY].numpy())
        return arrays, metrics

    def take_patch(self) -> Tree:
        """Return the stacked factors of the last ``aggregate_train``."""
        return self._patch
