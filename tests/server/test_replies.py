"""What a client may report about itself."""

import math

import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl_app.codecs import WireError
from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from fl_app.server.replies import (
    MAX_EXAMPLES,
    MAX_LOSS,
    MAX_SECONDS,
    capped,
    check_metrics,
    check_since,
    check_timing,
)
from fl_app.wire.messages import EVALUATE_METRICS, PRIVATE_METRICS, TRAIN_METRICS


def said(**values: object) -> dict[str, object]:
    """What a reply's head says, whatever it is that says it."""
    seconds = {"decode": 0.1, "work": 2.0, "encode": 0.0}
    return {"num-examples": 8, "loss": 0.5, **seconds, **values}


def reply(**scores: object) -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    content = {"metrics": MetricRecord(scores)} if scores else {}
    return Message(RecordDict(content), 1, "train")


@pytest.mark.parametrize("examples", [1, 200, MAX_EXAMPLES])
def test_a_number_of_examples_passes(examples: int) -> None:
    found = check_metrics(said(**{"num-examples": examples}), reply(), TRAIN_METRICS)
    assert found["num-examples"] == examples


@pytest.mark.parametrize(
    "examples",
    [0, -1, 1e-300, 0.5, 1.5, 8.0, MAX_EXAMPLES + 1, 2**53 - 1, 2**63 - 1, 1e300, math.inf,
     math.nan, [8], [8] * 10**6],
    ids=lambda x: str(x)[:12],
)  # fmt: skip
def test_a_weight_is_a_positive_whole_number_and_no_larger_than_can_be(examples: object) -> None:
    with pytest.raises(WireError, match="num-examples=") as caught:
        check_metrics(said(**{"num-examples": examples}), reply(), TRAIN_METRICS)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("loss", [-1.0, 0, 5, 1e30, MAX_LOSS])
def test_a_loss_passes(loss: float) -> None:
    assert check_metrics(said(loss=loss), reply(), TRAIN_METRICS)["loss"] == loss


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, 1e300, [0.5]])
def test_a_loss_whose_mean_would_be_none_is_refused(loss: object) -> None:
    with pytest.raises(WireError, match="loss="):
        check_metrics(said(loss=loss), reply(), TRAIN_METRICS)


@pytest.mark.parametrize("score", [-0.1, 1.1, 1e300, math.nan, [1.0]])
def test_a_score_is_from_0_to_1(score: object) -> None:
    names = (*EVALUATE_METRICS, "accuracy")
    head = {"num-examples": 3}
    with pytest.raises(WireError, match="accuracy="):
        check_metrics(head, reply(accuracy=score), names)
    for fits in (0, 0.25, 1.0):
        assert check_metrics(head, reply(accuracy=fits), names)["accuracy"] == fits
    for twice in (reply(accuracy=0.5, **head), reply(accuracy=0.5, loss=0.5), reply()):
        with pytest.raises(WireError, match="the reply has metrics"):
            check_metrics(head, twice, names)


def test_twenty_thousand_metrics_are_not_listed() -> None:
    message = reply(**{f"metric-{k}": 1 for k in range(20_000)})
    with pytest.raises(WireError, match="20002") as caught:
        check_metrics(said(), message, TRAIN_METRICS)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("target", ["", "strategy."])
def test_a_metric_is_no_weight(target: str) -> None:
    """With a loss of minus the sum of the others' a client would move the model at will."""
    strategy = "fedavg" if not target else "fedmedian"
    with pytest.raises(ConfigError, match="weighted_by_key='loss' should be one of"):
        check(compose(
            f"strategy={strategy} clients_per_round=3 strategy.inner.{target}weighted_by_key=loss"
        ))  # fmt: skip


def test_a_client_counts_for_no_more_examples_than_the_server_allows() -> None:
    metrics = check_metrics(said(**{"num-examples": MAX_EXAMPLES}), reply(), TRAIN_METRICS)
    assert capped(metrics, None) is metrics
    assert capped(metrics, 100) == MetricRecord({"num-examples": 100, "loss": 0.5})
    assert capped(MetricRecord({"num-examples": 7}), 100) == MetricRecord({"num-examples": 7})


def test_a_private_turn_that_tells_its_loss_is_refused() -> None:
    with pytest.raises(WireError, match="loss"):
        check_metrics(said(), reply(), PRIVATE_METRICS)


@pytest.mark.parametrize("seconds", [0.0, 3600.0, MAX_SECONDS])
def test_seconds_pass(seconds: float) -> None:
    assert check_timing(said(work=seconds))["work"] == seconds


@pytest.mark.parametrize("name", ["decode", "work", "encode"])
@pytest.mark.parametrize("seconds", [-1.0, 1.1 * MAX_SECONDS, math.inf, math.nan, "1", [1.0], True])
def test_absurd_seconds_are_refused(name: str, seconds: object) -> None:
    with pytest.raises(WireError, match=f"{name}="):
        check_timing(said(**{name: seconds}))


@pytest.mark.parametrize("since", [7, 8, -1, 2**62, 3.0, True, "3", [3], b"3" * 10**6])
def test_a_state_that_no_earlier_round_can_have_made_is_refused(since: object) -> None:
    with pytest.raises(WireError, match="since=") as caught:
        check_since(said(since=since), 7)
    assert len(str(caught.value)) < 120


def test_a_state_of_an_earlier_round_passes() -> None:
    assert check_since(said(), 7) == 0
    assert [check_since(said(since=k), 7) for k in (0, 6)] == [0, 6]
