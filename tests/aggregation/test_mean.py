"""The mean that replies are folded into: Flower's own, in any order the same."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from fl_app.aggregation.inner import inner_strategy
from fl_app.aggregation.mean import Mean, is_mean_type
from fl_app.config import CONF_DIR, compose
from tests.rounding import assert_within, summed
from tests.server.test_coded import Rounds

values = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
clients = st.lists(
    st.tuples(st.lists(values, min_size=3, max_size=3), st.integers(1, 2**29 - 1), values),
    min_size=1,
    max_size=12,
)


def mean_of(found) -> Mean:
    mean = Mean()
    for row, weight, loss in found:
        mean.add({"a": np.array(row, np.float32), "b": np.float32(loss)[None]}, weight, {"x": loss})
    return mean


@given(clients, st.data())
def test_the_order_of_arrival_changes_nothing(found, data) -> None:
    first, second = mean_of(found), mean_of(data.draw(st.permutations(found)))
    for name, expected in first.tree().items():
        assert expected.dtype == np.float32
        np.testing.assert_array_equal(second.tree()[name], expected)
    assert first.metrics() == second.metrics()
    assert (first.weight, first.count) == (second.weight, second.count)


@given(clients)
def test_the_mean_is_exact_to_float32(found) -> None:
    rows, weights = [np.array(r, np.float64) for r, _, _ in found], [w for _, w, _ in found]
    exact = [
        sum(int(w) * float(row[i]).as_integer_ratio()[0] * 2**200
            // float(row[i]).as_integer_ratio()[1] for row, w in zip(rows, weights, strict=True))
        / (sum(weights) * 2**200)
        for i in range(3)
    ]  # fmt: skip
    np.testing.assert_array_equal(mean_of(found).tree()["a"], np.array(exact, np.float32))


@given(st.lists(values, min_size=1, max_size=5), st.integers(1, 2**29 - 1))
def test_the_mean_of_one_is_that_one(row, weight) -> None:
    mean = Mean()
    mean.add({"a": np.array(row, np.float32)}, weight, {})
    np.testing.assert_array_equal(mean.tree()["a"], np.array(row, np.float32))


@given(clients)
def test_it_is_flowers_mean(found) -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1

    def reply(row, weight: float) -> Message:
        content = RecordDict({
            "arrays": ArrayRecord({"a": Array(np.array(row, np.float32))}),
            "metrics": MetricRecord({"num-examples": weight}),
        })  # fmt: skip
        message = Message(RecordDict({"config": ConfigRecord()}), 1, "train")
        message.metadata.__dict__["_message_id"] = "x"
        return Message(content, reply_to=message)

    arrays, _ = FedAvg().aggregate_train(1, [reply(row, weight) for row, weight, _ in found])
    largest = max(np.abs(row).max() for row, _, _ in found)
    # Shares are rounded, products, and their sum.
    bound = summed(len(found) + 2, max(1, largest))
    assert_within(mean_of(found).tree()["a"], arrays["a"].numpy(), bound)


def test_which_strategies_need_only_the_mean() -> None:
    found = {}
    for path in (CONF_DIR / "strategy").glob("*.yaml"):
        adapter = {"fed_sb": "adapter=lora_sb"}.get(path.stem, "")
        found[path.stem] = is_mean_type(inner_strategy(compose(f"strategy={path.stem} {adapter}")))
    assert {name for name, is_mean in found.items() if is_mean} >= {
        "fedavg", "fedprox", "fedadam", "fedyogi", "fed_sb",
    }  # fmt: skip
    assert not any(found[name] for name in ("single_client", "flora", "fedex_lora", "flex_lora"))
    assert not is_mean_type(FedMedian())

    class Own(FedAvg):
        pass

    assert not is_mean_type(Own())


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedprox"])
def test_replies_are_let_go_of_as_they_arrive(tmp_path: Path, strategy: str) -> None:
    """Of all that arrives, at most two models are in memory at any time."""
    rounds = Rounds(tmp_path, f"strategy={strategy} codec=nf4 clients_per_round=3")
    messages = rounds.coded.configure_train(1, rounds.arrays, ConfigRecord(), rounds.grid)
    ids = rounds.grid.push_messages(messages)
    alive: list[weakref.ref] = []
    most = 0

    def arriving():
        nonlocal most
        for one in ids:
            (reply,) = rounds.grid.pull_messages([one])
            alive.append(weakref.ref(reply))
            yield reply
            del reply
            gc.collect()
            most = max(most, sum(one() is not None for one in alive))

    rounds.coded.aggregate_train(1, arriving())
    assert len(alive) == 3
    assert most <= 2
