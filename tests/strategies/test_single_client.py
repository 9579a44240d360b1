"""The strategy that passes one model from client to client."""

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from strategies.single_client import SingleClient


def test_two_replies_are_refused() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    replies = [Message(RecordDict(), node, "train") for node in (1, 2)]
    with pytest.raises(ValueError, match="clients_per_round=1"):
        SingleClient().aggregate_train(1, replies)
