"""SAFARI: surrogates keep the weight of what a link has lost, and come from clients alike."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app.aggregation.inner import EVERYONE, Cohort
from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from strategies.safari import Safari
from tests.server.test_coded import same
from tests.server.test_parts import whole_and_resumed
from tests.strategies.test_scaffold import identity  # noqa: F401

N, D = 6, 5
START = ArrayRecord({"x": Array(np.zeros(D, np.float32))})
subsets = st.sets(st.integers(0, N - 1), min_size=1)


def asked(strategy, number: int, clients=range(N), start=START) -> dict[int, Message]:
    messages = strategy.configure_train(number, start, ConfigRecord(), Cohort([*clients]))
    return {message.metadata.dst_node_id: message for message in messages}


def round_of(strategy, number, updates, arrived, examples=None, start=START) -> np.ndarray:
    """Return the model after a round in which ``arrived`` of all clients came through."""
    replies = []
    for client, message in asked(strategy, number, range(len(updates)), start).items():
        if client in arrived:
            sent = ArrayRecord({"x": Array((start["x"].numpy() + updates[client]).astype("f4"))})
            said = MetricRecord({"num-examples": 1 if examples is None else examples[client]})
            content = RecordDict({"arrays": sent, "metrics": said})
            replies.append(Message(content, reply_to=message))
    return strategy.aggregate_train(number, replies)[0]["x"].numpy()


def drawn(seed: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)


@given(st.integers(0, 999), st.lists(st.integers(1, 50), min_size=N, max_size=N))
@settings(deadline=None, max_examples=20)
def test_without_losses_it_is_fedavg_whatever_the_table_says(seed, examples) -> None:
    ours, theirs = Safari(**EVERYONE), FedAvg(**EVERYONE)
    for number in (1, 2):
        updates = drawn(seed + number)
        found = round_of(ours, number, updates, range(N), examples)
        assert found == pytest.approx(
            round_of(theirs, number, updates, range(N), examples), abs=1e-6
        )


@given(st.lists(subsets, min_size=1, max_size=5), st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_among_clients_that_are_all_alike_losses_change_nothing(rounds, seed) -> None:
    update, strategy = drawn(seed)[0], Safari(**EVERYONE)
    for number, arrived in enumerate(rounds, start=1):
        found = round_of(strategy, number, [update] * N, arrived)
        assert found == pytest.approx(update, rel=1e-5)


@given(st.lists(subsets, min_size=1, max_size=6), st.integers(0, 999), st.booleans())
@settings(deadline=None, max_examples=30)
def test_weights_sum_to_one_and_are_of_clients_that_arrived(rounds, seed, surrogates) -> None:
    strategy = Safari(surrogates, **EVERYONE)
    examples = np.random.default_rng(seed).integers(1, 100, N).tolist()
    for number, arrived in enumerate(rounds, start=1):
        round_of(strategy, number, drawn(seed + number), arrived, examples)
        weights = strategy._weights(sorted(arrived))
        assert {*weights} == arrived
        assert min(weights.values()) > 0
        assert sum(weights.values()) == pytest.approx(1)
        for lost in {*range(N)} - arrived:
            assert strategy.surrogate(lost, sorted(arrived)) in {*arrived, None}


def groups(seed: int) -> np.ndarray:
    """Return updates of two groups: even and odd clients go opposite ways, with a little noise."""
    way = drawn(seed)[0]
    return np.array([way * (1 if k % 2 == 0 else -0.7) for k in range(N)]) + 0.01 * drawn(seed + 1)


def test_surrogates_are_of_the_own_group_once_all_have_met() -> None:
    strategy = Safari(**EVERYONE)
    round_of(strategy, 1, groups(0), range(N))
    for lost in range(N):
        for arrived in ([k for k in range(N) if k != lost], [(lost + 2) % N, (lost + 1) % N]):
            assert strategy.surrogate(lost, arrived) % 2 == lost % 2


def test_without_a_history_it_is_the_mean_of_what_arrived() -> None:
    ours, theirs = Safari(**EVERYONE), Safari(surrogates=False, **EVERYONE)
    assert ours.surrogate(0, [1, 2]) is None
    updates = drawn(3)
    found = round_of(ours, 1, updates, [1, 2, 5])
    assert found == pytest.approx(updates[[1, 2, 5]].mean(0), rel=1e-5)
    assert found == pytest.approx(round_of(theirs, 1, updates, [1, 2, 5]), rel=1e-6)


def test_with_a_group_that_is_mostly_lost_surrogates_are_nearer_than_the_mean_of_the_rest() -> None:
    """And zeros in their place are farther than either."""
    rng = np.random.default_rng(0)
    common = 3 * drawn(9)[0]
    errors: dict[str, list[float]] = {"surrogates": [], "left out": [], "zeros": []}
    strategies = {"surrogates": Safari(**EVERYONE), "left out": Safari(False, **EVERYONE)}
    for number in range(1, 60):
        updates = common + groups(7) + 0.01 * drawn(number)
        even = {k for k in (0, 2, 4) if rng.random() > 0.9} or {2}
        arrived = range(N) if number == 1 else sorted({1, 3, 5} | even)
        whole = updates.mean(0)
        for name, strategy in strategies.items():
            found = round_of(strategy, number, updates, arrived)
            errors[name].append(float(np.linalg.norm(found - whole)))
        zeros = updates[[*arrived]].sum(0) / N
        errors["zeros"].append(float(np.linalg.norm(zeros - whole)))
    surrogates, left_out, zeros = (np.mean(errors[name]) for name in errors)
    assert surrogates < 0.1 * left_out
    assert left_out < zeros


def test_a_lost_client_counts_by_what_it_said_last_and_similarity_is_the_mean_over_rounds() -> None:
    """From a model that is not zero, which updates are measured from."""
    start = ArrayRecord({"x": Array(np.full(D, 3, np.float32))})
    strategy, one, two = Safari(**EVERYONE), np.eye(D)[0], np.eye(D)[1]
    round_of(strategy, 1, [one, one, two], range(3), [1, 1, 7], start)
    round_of(strategy, 2, [one, -one, two], range(3), [1, 1, 7], start)
    assert strategy.similarity == pytest.approx({"0 1": 0.5, "0 2": 0.5, "1 2": 0.5})
    round_of(strategy, 3, [two, one, two], range(3), [1, 1, 7], start)
    assert strategy.similarity == pytest.approx({"0 1": 0.5, "0 2": 2 / 3, "1 2": 0.5})
    found = round_of(strategy, 4, [one, two, None], [0, 1], [1, 1, None], start)
    assert found == pytest.approx(3 + (8 * one + two) / 9)  # client 0 stands for 2, of weight 7


def test_clients_must_be_known_beforehand() -> None:
    with pytest.raises(ConfigError, match="set it to partitions"):
        check(compose("strategy=safari codec=fp32 federation.sampling=nodes"))


def test_the_experiment_is_valid() -> None:
    check(compose("experiment=safari"))


def test_a_run_that_goes_on_is_the_one_that_never_stopped(tmp_path: Path) -> None:
    words = (
        "strategy=safari codec=fp32 clients_per_round=3 federation.max_failures=0.9 link=lossy "
        "link.up.loss=0.4 seed=4"
    )
    whole, second = whole_and_resumed(tmp_path, words)
    assert second.coded.inner.together == whole.coded.inner.together != {}
    assert same(second.tree, whole.tree)
