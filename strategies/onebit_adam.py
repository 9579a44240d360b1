"""1-bit Adam (Tang et al. 2021, https://arxiv.org/abs/2102.02888), of rounds.

The gradient of a client is here the change of its turn, g_i = x - y_i. For ``freeze`` rounds of
warm-up clients send it whole, and the server takes steps of Adam without bias correction (as the
authors' code does)::

    m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g^2,    x <- x - eta m / (v^1/2 + eps),

g the mean of the g_i. Then v stays as it is, and signs are exchanged: C(z) = s sign(z) for every
tensor z of d values, s = |z| / d^1/2. With the errors e_i and E, which start at 0,

    client:    z_i = b1 m + (1 - b1) g_i + e_i,    e_i <- z_i - C(z_i)
    server:    Z = mean_i C(z_i) + E,    E <- Z - C(Z),    m <- C(Z)
    all:       x <- x - eta m / (v^1/2 + eps).

The momentum mask: where v is 0, no gradient has ever been; m counts as 0 there, and z, Z, e_i and E
are 0, or the signs would move what has no gradient.

What is ours is the way from steps to rounds, in which not every client takes part. A client whose
last reply was of the round before gets C(Z) alone, and takes the step itself. One that has missed
rounds gets x too, and one that has no v yet, or whose reply was lost, gets x, m and v. The e_i of a
client that was away counts ``decay`` times. Ours too is ``floor``: LoRA's B starts at 0, so that
the gradients of A, and its v, are nearly 0 in the first rounds; at freezing v is raised to that
share of its mean over the tensor, for signs move every value of a tensor by s / (v^1/2 + eps).

The paper can end the warm-up by itself, when v hardly changes any more. Here, with ``steady``, it
lasts until |v|_1 differs by that share at most from what it was 1 / (1 - b2) rounds before. That
comparison is from memory, not checked against the paper.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import ArrayLike
from omegaconf import DictConfig

from fl_app.adapters import full
from fl_app.codecs import Codec, from_spec, sign
from fl_app.config import ConfigError, plain
from fl_app.faults import FaultError
from fl_app.training.local import Answer, Assignment, LocalMethod
from fl_app.training.loop import NO_HOOKS
from fl_app.tree import Tree, zeros
from fl_app.wire.forms import DEFAULT
from fl_app.wire.messages import BY_NODE, FORM
from strategies._checks import check_local, check_reached, check_shared, whole_from, within

CLIENT = "strategies.onebit_adam.OneBitAdamClient"
GRADIENT, MOMENTUM, VARIANCE = "gradient", "momentum", "variance"
FIRST, MISSED, SIGNS = "first", "missed", "signs"
SHARED = ("b1", "eta", "eps")  # what both halves compute with


def step(x: Tree, m: Tree, v: Tree, eta: float, eps: float) -> Tree:
    """Return x - eta m / (v^1/2 + eps), 0 steps where v is 0; the same bits on every machine."""
    m = masked(m, v)
    return _arrays(
        {n: x[n] - np.float32(eta) * (m[n] / (np.sqrt(v[n]) + np.float32(eps))) for n in x}
    )


def masked(z: Tree, v: Tree) -> Tree:
    """Return z, and 0 where v is 0."""
    return {n: np.where(v[n] > 0, z[n], np.float32(0)) for n in z}


class OneBitAdamClient(LocalMethod):
    """Signs of the momentum with error feedback; x, v and e_i between rounds.

    Parameters
    ----------
    b1, eta, eps : float
        Of Adam, as the server's.
    decay : float
        What e_i is multiplied by after rounds that were missed, in [0, 1].
    """

    def __init__(self, b1: float, eta: float, eps: float, decay: float = 1.0) -> None:
        within("[0, 1]", decay=decay)
        self.b1, self.eta, self.eps, self.decay = b1, eta, eps, decay

    def start(self, theta0: Tree) -> Tree:
        """Return x = v = e_i = 0: nothing is known."""
        return joined(*3 * [zeros(theta0)])

    def run(self, given: Assignment) -> Answer:
        """Return g_i in the warm-up, then z_i.

        Raises
        ------
        FaultError
            If the server sends less than this client needs, which has lost what it had.
        """
        if given.form not in (FIRST, MISSED, SIGNS):
            x = given.parts["model"]
            trained = given.train(NO_HOOKS)
            g = {n: x[n] - y for n, y in trained.model.items()}
            return Answer({GRADIENT: _arrays(g)}, trained.metrics, lambda sent: given.memory)
        x, v, e = parted(given.memory)
        if given.form == FIRST:
            v = dict(given.parts[VARIANCE])
        elif not any(one.any() for one in v.values()):
            raise FaultError("lost_memory")
        m = given.parts[MOMENTUM]
        if given.form == SIGNS:
            x = step(x, m, v, self.eta, self.eps)
            full.set(given.model, x)
        else:
            x = dict(given.parts["model"])
            e = {n: np.float32(self.decay) * one for n, one in e.items()}
        trained = given.train(NO_HOOKS)
        b1, rest = np.float32(self.b1), np.float32(1 - self.b1)
        z = {n: b1 * m[n] + rest * (x[n] - y) + e[n] for n, y in trained.model.items()}
        z = masked(z, v)

        def remember(sent: Mapping[str, Tree]) -> Tree:
            """e_i <- z_i - C(z_i)."""
            return joined(x, v, masked({n: z[n] - c for n, c in sent[MOMENTUM].items()}, v))

        return Answer({MOMENTUM: z}, trained.metrics, remember)


def joined(x: Tree, v: Tree, e: Tree) -> Tree:
    """Return the three as one Tree, to be remembered."""
    trees = (("x", x), ("v", v), ("e", e))
    return _arrays({f"{which}/{n}": one for which, tree in trees for n, one in tree.items()})


def parted(memory: Tree) -> tuple[Tree, Tree, Tree]:
    """Undo `joined`."""
    x, v, e = ({n[2:]: one for n, one in memory.items() if n[0] == which} for which in "xve")
    return x, v, e


class OneBitAdam(FedAvg):
    """Adam, whose variance stays after ``freeze`` rounds; then signs, both ways.

    Parameters
    ----------
    freeze : int
        Rounds of warm-up, at least 1. It goes on until a reply of such a round has come, where a
        link has lost them all.
    steady : float
        Most that v may still change for the warm-up to end, see above; 0: any change.
    b1, b2, eta, eps : float
        Of Adam.
    floor : float
        Least share of the mean of v over a tensor that v has after freezing, where it is not 0.
    scope : str or int
        What shares a scale s, see the codec `sign`.
    """

    compressor: Codec

    def __init__(
        self,
        freeze: int,
        b1: float = 0.9,
        b2: float = 0.99,
        eta: float = 0.01,
        eps: float = 1e-3,
        floor: float = 0.0,
        scope: str | int = "tensor",
        steady: float = 0.0,
        **arguments: object,
    ) -> None:
        super().__init__(weighted_by_key="one", **arguments)  # type: ignore[arg-type]
        whole_from(1, freeze=freeze)  # v comes from the warm-up
        within("[0, 1)", b1=b1, b2=b2)
        within("(0, inf)", eta=eta, eps=eps)
        within("[0, inf)", floor=floor)
        within("[0, 1)", steady=steady)
        self.freeze, self.floor, self.steady = freeze, floor, steady
        self.b1, self.b2, self.eta, self.eps = b1, b2, eta, eps
        self.compressor = sign(scope, scale="norm")
        self.x: dict[str, np.ndarray] = {}
        self.m: dict[str, np.ndarray] = {}
        self.v: dict[str, np.ndarray] = {}
        self.error: dict[str, np.ndarray] = {}
        self.frozen = False
        self.norms: list[float] = []  # |v|_1 after each round of the warm-up
        self.last: dict[str, int] = {}  # by client, the round of its last reply in signs

    def check(self, cfg: DictConfig) -> None:
        """Check that all hold the same x, m and v, and that v can freeze; ConfigError if not."""
        check_local(cfg, CLIENT)
        self._check_forms(plain(cfg.strategy.get("forms")) or {})
        if self.steady and cfg.rounds <= self.lag:
            raise ConfigError(
                f"strategy.inner.steady={self.steady} compares v with that of 1 / (1 - b2) = "
                f"{self.lag} rounds before, and the run has rounds={cfg.rounds}: set a smaller "
                "strategy.inner.b2, more rounds, or steady=0"
            )
        check_shared(cfg, self, SHARED, "clients take the server's steps")
        if (down := cfg.codec.down.get("id")) != "fp32":
            raise ConfigError(
                f"codec.down={down}, but clients that get signs and those that get the model must "
                "come to the same x: set codec.down={id:fp32}"
            )
        if self.freeze > cfg.rounds:
            check_reached(cfg, "strategy.inner.freeze", self.freeze, "no sign is ever sent")
        if cfg.federation.sampling == BY_NODE:
            raise ConfigError(
                f"federation.sampling={BY_NODE}, but signs are for clients that took part in the "
                "round before, which must be known: set it to partitions"
            )

    def _check_forms(self, forms: Mapping[str, Any]) -> None:
        """Check that there is a form for every client, whose signs are the server's own."""
        if missing := {DEFAULT, FIRST, MISSED, SIGNS} - {*forms}:
            raise ConfigError(
                f"strategy.forms lacks {', '.join(sorted(missing))}, which some client will need"
            )
        for name in (MISSED, SIGNS):
            down = forms[name]["down"].get(MOMENTUM)
            if down is None or from_spec(down).spec != self.compressor.spec:
                raise ConfigError(
                    f"strategy.forms.{name}.down.{MOMENTUM} should be {self.compressor.spec}, as "
                    "the server rounds m: clients take the same step of x with it"
                )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send x in the warm-up, then to each client what it lacks."""
        self.x = {n: array.numpy() for n, array in arrays.items()}
        messages = list(super().configure_train(server_round, arrays, config, grid))
        if not self.frozen:
            return messages
        records = {"arrays": arrays, MOMENTUM: _record(self.m), VARIANCE: _record(self.v)}
        for message in messages:
            # Until it replies nothing is sure of it: its memory may be lost.
            last = self.last.pop(str(message.metadata.dst_node_id), None)
            form = FIRST if last is None else SIGNS if last == server_round - 1 else MISSED
            (said,) = message.content.config_records.values()
            sent = {
                FIRST: ("arrays", MOMENTUM, VARIANCE),
                MISSED: ("arrays", MOMENTUM),
                SIGNS: (MOMENTUM,),
            }[form]
            message.content = RecordDict(
                {
                    **{name: records[name] for name in sent},
                    self.configrecord_key: ConfigRecord({**said, FORM: form}),
                }
            )
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return x after a step of Adam, or of its compressed form."""
        replies = list(replies)
        mean = _mean(replies, MOMENTUM if self.frozen else GRADIENT)
        _, metrics = super().aggregate_train(server_round, replies)
        if self.frozen:
            self._compress(mean)
            self.last |= {str(one.metadata.src_node_id): server_round for one in replies}
        else:
            self._warm_up(mean)
            if server_round >= self.freeze and self._is_steady():
                self.frozen = True
                self.v = {n: raised(v, self.floor) for n, v in self.v.items()}
        return _record(step(self.x, self.m, self.v, self.eta, self.eps)), metrics

    def _warm_up(self, g: Tree) -> None:
        """Let m and v follow the gradient."""
        b1, b2 = np.float32(self.b1), np.float32(self.b2)
        one = np.float32(1)
        m, v = self.m or zeros(g), self.v or zeros(g)
        self.m = _arrays({n: b1 * m[n] + (one - b1) * g[n] for n in g})
        self.v = _arrays({n: b2 * v[n] + (one - b2) * np.square(g[n]) for n in g})
        self.norms.append(sum(float(x.sum(dtype=np.float64)) for x in self.v.values()))

    @property
    def lag(self) -> int:
        """Return the rounds over which the change of v is looked at."""
        return round(1 / (1 - self.b2))

    def _is_steady(self) -> bool:
        """Return whether v has changed as little as is asked for."""
        if not self.steady:
            return True
        return len(self.norms) > self.lag and (
            abs(self.norms[-1] - self.norms[-1 - self.lag]) <= self.steady * self.norms[-1]
        )

    def _compress(self, mean: Tree) -> None:
        """m <- C(Z) and E <- Z - C(Z)."""
        error, codec = self.error or zeros(mean), self.compressor
        total = masked({n: mean[n] + error[n] for n in mean}, self.v)
        self.m = codec.decode(codec.encode(total, codec.init(total), total)[0], total)
        self.error = masked({n: total[n] - self.m[n] for n in total}, self.v)


def raised(v: np.ndarray, floor: float) -> np.ndarray:
    """Return v, where it is not 0 at least ``floor`` times its mean."""
    least = np.float32(floor * float(np.mean(v, dtype=np.float64))) if v.size else np.float32(0)
    return np.where(v > 0, np.maximum(v, least), v)


def _arrays(tree: Mapping[str, ArrayLike]) -> Tree:
    """Return a Tree of what numpy computed: a number, where an array has no dimensions."""
    return {n: np.asarray(x, np.float32) for n, x in tree.items()}


def _record(tree: Tree) -> ArrayRecord:
    return ArrayRecord({n: Array(x) for n, x in tree.items()})


def _mean(replies: list[Message], part: str) -> Tree:
    """Return the mean of a part over the replies, taken in float64 and rounded once."""
    records = [cast(ArrayRecord, reply.content[part]) for reply in replies]
    return _arrays(
        {n: np.mean([r[n].numpy() for r in records], axis=0, dtype=float) for n in records[0]}
    )
