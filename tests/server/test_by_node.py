"""``federation.sampling=nodes``: no set-up; each node says in its reply which client it is."""

from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message

from fl_app.config import ConfigError, compose
from fl_app.preflight import check_values
from fl_app.server.by_node import Claims
from fl_app.server.round import RoundFailedError
from fl_app.wire.ledger import read
from tests.loopback import over_the_wire
from tests.messages import framed, put, said
from tests.server.test_coded import Rounds, same

ALL = "strategy=fedavg codec=nf4 clients_per_round=3"
NODES = f"{ALL} federation.sampling=nodes federation.node_timeout=1"


def test_the_model_is_that_of_the_same_clients_and_nothing_is_asked_before(tmp_path: Path) -> None:
    trees = []
    for name, words in (("a", ALL), ("b", NODES)):
        (tmp_path / name).mkdir()
        rounds = Rounds(tmp_path / name, f"{words} evaluate_clients_per_round=3")
        for number in (1, 2):
            rounds.round(number)
        messages = rounds.coded.configure_evaluate(2, rounds.arrays, ConfigRecord(), rounds.grid)
        scores = rounds.coded.aggregate_evaluate(2, rounds.grid.send_and_receive(messages))
        trees.append((rounds.tree, dict(scores)))
    assert same(trees[0][0], trees[1][0])
    assert trees[0][1] == trees[1][1]
    rows = rounds.ledger.rows
    assert not [row for row in rows if row.kind == "setup"]
    turns = [(1, "train"), (2, "train"), (2, "evaluate")]
    assert sorted((r.round, r.kind, r.partition, r.direction) for r in rows) == sorted(
        (*turn, k, way) for turn in turns for k in range(3) for way in ("down", "up")
    )
    assert all(
        row.message_bytes <= 170 for row in rows if (row.round, row.direction) == (1, "down")
    )
    for message in rounds.grid.sent:
        assert "partition" not in said(message)


def test_nodes_are_drawn_and_those_that_connect_later_too(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, NODES.replace("clients_per_round=3", "clients_per_round=1"))
    later = dict(list(rounds.grid.contexts.items())[1:])
    for node in later:
        del rounds.grid.contexts[node]
    (first,), seen = [*rounds.grid.contexts], []
    for number in range(1, 10):
        (sent,) = rounds.coded.configure_train(number, rounds.arrays, ConfigRecord(), rounds.grid)
        seen.append(sent.metadata.dst_node_id)
        rounds.grid.contexts.update(later)
    assert seen[0] == first
    assert {*seen} == {first, *later}


def test_a_run_without_nodes_says_so(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, NODES)
    rounds.grid.contexts.clear()
    with pytest.raises(TimeoutError, match="no node connected within 1 s: start SuperNodes"):
        rounds.round(1)


# ---- nodes that are not what they say ---------------------------------------------------------


def lying(rounds: Rounds, client: int, lie) -> None:
    """Let the node of a client say something else."""
    deliver = rounds.grid.deliver

    def changed(message: Message) -> Message:
        reply = deliver(message)
        own = rounds.grid.contexts[message.metadata.dst_node_id].node_config["partition-id"]
        return over_the_wire(lie(reply)) if own == client else reply

    rounds.grid.deliver = changed


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        (lambda reply: put(reply, **{"partition-id": 3}), "partition-id=3 should be"),
        (lambda reply: put(reply, **{"partition-id": 2**62}), f"partition-id={2**62} should be"),
        (lambda reply: put(reply, drop=("partition-id",)), "partition-id=None should be"),
    ],
)
def test_a_client_that_is_none_of_the_run_is_left_out(tmp_path, caplog, lie, says: str) -> None:
    rounds = Rounds(tmp_path, NODES)
    lying(rounds, 1, lie)
    rounds.round(1)
    assert says in caplog.text
    used = {row.partition for row in rounds.ledger.rows if row.payload_bytes}
    assert used == {0, 2}
    (lost,) = {row.partition for row in rounds.ledger.rows if row.outcome}
    assert lost in rounds.grid.contexts  # all that is known of it is the node
    assert read(tmp_path / "ledger.csv").rows[0].partition >= 0


def test_one_node_has_one_client_and_keeps_it(tmp_path: Path, caplog) -> None:
    rounds = Rounds(tmp_path, NODES)
    rounds.round(1)
    lying(rounds, 1, lambda reply: put(reply, **{"partition-id": 2}))
    rounds.round(2)
    assert "partition-id=2, and it was 1 before" in caplog.text
    assert [row.partition for row in rounds.ledger.rows if row.outcome] == [1]
    claims = Claims(3)
    assert claims.check(70, {"partition-id": 2}) == 2
    with pytest.raises(ValueError, match="partition-id=2, which is node 70's"):
        claims.check(80, {"partition-id": 2})
    assert claims.check(80, {"partition-id": 1}) == 1
    assert [claims.get(node) for node in (70, 80, 90)] == [2, 1, 90]


def test_a_reply_says_whose_it_is_only_where_nobody_knows(tmp_path: Path, caplog) -> None:
    rounds = Rounds(tmp_path, ALL)
    lying(rounds, 1, lambda r: r if not r.content else put(r, **{"partition-id": 1}))
    rounds.round(1)
    assert "client 1: the reply says which client it is of, and was not asked" in caplog.text


def test_a_server_names_no_client_and_a_node_is_one_of_the_run(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, NODES)
    message, *_ = rounds.coded.configure_train(1, rounds.arrays, ConfigRecord(), rounds.grid)
    (reply,) = rounds.grid.send_and_receive([framed(message, rounds.here, partition=0)])
    assert "and the message names a client" in reply.error.reason
    rounds.grid.contexts[message.metadata.dst_node_id].node_config["num-partitions"] = 2
    (reply,) = rounds.grid.send_and_receive([message])
    assert "holds one of 2 clients, and the run has federation.clients=3" in reply.error.reason


# ---- what has to know the clients -------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("federation.clients_per_node=2", "federation.clients_per_node names nodes"),
        ("strategy=secure_fedavg codec=modular clients_per_round=3", "secure aggregation"),
        ("privacy=dp_sgd privacy.epsilon=8", "privacy.id counts the turns"),
        ("strategy=fedavg_dp_client codec=fp32", "privacy of whole clients"),
        ("strategy=fed_sb adapter=lora_sb adapter.init=client_mean", "adapter.init asks"),
        ("codec.up={id:error_feedback,inner:{id:nf4}}", "codec.up remembers"),
    ],
)  # fmt: skip
def test_what_knows_clients_beforehand_is_refused_by_name(words: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"federation.sampling=nodes, but {says}.*: set it to"):
        check_values(compose(f"{words} federation.sampling=nodes"))


def test_a_method_that_remembers_is_refused_before_anybody_trains(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, "strategy=scaffold codec=fp32 federation.sampling=nodes")
    with pytest.raises(RoundFailedError, match=r"strategy\.local remembers something"):
        rounds.round(1)
    assert not rounds.grid.sent


def test_another_way_to_sample_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"federation\.sampling=rows should be one of"):
        check_values(compose("federation.sampling=rows"))
