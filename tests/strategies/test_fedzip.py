"""FedZip between server and clients: what arrives is what the codec says, and its mean."""

from pathlib import Path

import numpy as np
import pytest

from fl_app.config import ConfigError, compose
from fl_app.preflight import check, check_strategy
from tests.rounding import assert_within, summed
from tests.server.test_coded import Rounds, cohort

FEDZIP = "strategy=fedzip codec=fedzip clients_per_round=2"
LINK = "codec.up.links.1"


def test_the_model_is_the_weighted_mean_of_what_three_values_a_tensor_say(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, FEDZIP)
    here, start = rounds.here, rounds.tree
    tree, _ = rounds.round(1)
    clients = cohort(rounds.ledger.rows)
    weights = [sum(map(len, here.documents(p)["questions"])) for p in clients]
    sent = []
    for partition in clients:
        trained = rounds.client(partition, 1, start)
        wire, _ = here.up.encode(trained, here.up.init(start), start)
        up = next(r for r in rounds.ledger.rows if (r.partition, r.direction) == (partition, "up")
                  and r.kind == "train")  # fmt: skip
        assert up.payload_bytes == wire.nbytes
        sent.append(here.up.decode(wire, start))
        for name, values in sent[-1].items():
            change = trained[name] - start[name]
            moved = values != start[name]
            assert np.count_nonzero(moved) <= max(1, round(0.2 * values.size))
            assert np.abs(change[moved]).min(initial=np.inf) >= np.abs(change[~moved]).max() / 2
    for name, values in tree.items():
        parts = np.array([one[name] for one in sent], np.float64)
        mean = np.average(parts, axis=0, weights=weights)
        assert_within(values, mean, summed(2, np.abs(parts).max()))
    size = sum(x.size for x in tree.values())
    up = sum(r.payload_bytes for r in rounds.ledger.rows if r.direction == "up")
    assert up <= len(clients) * (1.2 / 8 * size + 12 * len(tree))


def test_a_client_that_learned_nothing_sends_a_few_bytes_that_change_nothing(tmp_path) -> None:
    here = Rounds(tmp_path, FEDZIP).here
    wire, _ = here.up.encode(here.theta0, here.up.init(here.theta0), here.theta0)
    same = here.up.decode(wire, here.theta0)
    assert all(np.array_equal(same[name], x) for name, x in here.theta0.items())
    assert wire.nbytes <= 10 * len(here.theta0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("codec=fp32", r"codec\.up has no fedzip"),
        ("codec=fedzip codec.reference=theta0", r"codec\.reference=theta0 should be broadcast"),
    ],
)
def test_what_is_no_fedzip_is_refused(more: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_strategy(compose(f"strategy=fedzip {more}"))


@pytest.mark.parametrize(
    "more",
    [
        "",
        f"{LINK}.pinned=false {LINK}.scope=tree",
        "'codec.up={id: chain, links: [{id: delta}, {id: error_feedback, inner: {id: fedzip}}]}'",
    ],
)
def test_its_options_and_error_feedback_go_with_it(more: str) -> None:
    check(compose(f"experiment=fedzip {more}"))


def test_secure_sums_are_refused() -> None:
    with pytest.raises(ConfigError, match="has no sum"):
        check(compose("strategy=secure_fedavg codec=fedzip clients_per_round=4"))
