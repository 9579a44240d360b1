"""HideNseek's two halves: signs up, their mean or majority down."""

from pathlib import Path

import numpy as np
import pytest
from flwr.supercore.task_identity import TaskIdentity

from fl_app.aggregation.inner import EVERYONE
from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from fl_app.tree import scalars
from strategies.sign_mask import DENSE, SIGNS, SignMask, SignMaskClient, signs
from tests.server.test_coded import same
from tests.server.test_parts import check_goes_on
from tests.strategies.federation import Federation
from tests.strategies.test_scallion import check_no_secure_sums

EPS = float(np.finfo(np.float32).eps)
N, START = 3, 0.02
THETA0 = {
    "a_scores": np.full(11, START, np.float32),
    "head": np.random.default_rng(0).normal(0, 1, (2, 3)).astype(np.float32),
}


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


@pytest.fixture(autouse=True)
def names(monkeypatch):
    # Parameters of a plain module have no dots in their names.
    monkeypatch.setattr("strategies.sign_mask.SCORES", "_scores")


def drawn(client: int, x):
    """Return what a client makes of x: scores of random signs, another head."""
    rng = np.random.default_rng(client)
    return {n: v + rng.normal(0, 1, v.shape).astype(np.float32) for n, v in x.items()}


def federation(vote: str, clients: int = N, turn=drawn) -> Federation:
    strategy = SignMask(vote, weighted_by_key="one", **EVERYONE)
    return Federation(strategy, SignMaskClient(), turn, THETA0, clients)


def test_one_clients_signs_are_the_models() -> None:
    for vote in ("mean", "majority"):
        here = federation(vote, clients=1)
        here.round(1)
        own = drawn(0, THETA0)
        expected = np.float32(START) * signs(own["a_scores"])
        assert (here.model["a_scores"] == expected).all()
        np.testing.assert_allclose(here.model["head"], own["head"], rtol=0, atol=8 * EPS)


def test_equal_clients_lose_nothing() -> None:
    here = federation("mean", turn=lambda client, x: drawn(0, x))
    here.round(1)
    assert same(here.arrived[0][SIGNS], here.arrived[2][SIGNS])
    assert (here.model["a_scores"] == START * here.arrived[0][SIGNS]["a_scores"]).all()


def test_the_mean_is_within_one_start_and_the_majority_is_its_sign() -> None:
    mean, majority = federation("mean"), federation("majority")
    mean.round(1)
    majority.round(1)
    m = np.mean([signs(drawn(k, THETA0)["a_scores"]) for k in range(N)], axis=0)
    np.testing.assert_allclose(mean.model["a_scores"], START * m, rtol=4 * EPS)
    assert (majority.model["a_scores"] == np.float32(START) * signs(m)).all()
    for here in (mean, majority):
        head = np.mean([drawn(k, THETA0)["head"] for k in range(N)], axis=0, dtype=float)
        np.testing.assert_allclose(here.model["head"], head, rtol=0, atol=16 * EPS)
        assert [*here.arrived[0][DENSE]] == ["head"]


def test_scores_of_a_round_start_from_the_servers_and_never_grow() -> None:
    here = federation("majority")
    for number in range(1, 6):
        here.round(number)
        assert (np.abs(here.model["a_scores"]) == np.float32(START)).all()


def test_a_tie_is_plus() -> None:
    assert signs(np.array([0.0, -0.0, -1e-9, 2])).tolist() == [1, 1, -1, 1]


@pytest.mark.parametrize("density", [1.0, 0.25])
def test_a_score_costs_a_bit_each_way_and_runs_go_on(tmp_path: Path, monkeypatch, density) -> None:
    monkeypatch.undo()
    words = (
        f"experiment=sign_mask adapter.r=2 adapter.density={density} adapter.init=1e-3 batch_size=1"
    )
    rounds = check_goes_on(tmp_path, words)
    theta0 = rounds.here.theta0
    bits = -(-scalars(theta0) // 8)
    rows = [row for row in rounds.ledger.rows if row.kind == "train" and row.payload_bytes]
    assert {row.payload_bytes for row in rows if row.direction == "up"} == {bits}
    assert {row.payload_bytes for row in rows if row.direction == "down"} == {bits + 4}
    assert all(row.frame_bytes - row.payload_bytes < 200 for row in rows)
    magnitudes = {float(abs(x).max()) for x in rounds.tree.values() if x.size}
    assert magnitudes == {float(np.float32(rounds.here.cfg.adapter.init))}
    flipped = sum(int((x < 0).sum()) for x in rounds.tree.values())
    assert 0 < flipped < scalars(theta0)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("strategy.inner.vote=all", "vote=all should be one of"),
        ("strategy.inner.vote=mean", r"it would be the majority: set codec.down=\{id: fp32\}"),
        ("adapter.modules_to_save=[spatial]", "nothing but signs of a head"),
        ("adapter=lora", "adapter.id=lora trains weights"),
        ("strategy.local._target_=strategies.fedprox.FedProxClient", "strategy.local should be"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words: str, says: str) -> None:
    run = "federation.clients=3 clients_per_round=1 experiment=sign_mask"
    with pytest.raises(ConfigError, match=says):
        check(compose(f"{run} {words}"))


def test_secure_sums_are_refused_with_the_reason() -> None:
    check_no_secure_sums("sign_mask")
