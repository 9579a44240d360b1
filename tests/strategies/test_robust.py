"""The promises of the robust strategies: what f hostile clients among n can do to the model."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app.aggregation.inner import inner_strategy
from fl_app.build import open_session
from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from fl_app.server.coded import Coded
from fl_app.wire.frame import pack
from fl_app.wire.ledger import Ledger
from fl_app.wire.records import to_record, to_tree
from strategies.robust import Robust, TooManyHostileError
from tests import small
from tests.loopback import Loopback
from tests.messages import put

NEEDS = {  # the fewest clients for f hostile ones
    "fedmedian": lambda f: 2 * f + 1,
    "fedtrimmedavg": lambda f: 3 * f,  # with beta = 0.34
    "krum": lambda f: 2 * f + 3,
    "multikrum": lambda f: 2 * f + 3,
    "bulyan": lambda f: 4 * f + 3,
}
OPTIONS = {"fedtrimmedavg": "strategy.inner.strategy.beta=0.34"}


@pytest.fixture(autouse=True, scope="module")
def _a_run_for_messages() -> None:
    Loopback("", 1)


composed = cache(compose)


def built(strategy: str, f: int) -> Robust:
    options = f"strategy.inner.num_malicious_nodes={f} {OPTIONS.get(strategy, '')}"
    return inner_strategy(composed(f"strategy={strategy} clients_per_round=10 {options}"))


def replies(models: list[np.ndarray]) -> list[Message]:
    return [
        Message(RecordDict({
            "arrays": ArrayRecord({"a": Array(x[:2].copy()), "b": Array(x[2:].reshape(1, -1))}),
            "metrics": MetricRecord({"one": 1.0, "loss": 0.5, "num-examples": 3}),
        }), client, "train")
        for client, x in enumerate(models)
    ]  # fmt: skip


def aggregated(strategy: Robust, models: list[np.ndarray]) -> np.ndarray:
    arrays, metrics = strategy.aggregate_train(1, replies(models))
    assert metrics["loss"] == pytest.approx(0.5)
    return np.concatenate([arrays["a"].numpy(), arrays["b"].numpy().ravel()])


@st.composite
def federations(draw, name: str, far: bool):
    """Honest models around a start, and hostile ones anywhere, or anywhere but near."""
    f = draw(st.integers(1, 3))
    n = NEEDS[name](f) + draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    start = rng.normal(size=6) * 10.0 ** draw(st.integers(-3, 4))
    honest = start + rng.uniform(-1, 1, (n - f, 6)) * 10.0 ** draw(st.integers(-3, 0))
    honest = honest.astype(np.float32)
    size = 10.0 ** draw(st.integers(5 if far else -4, 37))
    hostile = (start + rng.choice([-1, 1], (f, 6)) * rng.uniform(0.5, 1, (f, 6)) * size).astype(
        np.float32
    )
    if draw(st.booleans()):
        hostile[:] = hostile[0]  # in collusion
    order = rng.permutation(n)
    return f, honest, [np.concatenate([honest, hostile])[i] for i in order]


def within(x: np.ndarray, honest: np.ndarray, slack: float = 0.0) -> bool:
    low, high = honest.min(0).astype(np.float64), honest.max(0).astype(np.float64)
    slack = slack * (high - low) + 1e-9 * np.abs(honest).max()
    return bool((x >= low - slack).all() and (x <= high + slack).all())


@pytest.mark.parametrize("name", ["fedmedian", "fedtrimmedavg"])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_every_coordinate_stays_among_the_honest_ones(name: str, data) -> None:
    f, honest, models = data.draw(federations(name, far=False))
    assert within(aggregated(built(name, f), models), honest)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_krum_returns_one_clients_model_and_no_far_one(data) -> None:
    f, honest, models = data.draw(federations("krum", far=True))
    result = aggregated(built("krum", f), models)
    assert any((result == x).all() for x in honest)


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_multi_krum_averages_honest_models_alone(data) -> None:
    f, honest, models = data.draw(federations("multikrum", far=True))
    strategy = built("multikrum", f)
    strategy.strategy.num_nodes_to_select = 1 + (len(models) - f - 3)
    assert within(aggregated(strategy, models), honest)


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_bulyan_stays_near_the_honest_ones(data) -> None:
    """No further out than they are apart; hostile models may be near, as Krum could choose them."""
    f, honest, models = data.draw(federations("bulyan", far=False))
    assert within(aggregated(built("bulyan", f), models), honest, slack=1.0)


@settings(deadline=None, max_examples=20)
@given(data=st.data(), name=st.sampled_from(sorted(NEEDS)))
def test_too_few_replies_fail_and_hostile_ones_are_no_matter_of_order(data, name: str) -> None:
    f, _, models = data.draw(federations(name, far=True))
    strategy = built(name, f)
    result = aggregated(strategy, models)
    assert (aggregated(built(name, f), models) == result).all()
    np.testing.assert_allclose(aggregated(strategy, models[::-1]), result, rtol=1e-12)
    least = NEEDS[name](f)
    if name != "fedtrimmedavg":
        strategy.check_replies(least)
    with pytest.raises(TooManyHostileError, match=f"n={least - 1} replies, f={f} hostile"):
        strategy.aggregate_train(1, replies(models[: least - 1]))


def test_krum_is_not_misled_by_the_size_of_the_start() -> None:
    """In float32, Flower's distances of these models are rounding error alone."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=20_000)
    spread = np.array([1.3, 1.0, 0.2, 1.1, 1.2])  # the third is nearest to all others
    honest = [(start + 1e-3 * s * rng.normal(size=start.size)).astype(np.float32) for s in spread]
    hostile = (start + 5e-3).astype(np.float32)
    result = aggregated(built("krum", 1), [*honest, hostile])
    assert (result == honest[2]).all()


# ---- through the real ClientApp ---------------------------------------------------------------


def test_a_hostile_client_among_honest_ones(tmp_path: Path) -> None:
    """One of five moves every value by 0.9, within the bound on updates, and sends it as NF4."""
    overrides = f"{small.RUN} federation.clients=5 clients_per_round=5 codec=nf4 local_epochs=1"
    here = open_session(f"{overrides} strategy=krum")
    moved = {name: x + np.float32(0.9) for name, x in here.theta0.items()}
    wire, _ = here.up.encode(moved, here.up.init(here.theta0), here.theta0)
    frame = pack(wire, here.up, here.manifest)

    def attack(reply: Message) -> Message:
        return put(reply, frame)

    said: dict[int, Message] = {}  # which clients say whatever the server will do with it

    def distance(strategy: str) -> float:
        here = open_session(f"{overrides} strategy={strategy}")
        grid = Loopback(f"{overrides} strategy={strategy}", 5, {3: attack})
        grid.said = said
        coded = Coded(inner_strategy(here.cfg), here, Ledger(tmp_path / "ledger.csv"))
        asked = coded.configure_train(1, to_record(here.theta0), ConfigRecord(), grid)
        arrays, _ = coded.aggregate_train(1, grid.send_and_receive(asked))
        tree = to_tree(arrays, like=here.theta0)
        return max(float(np.abs(tree[k] - here.theta0[k]).max()) for k in tree)

    assert distance("fedavg") > 0.15
    for name in ("fedmedian", "fedtrimmedavg", "krum", "multikrum"):
        assert 0 < distance(name) < 0.1, name


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        *[(f"strategy={name}", "raise clients_per_round") for name in NEEDS],
        ("strategy=fedmedian clients_per_round=2", "2f"),
        ("strategy=fedmedian clients_per_round=3 strategy.inner.num_malicious_nodes=0", "f >= 1"),
        ("strategy=fedtrimmedavg clients_per_round=4", "int"),
        ("strategy=fedtrimmedavg clients_per_round=9 strategy.inner.strategy.beta=0.5", "beta"),
        ("strategy=krum clients_per_round=4", "2f"),
        ("strategy=krum clients_per_round=6 strategy.inner.num_malicious_nodes=2", "2f"),
        ("strategy=krum clients_per_round=6 strategy.inner.num_malicious_nodes=x", "number"),
        ("strategy=multikrum clients_per_round=5 strategy.inner.strategy.num_nodes_to_select=3",
         "num_nodes_to_select"),
        ("strategy=bulyan clients_per_round=6", "4f"),
        ("strategy=krum clients_per_round=6 "
         "strategy.inner.strategy._target_=flwr.serverapp.strategy.FedAvg "
         "~strategy.inner.strategy.num_malicious_nodes", "no robust strategy"),
    ],
)  # fmt: skip
def test_settings_that_promise_nothing_are_refused(overrides: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(compose(overrides))


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_settings_that_hold_are_accepted(name: str) -> None:
    check(compose(f"strategy={name} clients_per_round=7"))
