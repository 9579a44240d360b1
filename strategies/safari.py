"""SAFARI: surrogates of lost updates (Mao et al. 2022, arXiv 2204.02321; similarity second hand).

Clients send sparse updates U_i over links that lose some. In a round, R are the clients whose
update arrived and F those whose update was lost. The server puts the update of the most similar
client that arrived in place of a lost one::

    j*(i) = argmax over j in R of sim(i, j)
    w     <- w + sum over i in R of p_i U_i + sum over i in F of p_i U_j*(i)
    c_ij  = (1 + cos(U_i, U_j)) / 2                                          of i, j in R
    sim   <- (n_ij sim + c_ij) / (n_ij + 1)                                  the mean over rounds

with weights p_i that sum to 1 over the clients asked, by their examples: of a lost client those
that it said last. A client that was never seen together with one in R has no surrogate: p_i is
shared by all of R, which is averaging without it. Where nothing arrived, w stays.

Similarity, choice and table are those of FL-FDMS (Wang et al. 2022, arXiv 2205.13222, and its
code), a sister method: SAFARI's own are not published. Its sparse training is reconstructed as
training of all values and a ``codec.up`` that keeps the largest, as ``experiment=safari`` has it.
"""

from collections.abc import Iterable
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from omegaconf import DictConfig

from fl_app.config import ConfigError
from strategies._checks import switches

Update = dict[str, np.ndarray]


class Safari(FedAvg):
    """Average over all clients asked, with surrogates for those whose update was lost.

    Parameters
    ----------
    surrogates : bool
        False: lost clients are left out, which is the renormalized mean of FedAvg.
    """

    def __init__(self, surrogates: bool = True, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        switches(surrogates=surrogates)
        self.surrogates = surrogates
        self.asked: list[int] = []
        self.w: Update = {}
        self.similarity: dict[str, float] = {}  # "i j" with i < j -> sim(i, j)
        self.together: dict[str, int] = {}  # "i j" -> n_ij
        self.examples: dict[str, float] = {}  # client -> those that it said last

    def check(self, cfg: DictConfig) -> None:
        """Check that clients are known before they answer; ConfigError if not."""
        if cfg.federation.sampling == "nodes":
            raise ConfigError(
                "federation.sampling=nodes, but a surrogate is for a client that was asked and did "
                "not answer, which must be known: set it to partitions"
            )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send w, and note whom."""
        self.w = {name: array.numpy() for name, array in arrays.items()}
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self.asked = sorted(message.metadata.dst_node_id for message in messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return w and the updates of all clients asked, or of their surrogates."""
        replies = sorted(replies, key=lambda reply: reply.metadata.src_node_id)
        updates: dict[int, Update] = {}
        for reply in replies:
            client = reply.metadata.src_node_id
            sent = cast(ArrayRecord, reply.content[self.arrayrecord_key])
            updates[client] = {n: sent[n].numpy().astype(np.float64) - x for n, x in self.w.items()}
            said = cast(MetricRecord, reply.content["metrics"])
            self.examples[str(client)] = float(cast(float, said[self.weighted_by_key]))
        self._compare(updates)
        weights = self._weights([*updates])
        w = {
            name: x + sum(weights[client] * u[name] for client, u in updates.items())
            for name, x in self.w.items()
        }
        metrics = super().aggregate_train(server_round, replies)[1]
        return ArrayRecord({n: Array(x.astype(np.float32)) for n, x in w.items()}), metrics

    def _weights(self, arrived: list[int]) -> dict[int, float]:
        """Return how much each update that arrived counts; together they are 1."""
        p = {i: self.examples[str(i)] for i in arrived}
        shared = 0.0
        for i in self.asked if self.surrogates else ():
            if i in p:
                continue
            mean = sum(self.examples[str(j)] for j in arrived) / len(arrived)
            weight = self.examples.get(str(i), mean)
            if (surrogate := self.surrogate(i, arrived)) is None:
                shared += weight
            else:
                p[surrogate] += weight
        total, own = sum(p.values()) + shared, sum(p.values())
        return {i: (x + shared * x / own) / total for i, x in p.items()}

    def surrogate(self, i: int, arrived: Iterable[int]) -> int | None:
        """Return j*(i), the least of equals; None where sim(i, j) is known for no j in R."""
        known = [
            (-self.similarity[key], j) for j in arrived if (key := pair(i, j)) in self.together
        ]
        return min(known)[1] if known else None

    def _compare(self, updates: dict[int, Update]) -> None:
        """Add the similarities of the clients that arrived together."""
        flat = {i: np.concatenate([x.ravel() for x in u.values()]) for i, u in updates.items()}
        lengths = {i: float(np.linalg.norm(x)) for i, x in flat.items()}
        clients = sorted(flat)
        for at, i in enumerate(clients):
            for j in clients[at + 1 :]:
                product = lengths[i] * lengths[j]
                c = (1 + float(flat[i] @ flat[j]) / product) / 2 if product else 0.5
                key = pair(i, j)
                n = self.together.get(key, 0)
                self.similarity[key] = (n * self.similarity.get(key, 0.0) + c) / (n + 1)
                self.together[key] = n + 1


def pair(i: int, j: int) -> str:
    """Return the key of two clients in a table; keys of a state are texts."""
    return f"{min(i, j)} {max(i, j)}"
