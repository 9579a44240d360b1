"""Replies that a client has made up, to every method: named, left out, and in no end's memory.

Two rounds are run. The third one is then ended again and again from the same state, each time with
another reply of client 1, and has to end as if that client had not replied.
"""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from fl_app.aggregation import inner_state
from fl_app.aggregation.inner import inner_strategy
from fl_app.codecs import from_spec
from fl_app.server.coded import Coded
from fl_app.wire.forms import Form
from fl_app.wire.frame import framed, pack, unpack
from tests.combinations import combinations
from tests.messages import frame, put
from tests.server.test_coded import Rounds

METHODS = {
    "dgc": "experiment=dgc",
    "onebit_adam": "experiment=onebit_adam strategy.inner.freeze=1",
    "scallion": "experiment=scallion",
    "scafcom": "experiment=scafcom codec.up.inner.links.0.fraction=0.1",
    "aquila": "experiment=aquila federation.clients=3 strategy.local.beta=0",
    "fedzip": "experiment=fedzip",
    "flasc": "experiment=flasc strategy.inner.tiers=2",
    "safari": "experiment=safari link.up.loss=0.0",
    "fedep": "experiment=fedep",
    "sign_mask": "experiment=sign_mask adapter.r=2 adapter.init=1e-3",
    "fl_tac": "strategy=fl_tac strategy.inner.features=0 strategy.inner.column=fields codec=fp32 "
    "strategy.inner.slots=9 strategy.inner.clusters=3 adapter.r=2",
    "rm_lora": "experiment=rm_lora adapter.r=4 strategy.inner.k=2",
    "fedkseed": "experiment=fedkseed strategy.inner.pro=true strategy.inner.seeds=64",
    "feedsign": "experiment=feedsign strategy.inner.directions=8",
    "rate_control": "strategy=rate_control codec=thin codec.reference=theta0 link=adsl",
}
LAST = 3


class Third:
    """A run before the third round, and what comes of it by the reply of client 1."""

    def __init__(self, folder: Path, words: str) -> None:
        self.rounds = Rounds(folder, f"{words} clients_per_round=3")
        self.here, self.grid = self.rounds.here, self.rounds.grid
        for number in range(1, LAST):
            self.grid.said = {}
            self.rounds.round(number)
        self.before = self.grid.said[1]
        self.state = deepcopy(self.rounds.coded.state(self.rounds.arrays))
        self.arrays = self.rounds.arrays
        self.grid.said = {}

    def outcome(self, tamper: Callable[[Message], Message | None]) -> dict[str, Any]:
        """Return what the server then has."""
        coded = Coded(inner_strategy(self.here.cfg), self.here, self.rounds.ledger)
        coded.restore(deepcopy(self.state), self.arrays)
        self.rounds.coded, self.rounds.arrays = coded, self.arrays
        self.grid.tamper = {1: tamper}
        tree, _ = self.rounds.round(LAST)
        accepted = {str(client): coded.uplink.accepted(client) for client in range(3)}
        return {"model": tree, "method": inner_state.get(coded.inner), "accepted": accepted}

    def form(self, reply: Message) -> Form:
        fingerprint = frame(reply)[2:10]
        return next(f for f in self.here.forms.values() if f.up.whole.fingerprint == fingerprint)

    def cut(self, change: Callable[[tuple[bytes, ...]], Any]) -> Callable[[Message], Message]:
        """Return what changes the sections of a reply's frame, whose checksum then fits."""

        def tamper(reply: Message) -> Message:
            codec = self.form(reply).up.whole
            sections = unpack(frame(reply), codec, self.here.manifest).sections
            changed = tuple(change(sections))
            return put(reply, framed(changed, codec.fingerprint, self.here.manifest))

        return tamper

    def all_of(self, value: float, name: str | None = None) -> Callable[[Message], Message]:
        """Return what sends one value everywhere, in the form of the reply or in another one."""

        def tamper(reply: Message) -> Message:
            form = self.here.forms[name] if name else self.form(reply)
            codec, like = form.up.whole, self.here.references(form.up)
            tree = {n: np.full_like(x, value) for n, x in like.items()}
            wire, _ = codec.encode(tree, codec.init(like), like)
            return put(reply, pack(wire, codec, self.here.manifest))

        return tamper

    def other_parts(self, reply: Message) -> Message:
        codec, theta0 = from_spec({"id": "fp32"}), self.here.theta0
        wire, _ = codec.encode(theta0, codec.init(theta0), theta0)
        return put(reply, pack(wire, codec, self.here.manifest))

    def again(self, reply: Message) -> Message:
        """Say what the client said in the round before, as it said it."""
        return put(reply, frame(self.before), since=LAST - 2)

    def tampers(self, method: str) -> dict[str, Callable[[Message], Message | None]]:
        """Return ways to change a reply, by what is said of it; of two a codec has the word."""
        own = {
            "dgc": {"values of base_model": self.all_of(0.1)},
            "flasc": {"a change of ": self.all_of(0.1)},
            "onebit_adam": {"used another codec": self.all_of(0.1, "default")},
            "rm_lora": {"used another codec": self.all_of(0.1, "default")},
            "fedkseed": {"strategy.local.clip allows 0 to": self.all_of(3.0)},
            "rate_control": {"used another codec": self.all_of(0.1, "default")},
        }
        return {
            **own.get(method, {}),
            "the sender used another codec": self.other_parts,
            ": ": self.cut(lambda all: [b""] * len(all)),
            "client 1: ": self.cut(lambda all: (all[0] + b"\x01" * 9, *all[1:])),
            "the reply builds on round 1": self.again,
            f"since={LAST} should be": lambda reply: put(reply, since=LAST),
            "num-examples=0 should be": lambda reply: put(reply, **{"num-examples": 0}),
            "num-examples=1000000000000 should": lambda r: put(r, **{"num-examples": 10**12}),
            "loss=1e": lambda reply: put(reply, loss=1e300),
            "loss=nan": lambda reply: put(reply, loss=float("nan")),
            "work=-1.0 should be": lambda reply: put(reply, work=-1.0),
            "which client it is of": lambda reply: put(reply, **{"partition-id": 2}),
        }


def differ(found: Any, expected: Any) -> list[str]:
    """Return where two states are not the same."""
    if isinstance(expected, list):
        found, expected = (dict(enumerate(one)) for one in (found, expected))
    if isinstance(expected, dict):
        if {*found} != {*expected}:
            return [f"keys {sorted({*found} ^ {*expected})}"]
        return [f"{k}/{w}" for k in expected for w in differ(found[k], expected[k])]
    return [] if np.array_equal(found, expected) else [""]


@pytest.mark.parametrize(
    "method", combinations(METHODS, suite=["dgc", "onebit_adam", "aquila", "flasc", "fedkseed"])
)
def test_a_reply_that_nobody_asked_for_is_named_and_leaves_no_trace(
    tmp_path: Path, caplog, method: str
) -> None:
    third = Third(tmp_path, METHODS[method])
    honest = third.outcome(lambda reply: reply)
    without = third.outcome(lambda reply: None)
    assert differ(honest, without)
    for says, tamper in third.tampers(method).items():
        caplog.clear()
        found = third.outcome(tamper)
        said = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
        assert len(said) == 1, says
        assert said[0].startswith(f"round {LAST}, left out: client 1: "), said
        assert says in said[0]
        assert not differ(found, without), says


BOUNDED = ("fedep", "sign_mask", "feedsign")  # by the server's half, or by the codec


@pytest.mark.parametrize(
    "method",
    combinations([m for m in METHODS if m not in ("dgc", "flasc", "rate_control", "fedkseed")],
                 suite=["onebit_adam", "fedep"]),
)  # fmt: skip
def test_the_largest_floats_are_scaled_down_and_the_run_goes_on(
    tmp_path: Path, caplog, method: str
) -> None:
    third = Third(tmp_path, METHODS[method])
    third.outcome(third.all_of(3e38))
    said = "of client 1 has a root mean square of" in caplog.text
    assert said == (method not in BOUNDED)
    third.grid.tamper, third.grid.said = {}, None
    third.rounds.round(LAST + 1)
    state = {"x": third.rounds.tree, "method": inner_state.get(third.rounds.coded.inner)}
    assert all_finite(state)


def all_finite(state: Any) -> bool:
    if isinstance(state, (dict, list)):
        return all(map(all_finite, state.values() if isinstance(state, dict) else state))
    return not isinstance(state, (np.ndarray, float)) or bool(np.isfinite(state).all())
