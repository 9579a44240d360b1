"""FlexLoRA (Bai et al. 2024, https://arxiv.org/abs/2402.11505): SVD of the mean update.

With p_k the clients' shares::

    sum_k p_k B_k A_k = U S V^T,        B <- U_r S_r,   A <- V_r^T,

the r largest singular values: the best rank-r form of the mean of the updates (Eckart-Young), which
is exact if that mean has no higher rank, as with one reply. The frozen weights stay as they are, so
that any base will do, and both directions cost what a mean of A and B does. Needs ``adapter=lora``.

The paper's point is that clients may have ranks of their own, each getting as many singular values.
Here all have ``adapter.r``: the two sides of a transfer agree on one set of shapes (theta0). That S
goes to B is reconstructed.
"""

from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg
from omegaconf import DictConfig

from strategies._lora_factors import check_adapter, factors, put, stacked, weights


class FlexLoRA(FedAvg):
    """Redistribute the SVD of the mean update; what else is trained is averaged.

    ``weighted_by_key`` is "num-examples" for shares by data, or "one" for equal ones.
    """

    def check(self, cfg: DictConfig) -> None:
        """Check that clients train both factors; ConfigError if not."""
        check_adapter(cfg)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the best B and A of every module."""
        replies = list(replies)
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None:
            return None, metrics
        p = weights(replies, self.weighted_by_key)
        for name, b, a in factors(replies):
            put(arrays, name, *best(*stacked(b, p[:, None, None] * a), r=b.shape[2]))
        return arrays, metrics


def best(b: np.ndarray, a: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray]:
    """Return B [out, r] and A [r, in], the best rank-r form of a product.

    The SVD is that of the small matrix between orthonormal bases of both sides; the product is
    never formed.

    Parameters
    ----------
    b, a : array
        [out, rank] and [rank, in].
    """
    q_b, r_b = np.linalg.qr(b)
    q_a, r_a = np.linalg.qr(a.T)
    u, s, vt = np.linalg.svd(r_b @ r_a.T, full_matrices=False)
    left, right = (q_b @ u * s)[:, :r], (vt @ q_a.T)[:r]
    rest = r - len(right)  # of a module with a side below r
    return np.pad(left, ((0, 0), (0, rest))), np.pad(right, ((0, rest), (0, 0)))
