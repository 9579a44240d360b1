"""Which node serves which client, from what the nodes themselves say."""

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from strategies.nodes import MAX_PARTITIONS, find_clients


class Nodes:
    """Answers of nodes by id; more of them connect with every look."""

    def __init__(self, answers: dict[int, object], at_once: int = 100) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.answers = answers
        self.looks = 0
        self.at_once = at_once

    def get_node_ids(self) -> list[int]:
        self.looks += 1
        return list(self.answers)[: self.looks * self.at_once]

    def send_and_receive(self, messages, *, timeout=None) -> list[Message]:
        replies = []
        for message in messages:
            answer = self.answers[message.metadata.dst_node_id]
            if isinstance(answer, Error):
                replies.append(Message(answer, reply_to=message))
            else:
                replies.append(Message(RecordDict(answer), reply_to=message))
        return replies[::-1]


def serves(part, parts) -> dict:
    return {"node": ConfigRecord({"partition-id": part, "num-partitions": parts})}


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3))
def test_every_client_has_the_node_of_its_remainder(clients: int, parts: int, at_once) -> None:
    nodes = Nodes({1000 + 7 * p: serves(p, parts) for p in range(parts)}, at_once=parts)
    found, _, transfers = find_clients(nodes, clients, timeout=5)
    assert found == {k: 1000 + 7 * (k % parts) for k in range(clients)}
    assert len(transfers) == 2 * parts


def test_nodes_that_connect_late_are_waited_for() -> None:
    nodes = Nodes({10 + p: serves(p, 3) for p in range(3)}, at_once=1)
    assert find_clients(nodes, 3, timeout=5)[0] == {0: 10, 1: 11, 2: 12}


@pytest.mark.parametrize(
    "answer",
    [
        Error(code=2, reason="the disk is gone"),
        {},
        {"node": ConfigRecord({})},
        serves(3, 3),
        serves(-1, 3),
        serves(0, 0),
        serves("x", 2),
        serves([0], 2),
        serves(0, MAX_PARTITIONS + 1),
    ],
)
def test_a_node_that_answers_nonsense_is_named_and_left_out(answer, caplog) -> None:
    nodes = Nodes({1: serves(0, 2), 2: answer})
    found, _, _ = find_clients(nodes, 2, timeout=0.5)
    assert found == {0: 1}
    assert "node 2 is left out, for what it says it serves" in caplog.text
    assert "clients without a node: [1]" in caplog.text


@pytest.mark.parametrize(
    ("later", "says"),
    [
        (serves(0, 2), "partition-id=0, which node 1 has"),
        (serves(0, 1), "num-partitions=1, where others have 2"),
        (serves(2, 3), "num-partitions=3, where others have 2"),
    ],
)
def test_a_later_node_cannot_take_what_a_first_one_has(later, says: str, caplog) -> None:
    nodes = Nodes({1: serves(0, 2), 666: later, 3: serves(1, 2)}, at_once=1)
    found, _, transfers = find_clients(nodes, 4, timeout=5)
    assert found == {0: 1, 1: 3, 2: 1, 3: 3}
    assert len(transfers) == 4
    assert f"node 666 is left out, for what it says it serves: {says}" in caplog.text


@given(st.integers(1, 9), st.integers(1, 9))
def test_the_rows_of_every_client_are_what_its_node_says(clients: int, parts: int) -> None:
    answers = {}
    for part in range(parts):
        answer = serves(part, parts)
        answer["node"]["rows"] = [100 + k for k in range(part, clients, parts)]
        answers[1000 + part] = answer
    _, rows, _ = find_clients(Nodes(answers, at_once=parts), clients, timeout=5)
    assert rows == {k: 100 + k for k in range(clients)}


@pytest.mark.parametrize("said", [[1], [1, 2, 3], [1, -2], [1, 2**40], ["x", "y"], [1.5, 2.0], 7])
def test_a_node_whose_rows_cannot_be_is_left_out(said, caplog) -> None:
    lies = serves(0, 2)
    lies["node"]["rows"] = said
    found, rows, _ = find_clients(Nodes({1: lies, 2: serves(1, 2)}), 4, timeout=0.5)
    assert found == {1: 2, 3: 2}
    assert rows == {}
    assert "node 1 is left out" in caplog.text


def test_no_node_at_all_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(TimeoutError, match="SuperNodes"):
        find_clients(Nodes({}), 2, timeout=0.3)
