"""What a client may report about itself."""

import math

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl_app.codecs import WireError
from fl_app.records import PRIVATE_METRICS, TRAIN_METRICS
from strategies.replies import MAX_EXAMPLES, MAX_SECONDS, check_metrics, check_timing


def reply(examples: float = 8, **seconds: object) -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    timing = {"decode": 0.1, "work": 2.0, "encode": 0.0, **seconds}
    content = {
        "metrics": MetricRecord({"num-examples": examples, "loss": 0.5}),
        "timing": ConfigRecord(timing),
    }
    return Message(RecordDict(content), 1, "train")


@pytest.mark.parametrize("examples", [1, 200, MAX_EXAMPLES])
def test_a_number_of_examples_passes(examples: int) -> None:
    assert check_metrics(reply(examples), TRAIN_METRICS)["num-examples"] == examples


@pytest.mark.parametrize(
    "examples", [0, -1, 1e-300, 0.5, MAX_EXAMPLES + 1, 2**53 - 1, 1e300, math.inf, math.nan]
)
def test_an_absurd_number_of_examples_is_refused(examples: float) -> None:
    with pytest.raises(WireError, match="num-examples="):
        check_metrics(reply(examples), TRAIN_METRICS)


def test_a_private_turn_that_tells_its_loss_is_refused() -> None:
    with pytest.raises(WireError, match="loss"):
        check_metrics(reply(), PRIVATE_METRICS)


@pytest.mark.parametrize("seconds", [0.0, 3600.0, MAX_SECONDS])
def test_seconds_pass(seconds: float) -> None:
    assert check_timing(reply(work=seconds))["work"] == seconds


@pytest.mark.parametrize("name", ["decode", "work", "encode"])
@pytest.mark.parametrize("seconds", [-1.0, 1.1 * MAX_SECONDS, math.inf, math.nan, "1", [1.0]])
def test_absurd_seconds_are_refused(name: str, seconds: object) -> None:
    with pytest.raises(WireError, match=f"timing {name}="):
        check_timing(reply(**{name: seconds}))
