"""HideNseek (Vallapuram et al. 2022, https://arxiv.org/abs/2206.04385): clients send signs.

With ``adapter=sign_mask`` a client trains scores s of random weights, of which only m = sign(s) is
in the model. It sends m, one bit a score, and the server takes the mean or the majority::

    g = sum_i p_i m_i  in [-1, 1]^k     ("mean"),     or its sign, 0 counting as +    ("majority").

Scores of the next round start from theta0 g, theta0 > 0 being the start of all scores: the nearer
clients are to disagreeing about an entry, the sooner its sign flips. The majority can go down in a
bit a score too, by ``codec.down={id: sign}``, whose one magnitude is theta0's.

How signs are combined, and what scores start from, is reconstructed: of the paper only the abstract
was read. Tensors that are no scores, such as a head, are averaged as they are.
"""

from collections.abc import Iterable
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from omegaconf import DictConfig

from fl_app.config import ConfigError, plain
from fl_app.training.local import Answer, Assignment, LocalMethod
from fl_app.training.loop import NO_HOOKS
from fl_app.tree import Tree, zeros
from strategies._checks import check_local
from strategies._lora_factors import weights
from strategies._signs import signs

CLIENT = "strategies.sign_mask.SignMaskClient"
SIGNS, DENSE = "signs", "dense"
VOTES = ("mean", "majority")
SCORES = ".scores"  # the end of the name of a tensor of scores


class SignMaskClient(LocalMethod):
    """Training of scores, of which the signs are sent."""

    unscaled = (SIGNS,)

    def like(self, part: str, theta0: Tree) -> Tree:
        """Return zeros for the scores, or for the tensors that are none."""
        return zeros({n: x for n, x in theta0.items() if n.endswith(SCORES) == (part == SIGNS)})

    def run(self, given: Assignment) -> Answer:
        """Return m, and the change of other tensors."""
        x = given.parts["model"]
        trained = given.train(NO_HOOKS)
        m = {n: signs(s) for n, s in trained.model.items() if n.endswith(SCORES)}
        dense = {n: np.asarray(y - x[n]) for n, y in trained.model.items() if n not in m}
        return Answer({SIGNS: m, DENSE: dense}, trained.metrics)


class SignMask(FedAvg):
    """The mean or the majority of the signs.

    Parameters
    ----------
    vote : str
        "mean" or "majority".
    """

    def __init__(self, vote: str = "majority", **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        if vote not in VOTES:
            raise ValueError(f"vote={vote} should be one of {VOTES}")
        self.vote = vote
        self.theta0: dict[str, np.ndarray] = {}
        self.x: dict[str, np.ndarray] = {}

    def check(self, cfg: DictConfig) -> None:
        """Check that there are scores; ConfigError if not."""
        check_local(cfg, CLIENT)
        if self.vote == "mean" and plain(cfg.codec.down).get("id") == "sign":
            raise ConfigError(
                "strategy.inner.vote=mean has sizes that codec.down={id: sign} leaves out, so that "
                "it would be the majority: set codec.down={id: fp32}"
            )
        has_head = cfg.adapter.get("modules_to_save") or cfg.task.id == "sequence_classification"
        if has_head and plain(cfg.codec.down).get("id") == "sign":
            raise ConfigError(
                "codec.down={id: sign} leaves nothing but signs of a head, which is trained and "
                "sent whole: set codec.down={id: fp32}"
            )
        if cfg.adapter.id != "sign_mask":
            raise ConfigError(
                f"adapter.id={cfg.adapter.id} trains weights; strategy=sign_mask "
                "sends signs of scores: set adapter=sign_mask"
            )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send theta0 g."""
        self.x = {n: array.numpy() for n, array in arrays.items()}
        self.theta0 = self.theta0 or self.x
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return theta0 g, and the mean of other tensors."""
        replies = list(replies)
        dense = [cast(ArrayRecord, reply.content.pop(DENSE)) for reply in replies]
        shares = weights(replies, self.weighted_by_key)
        mean, metrics = super().aggregate_train(server_round, replies)
        if mean is None:
            return None, metrics
        new = {}
        for name, x in self.x.items():
            if name in mean:
                g = mean[name].numpy()
                new[name] = self.theta0[name] * (g if self.vote == "mean" else signs(g))
            else:
                change = np.average([d[name].numpy() for d in dense], axis=0, weights=shares)
                new[name] = x + change
        return ArrayRecord({n: Array(np.asarray(v, np.float32)) for n, v in new.items()}), metrics
