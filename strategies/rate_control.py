"""A rate controller: each client sends as accurately as its link allows within a deadline.

Inspired by the adaptation of rates across layers that surveys of multimedia over wireless links
describe (application, transport and link choose by what the channel lets through); none of them is
reproduced. A ladder of codecs goes from a floor, level 0, to the most accurate. The server measures
each client's goodput g, in bytes a second, smoothed over its rounds::

    g      <- (1 - s) g + s p / t          of a reply of p bytes that was t seconds under way;
                                           p / t = 0 where none came
    budget =  g T safety                   bytes within the deadline of T seconds
    fits   =  the last level of the ladder whose bytes are at most the budget, else the floor

and the level of the client's next reply follows ``fits`` with a hysteresis of one level: it falls
to ``fits`` at once, and rises to the level below ``fits``, or to the best level where that fits.
So a link between two levels does not change them every round, and what is sent is never beyond the
budget, but at the floor. A client of which no reply has come sends at the floor.

What a level weighs for a client is measured too: its own largest reply so far; before there is one,
the median of the other clients', which one that sends what it likes does not move far; before there
is any, what the codec makes of Gaussian changes. On a simulated link t is that of the reply; on a
real one also what the question's way and polling take, so that g is a lower bound, and T should be
longer.

The level is a form (``fl_app.wire.forms``), which the question names in a byte. Codecs of a ladder
remember nothing: the rest that one level left out is none of another's.
"""

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from omegaconf import DictConfig

from fl_app.codecs import from_spec
from fl_app.codecs.by_part import MODEL
from fl_app.config import ConfigError, plain
from fl_app.tree import Tree
from fl_app.wire.forms import DEFAULT
from fl_app.wire.messages import BY_NODE, BYTES, FORM, TRAVEL, TRAVEL_SECONDS
from strategies._checks import within

SAMPLE: Tree = {"x": np.zeros((64, 64), np.float32)}  # of which a ladder's bytes are compared
LEAST_SECONDS = 1e-3  # what a reply takes at least: nothing shorter is measured


def fitting(budget: float, sizes: list[int]) -> int:
    """Return the last level whose bytes are at most ``budget``, the floor if there is none."""
    return max((k for k, size in enumerate(sizes) if size <= budget), default=0)


def next_level(budget: float, sizes: list[int], level: int | None) -> int:
    """Return the level after ``level``, None for the first one.

    Parameters
    ----------
    budget : float
        Bytes.
    sizes : list of int
        The bytes of each level, from the floor up.
    """
    fits = fitting(budget, sizes)
    if level is None or fits <= level or fits == len(sizes) - 1:
        return fits
    last = fitting(budget, sizes[:fits])  # below ``fits``, the best that fits too
    return max(level, last)


class RateControl(FedAvg):
    """FedAvg, with the codec of each reply chosen by the client's link.

    Parameters
    ----------
    forms : mapping
        ``strategy.forms``: the ladder, from the floor to the most accurate.
    deadline : float
        T, the seconds that a reply may be under way.
    safety : float
        In (0, 1].
    smoothing : float
        s, the share of the newest measurement, in (0, 1].

    Raises
    ------
    ValueError
        Other values.
    """

    def __init__(
        self,
        forms: Mapping[str, Any],
        deadline: float,
        safety: float = 0.8,
        smoothing: float = 0.5,
        **arguments: object,
    ) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        within("(0, inf)", deadline=deadline)
        within("(0, 1]", safety=safety, smoothing=smoothing)
        self.deadline, self.safety, self.smoothing = deadline, safety, smoothing
        self.names = [str(name) for name in forms]
        self.codecs = {name: forms[name]["up"] for name in forms}
        self.goodput: dict[str, float] = {}  # by client, g
        self.level: dict[str, int] = {}  # by client, chosen last by its goodput
        self.sizes: dict[str, dict[str, int]] = {}  # by level and client, the largest reply's bytes
        self.asked: dict[str, int] = {}  # by client that was asked and has not replied, its level

    def check(self, cfg: DictConfig) -> None:
        """Check that the ladder is one of the model's codecs; ConfigError if not."""
        forms = plain(cfg.strategy.get("forms")) or {}
        if self.names[:1] != [DEFAULT]:
            raise ConfigError(
                f"strategy.forms should have {DEFAULT} first, the floor of the ladder"
            )
        for name, form in forms.items():
            if {*form["up"]} != {MODEL} or {*form["down"]} != {MODEL}:
                raise ConfigError(f"strategy.forms.{name} should have the part {MODEL} alone")
            if form["down"][MODEL] != plain(cfg.codec.down):
                raise ConfigError(
                    f"strategy.forms.{name}.down should be {{model: ${{codec.down}}}}: the ladder "
                    "is of replies"
                )
        self._check_ladder()
        if cfg.federation.sampling == BY_NODE:
            raise ConfigError(
                f"federation.sampling={BY_NODE}, but a level is for the link of a client, which "
                "must be known: set it to partitions"
            )

    def _check_ladder(self) -> None:
        """Check that there are levels, each at least as long as the one below."""
        if len(self.names) == 1:
            raise ConfigError(
                f"strategy.forms has {DEFAULT} alone: a ladder needs a level above the floor"
            )
        sizes = [gaussian_bytes(up[MODEL], SAMPLE) for up in self.codecs.values()]
        for name, size, above, more in zip(
            self.names, sizes, self.names[1:], sizes[1:], strict=False
        ):
            if more < size:
                raise ConfigError(
                    f"strategy.forms: {above} is above {name} on the ladder, and makes {more:,} "
                    f"bytes of {SAMPLE['x'].size:,} values, where {name} makes {size:,}: order "
                    f"the levels by their bytes ({DEFAULT}, the floor, is codec.up)"
                )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the model, and to each client its level."""
        x = {name: array.numpy() for name, array in arrays.items()}
        guesses = {
            name: gaussian_bytes(up[MODEL], x)
            for name, up in self.codecs.items()
            if name not in self.sizes
        }
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for client in self.asked.keys() & self.goodput.keys():
            self._measure(client, 0.0)
        self.asked = {}
        for message in messages:
            client = str(message.metadata.dst_node_id)
            if client in self.goodput:
                budget = self.goodput[client] * self.deadline * self.safety
                sizes = self._sizes(client, guesses)
                self.level[client] = next_level(budget, sizes, self.level.get(client))
            self.asked[client] = self.level.get(client, 0)
            form = ConfigRecord({**config, FORM: self.names[self.asked[client]]})
            # All messages of FedAvg share one content.
            message.content = RecordDict(
                {self.arrayrecord_key: arrays, self.configrecord_key: form}
            )
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Measure, and return the mean."""
        replies = list(replies)
        for reply in replies:
            client, way = str(reply.metadata.src_node_id), cast(ConfigRecord, reply.content[TRAVEL])
            size, seconds = cast(int, way[BYTES]), cast(float, way[TRAVEL_SECONDS])
            name = self.names[self.asked.pop(client)]
            known = self.sizes.setdefault(name, {})
            known[client] = max(size, known.get(client, 0))
            self._measure(client, size / max(LEAST_SECONDS, seconds))
        return super().aggregate_train(server_round, replies)

    def _measure(self, client: str, now: float) -> None:
        """Let g follow what was measured now."""
        last = self.goodput.get(client, now)
        self.goodput[client] = (1 - self.smoothing) * last + self.smoothing * now

    def _sizes(self, client: str, guesses: Mapping[str, int]) -> list[int]:
        """Return the bytes of every level for a client."""
        return [
            guesses[name]
            if name in guesses
            else self.sizes[name].get(client, int(median(self.sizes[name].values())))
            for name in self.names
        ]


def gaussian_bytes(spec: Mapping[str, Any], x: Tree) -> int:
    """Return the bytes that a codec writes of x changed by Gaussian values."""
    codec, rng = from_spec(spec), np.random.default_rng(0)
    changed = {n: np.asarray(v + rng.standard_normal(v.shape), np.float32) for n, v in x.items()}
    return codec.encode(changed, codec.init(x, 0), x)[0].nbytes
