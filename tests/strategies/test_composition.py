"""Methods with codecs, and with Fed-SB's R as the tree: each runs, or is refused with a reason."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from tests import small
from tests.combinations import combinations
from tests.server.test_coded import Rounds, same

METHODS = {
    "dgc": "",
    "onebit_adam": "strategy.inner.freeze=1",
    "scallion": "",
    "scafcom": "",
    "aquila": "clients_per_round=3",
    "fedzip": "codec.reference=broadcast",
    "flasc": "",
    "safari": "link=lossy link.up.loss=0.1",
    "rate_control": "link=2g",
    "quantization_aware": "strategy.inner._target_=flwr.serverapp.strategy.FedAvg",
}
# Of these, which have codecs or adapters of their own, with some codecs alone.
OWN = {
    "fedep": "federation.max_update_rms=null",
    "rm_lora": "strategy.inner.refresh=round",
    "sign_mask": "adapter=sign_mask adapter.r=2 adapter.init=1e-3",
    "fl_tac": "strategy.inner.features=0 strategy.inner.column=fields strategy.inner.slots=9 "
    "strategy.inner.clusters=3 adapter.r=2",
    "fedkseed": "",
    "feedsign": "",
}
FEW = ("nf4", "uniform_entropy", "sign")
TREES = {
    "grid": "codec=grid",
    **{name: f"codec={name}" for name in ("fp32", "nf4", "uniform_entropy", "thin")},
    **{name: f"codec={name}" for name in ("sign", "top_k", "fedzip")},
    "R": "adapter=lora_sb codec=nf4",
    "R in fp32": "adapter=lora_sb codec=fp32",
    "R by fedzip": "adapter=lora_sb codec=fedzip",
}
BY_PLACE = "remembers values by their place, and the places change"
TWICE = "codec.up remembers what it lost, and so does this method"
ONE_MEMORY = "a codec that remembers has to be the same"
FP32_DOWN = r"set codec.down=\{id:fp32\}"
AS_THEY_ARE = "which sends the largest values as they are: set codec=fp32"
REBUILT = "where both ends rebuild the model from theta0"
MEMORIES = ("sign", "top_k")
REFUSED = {
    **{("dgc", tree): BY_PLACE for tree in MEMORIES},
    **{("flasc", tree): BY_PLACE for tree in MEMORIES},
    **{("onebit_adam", tree): ONE_MEMORY for tree in MEMORIES},
    **{("rate_control", tree): ONE_MEMORY for tree in MEMORIES},
    **{("rate_control", tree): "is above default on the ladder" for tree in ("fp32", "R in fp32")},
    **dict.fromkeys(itertools.product(("scallion", "scafcom", "aquila"), MEMORIES), TWICE),
    **{("onebit_adam", t): FP32_DOWN for t in ("nf4", "uniform_entropy", "thin", "grid", "R")},
    **{("flasc", tree): AS_THEY_ARE for tree in ("nf4", "uniform_entropy", "thin", "grid", "R")},
    **{("fedzip", tree): "set codec=fedzip" for tree in TREES if "fedzip" not in tree},
    **{("quantization_aware", t): r"codec\.up" for t in TREES if t != "grid"},
}  # fmt: skip
REFUSED |= {
    **{("fedep", "sign"): TWICE, ("rm_lora", "sign"): ONE_MEMORY},
    **dict.fromkeys((("fl_tac", "sign"), ("fedkseed", "sign")), BY_PLACE),
    **dict.fromkeys(itertools.product(("fedkseed", "feedsign"), FEW[:2]), REBUILT),
    ("feedsign", "sign"): REBUILT,
}
ALL = [*itertools.product(METHODS, TREES), *itertools.product(OWN, FEW)]
RUN = [pair for pair in ALL if pair not in REFUSED]


def words(method: str, tree: str) -> str:
    return f"strategy={method} clients_per_round=2 {TREES[tree]} {({**METHODS, **OWN})[method]}"


@pytest.mark.parametrize(("method", "tree"), REFUSED)
def test_it_is_refused_with_the_reason(method: str, tree: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[method, tree]):
        check(compose(f"{small.RUN} {words(method, tree)}"))


@pytest.mark.parametrize(
    ("method", "tree"),
    combinations(
        RUN,
        suite=[("dgc", "thin"), ("aquila", "R"), ("safari", "sign"), ("rate_control", "fedzip")],
    ),
)
def test_it_trains(tmp_path: Path, method: str, tree: str) -> None:
    check(compose(f"{small.RUN} {words(method, tree)}"))
    rounds = Rounds(tmp_path, words(method, tree))
    for number in (1, 2):
        rounds.round(number)
    assert all(np.isfinite(x).all() for x in rounds.tree.values())
    assert not same(rounds.tree, rounds.here.theta0)
    assert any(row.payload_bytes for row in rounds.ledger.rows if row.direction == "up")


def test_a_method_without_a_memory_is_asked_for_none(tmp_path: Path) -> None:
    """DGC that sends everything: its sparse part has no tensor."""
    rounds = Rounds(tmp_path, "strategy=dgc strategy.local.rho=1 codec=fp32 clients_per_round=2")
    for number in (1, 2):
        rounds.round(number)
    assert not same(rounds.tree, rounds.here.theta0)
