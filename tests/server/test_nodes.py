"""Which node serves which client, from what the nodes themselves say."""

from collections.abc import Iterator
from itertools import count

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import InMemoryGrid
from hypothesis import given
from hypothesis import strategies as st

from fl_app.config import ConfigError, compose, plain
from fl_app.preflight import check_node
from fl_app.server import nodes
from fl_app.server.nodes import MAX_PARTITIONS, find_clients


class Clock:
    """Time in which a look takes a millisecond, however busy the machine is."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1e-3
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(scope="module", autouse=True)
def clock() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(nodes, "time", Clock())
        yield


class Nodes:
    """Answers of nodes by id; more of them connect with every look. One of None stays silent."""

    def __init__(self, answers: dict[int, object], at_once: int = 100) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.answers = answers
        self.looks = 0
        self.at_once = at_once
        self.waiting: dict[str, Message] = {}
        self.numbers = count()

    def get_node_ids(self) -> list[int]:
        self.looks += 1
        return list(self.answers)[: self.looks * self.at_once]

    def push_messages(self, messages) -> None:
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{next(self.numbers)}"
            self.waiting[message.metadata.message_id] = message

    def pull_messages(self, ids) -> list[Message]:
        replies = []
        for message in [self.waiting[i] for i in ids if i in self.waiting]:
            answer = self.answers[message.metadata.dst_node_id]
            if answer is not None:
                del self.waiting[message.metadata.message_id]
                group, content = ("", answer) if isinstance(answer, Error) else answer
                sent = content if isinstance(answer, Error) else RecordDict(content)
                replies.append(Message(sent, reply_to=message))
                replies[-1].metadata.group_id = group
        return replies[::-1]


class Simulated(Nodes, InMemoryGrid):
    """The same, where Flower simulates nodes."""


def serves(part, parts, rows=None) -> tuple[str, dict]:
    told = {} if rows is None else {"node": ConfigRecord({"rows": rows})}
    return f"{part}/{parts}", told


# ---- honest nodes ---------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3))
def test_in_a_simulation_every_client_has_the_node_of_its_remainder(
    clients: int, parts: int, at_once: int
) -> None:
    nodes = Simulated({1000 + 7 * p: serves(p, parts) for p in range(parts)}, at_once=parts)
    found = find_clients(nodes, clients, timeout=5)
    assert found.nodes == {k: 1000 + 7 * (k % parts) for k in range(clients)}
    assert len(found.transfers) == 2 * parts


@given(st.integers(1, 12), st.integers(0, 5))
def test_in_a_deployment_every_node_has_its_client(clients: int, spare: int) -> None:
    parts = clients + spare
    nodes = Nodes({1000 + 7 * p: serves(p, parts) for p in range(parts)})
    assert find_clients(nodes, clients, timeout=5).nodes == {
        k: 1000 + 7 * k for k in range(clients)
    }


def test_nodes_that_connect_late_are_waited_for() -> None:
    nodes = Nodes({10 + p: serves(p, 3) for p in range(3)}, at_once=1)
    assert find_clients(nodes, 3, timeout=5).nodes == {0: 10, 1: 11, 2: 12}


def test_a_node_that_stays_silent_keeps_later_ones_out_of_nothing() -> None:
    nodes = Nodes({666: None} | {10 + p: serves(p, 3) for p in range(3)}, at_once=1)
    assert find_clients(nodes, 3, timeout=60).nodes == {0: 10, 1: 11, 2: 12}


# ---- claims that are none -------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        Error(code=2, reason="the disk is gone"),
        ("", {}),
        ("", {"node": ConfigRecord({"partition-id": 1, "num-partitions": 2})}),
        ("1/2/3", {}),
        ("1/2\n", {}),
        ("\u0661/2", {}),
        ("1/" + "2" * 5_000_000, {}),
        serves(3, 3),
        serves(-1, 3),
        serves(0, 0),
        serves(1, -2),
        serves("x", 2),
        serves([0], 2),
        serves(1.0, 2),
        serves(True, 2),
        serves(1, True),
        serves(1, 2.0),
        serves(1, 2**62),
        serves(b"1", 2),
        serves(0, MAX_PARTITIONS + 1),
    ],
)
def test_a_node_that_answers_nonsense_is_named_and_left_out(answer, caplog) -> None:
    nodes = Nodes({1: serves(0, 2), 2: answer})
    assert find_clients(nodes, 2, timeout=0.2).nodes == {0: 1}
    assert "node 2 is left out, for what it says it serves" in caplog.text
    assert "clients without a node: [1]" in caplog.text


def test_no_node_at_all_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(TimeoutError, match="SuperNodes"):
        find_clients(Nodes({}), 2, timeout=0.2)
    with pytest.raises(TimeoutError, match=r"1 were left out, .*federation\.node_timeout=0\.2"):
        find_clients(Nodes({5: serves(0, 1)}), 2, timeout=0.2)


# ---- claims to what others have -------------------------------------------------------------


@given(
    honest=st.permutations([0, 1, 2]),
    at=st.integers(0, 3),
    part=st.integers(0, 4),
    parts=st.integers(1, 5),
)
def test_one_hostile_node_has_one_client_at_most_and_costs_one_at_most(
    honest: list[int], at: int, part: int, parts: int
) -> None:
    answers = [(10 + p, serves(p, 3)) for p in honest]
    answers.insert(at, (666, serves(part, parts)))
    found = find_clients(Nodes(dict(answers), at_once=1), 3, timeout=0.02).nodes
    assert [*found.values()].count(666) <= 1
    assert len({10, 11, 12} & {*found.values()}) >= 2
    if part < parts < 3 or part >= 3:  # of more than one client, or of none
        assert found == {0: 10, 1: 11, 2: 12}


@pytest.mark.parametrize(
    ("claim", "says"),
    [
        (serves(0, 3), "partition-id=0, client 0 is node 1's"),
        (serves(1, 7), "partition-id=1, client 1 is node 3's"),
        (serves(0, 1), "partition-id=0 of 1 is a claim to 3 clients, it may have 1"),
    ],
)
def test_a_later_node_cannot_take_what_a_first_one_has(claim, says: str, caplog) -> None:
    honest = {1: serves(0, 3), 3: serves(1, 3)}
    nodes = Nodes(honest | {666: claim, 4: serves(2, 3)}, at_once=1)
    assert find_clients(nodes, 3, timeout=5).nodes == {0: 1, 1: 3, 2: 4}
    assert f"node 666 is left out, for what it says it serves: {says}" in caplog.text


def test_an_answer_counts_for_the_node_that_was_asked_and_once(caplog) -> None:
    """Whoever a reply says that it is from, and however often it comes."""

    class Doubled(Nodes):
        def pull_messages(self, ids) -> list[Message]:
            replies = super().pull_messages(ids)
            for reply in replies:
                reply.metadata.__dict__["_src_node_id"] = 3
            foreign = Message(RecordDict(), 3, "query", group_id=serves(2, 3)[0])
            foreign.metadata.__dict__["_reply_to_message_id"] = "never asked"
            return [foreign, *replies, *replies]

    nodes = Doubled({p + 1: serves(p, 3) for p in range(3)})
    assert find_clients(nodes, 3, timeout=5).nodes == {0: 1, 1: 2, 2: 3}
    assert "left out" not in caplog.text


# ---- what the server's operator lists -------------------------------------------------------


def listed(text: str):
    cfg = compose(f"federation.clients=4 federation.clients_per_node={text}")
    check_node(cfg)
    return plain(cfg.federation.clients_per_node)


def test_a_node_may_have_as_many_clients_as_are_listed() -> None:
    nodes = Nodes({1: serves(0, 2), 2: serves(1, 2), 666: serves(0, 1)})
    for text in ("2", "{1:2,2:2}", "{1:[0,2],2:[1,3]}"):
        found = find_clients(nodes, 4, timeout=0.2, per_node=listed(text))
        assert found.nodes == {0: 1, 1: 2, 2: 1, 3: 2}, text


def test_a_client_that_is_listed_for_a_node_is_no_other_nodes_though_it_came_first(caplog) -> None:
    nodes = Nodes({666: serves(0, 4)} | {p + 1: serves(p, 4) for p in range(4)}, at_once=1)
    found = find_clients(nodes, 4, timeout=5, per_node=listed("{1:[0],2:[1],3:[2],4:[3]}"))
    assert found.nodes == {0: 1, 1: 2, 2: 3, 3: 4}
    assert "node 666 is left out" in caplog.text
    assert "lists client 0 for node 1" in caplog.text


def test_a_listed_node_claims_no_others(caplog) -> None:
    nodes = Nodes({1: serves(1, 4)})
    with pytest.raises(TimeoutError):
        find_clients(nodes, 4, timeout=0.1, per_node=listed("{1:[0]}"))
    assert "lists clients [0] for it" in caplog.text


@pytest.mark.parametrize(
    "text", ["0", "-1", "1.5", "true", "many", "{1:0}", "{1:[0],2:[0]}", "{1:[-1]}", "{a:[0]}",
             "{1:true}", "{1:[x]}", "[1]"]
)  # fmt: skip
def test_a_list_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="clients_per_node"):
        listed(text)


# ---- rows -----------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 9))
def test_the_rows_of_every_client_are_what_its_node_says(clients: int, parts: int) -> None:
    answers = {}
    for part in range(parts):
        rows = [100 + k for k in range(part, clients, parts)]
        answers[1000 + part] = serves(part, parts, rows)
    for private, rows in ((True, {k: 100 + k for k in range(clients)}), (False, {})):
        nodes = Simulated(answers, at_once=parts)
        assert find_clients(nodes, clients, timeout=5, private=private).rows == rows


@pytest.mark.parametrize(
    "said",
    [None, [1], [1, 2, 3], [1, -2], [1, 2**40], ["x", "y"], [1.5, 2.0], [True, True], 7,
     [0] * 10**6],
    ids=lambda said: str(said)[:12],
)  # fmt: skip
def test_a_node_whose_rows_cannot_be_is_left_out(said, caplog) -> None:
    lies, honest = serves(0, 2, said), serves(1, 2, [3, 4])
    nodes = Nodes({1: lies, 2: honest})
    found = find_clients(nodes, 4, timeout=0.2, per_node=2, private=True)
    assert found.nodes == {1: 2, 3: 2}
    assert found.rows == {1: 3, 3: 4}
    assert "node 1 is left out" in caplog.text
    assert len(caplog.text) < 2000
