"""What a round bears: updates too long, replies too few, replies too late."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message

from fl_app.config import ConfigError, compose
from fl_app.preflight import check_node
from fl_app.runs.clients import by_round
from fl_app.server.mailbox import Mailbox
from fl_app.server.round import RoundFailedError
from fl_app.tree import rms
from fl_app.wire.frame import pack, unpack
from tests.messages import frame, put, who
from tests.server.test_coded import Rounds, drop, same

TWO = "strategy=fedavg codec=fp32 clients_per_round=2"


def scaled(rounds: Rounds, factor: float):
    """A client that sends its update times ``factor``."""

    def tamper(reply: Message) -> Message:
        here = rounds.here
        tree = here.up.decode(unpack(frame(reply), here.up, here.manifest), here.theta0)
        grown = {
            name: (here.theta0[name] + factor * (x - here.theta0[name])).astype(np.float32)
            for name, x in tree.items()
        }
        wire, _ = here.up.encode(grown, here.up.init(here.theta0), here.theta0)
        return put(reply, pack(wire, here.up, here.manifest))

    return tamper


def test_a_long_update_is_scaled_down_and_said(tmp_path: Path, caplog) -> None:
    """One client cannot take the mean further than the limit allows, in its own direction."""
    (tmp_path / "honest").mkdir()
    honest = Rounds(tmp_path / "honest", "strategy=single_client codec=fp32")
    tree, _ = honest.round(1)
    assert "scaled down" not in caplog.text
    update = {name: tree[name] - x for name, x in honest.here.theta0.items()}

    hostile = Rounds(tmp_path, "strategy=single_client codec=fp32")
    hostile.grid.tamper = dict.fromkeys(range(3), scaled(hostile, 1e6))
    got, _ = hostile.round(1)
    assert rms(got, hostile.here.theta0) == pytest.approx(1.0, rel=1e-5)
    assert "is scaled down to federation.max_update_rms=1" in caplog.text
    assert [one.clipped for one in by_round(honest.ledger.rows)] == [set()]
    assert [[*one.clipped] for one in by_round(hostile.ledger.rows)] == [
        [one.used[0]] for one in by_round(honest.ledger.rows)
    ]
    length = rms(tree, honest.here.theta0)
    for name, x in hostile.here.theta0.items():
        np.testing.assert_allclose(got[name] - x, update[name] / length, atol=2e-3)


def test_the_limit_can_be_lifted(tmp_path: Path, caplog) -> None:
    rounds = Rounds(tmp_path, "strategy=single_client codec=fp32 federation.max_update_rms=null")
    rounds.grid.tamper = dict.fromkeys(range(3), scaled(rounds, 1e4))
    tree, _ = rounds.round(1)
    assert rms(tree, rounds.here.theta0) > 10
    assert "scaled down" not in caplog.text


def test_what_was_scaled_down_is_not_relayed_as_it_came(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, "strategy=single_client codec=fp32")
    rounds.grid.tamper = dict.fromkeys(range(3), scaled(rounds, 1e6))
    rounds.round(1)
    kept = rounds.tree
    (message,) = rounds.coded.configure_train(2, rounds.arrays, ConfigRecord(), rounds.grid)
    wire = unpack(frame(message), rounds.here.down, rounds.here.manifest)
    assert same(rounds.here.down.decode(wire, rounds.here.theta0), kept)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ("federation.min_replies=2", "1 of 2 replies are usable, where federation.min_replies=2"),
        ("federation.max_failures=0", "federation.max_failures=0"),
        ("federation.max_failures=0.4", "federation.max_failures=0.4"),
    ],
)
def test_too_few_replies_fail_the_round_with_the_reasons(
    tmp_path: Path, limits: str, says: str
) -> None:
    rounds = Rounds(tmp_path, f"{TWO} {limits}")
    messages = rounds.coded.configure_train(1, rounds.arrays, ConfigRecord(), rounds.grid)
    lost = who(messages[0])
    rounds.grid.tamper = {lost: drop}
    replies = rounds.grid.send_and_receive(messages)
    with pytest.raises(RoundFailedError) as error:
        rounds.coded.aggregate_train(1, replies)
    assert says in str(error.value)
    assert f"client {lost}: it did not reply in time" in str(error.value)
    assert len([r for r in rounds.ledger.rows if r.kind == "train"]) == 3  # two down, one up


@pytest.mark.parametrize("limits", ["federation.max_failures=0.5", "federation.min_replies=1"])
def test_as_many_as_allowed_may_fail(tmp_path: Path, limits: str) -> None:
    rounds = Rounds(tmp_path, f"{TWO} {limits}")
    messages = rounds.coded.configure_train(1, rounds.arrays, ConfigRecord(), rounds.grid)
    rounds.grid.tamper = {who(messages[0]): drop}
    arrays, _ = rounds.coded.aggregate_train(1, rounds.grid.send_and_receive(messages))
    assert arrays is not None
    (turns,) = by_round(rounds.ledger.rows)
    lost = who(messages[0])
    assert turns.lost == {lost: "it did not reply in time"}
    assert turns.used == [who(messages[1])]


def test_a_late_reply_is_dropped_said_and_counted(tmp_path: Path, caplog) -> None:
    rounds = Rounds(tmp_path, TWO)
    box = Mailbox(rounds.grid)
    messages = list(rounds.coded.configure_train(1, rounds.arrays, ConfigRecord(), rounds.grid))
    slow = who(messages[0])
    held: list[Message] = []
    deliver = rounds.grid.deliver

    def late(message: Message) -> Message | None:
        reply = deliver(message)
        if message is messages[0]:
            held.append(reply)
            return None
        return reply

    rounds.grid.deliver = late
    first, _ = rounds.coded.aggregate_train(1, box.ask(messages, timeout=0.2))
    assert f"client {slow}: it did not reply in time" in caplog.text

    rounds.grid.deliver = deliver
    pull = rounds.grid.pull_messages
    rounds.grid.pull_messages = lambda ids: [*(held.pop() for _ in held[:1]), *pull(ids)]
    again = rounds.coded.configure_train(2, first, ConfigRecord(), rounds.grid)
    rounds.coded.aggregate_train(2, box.ask(again, timeout=60))
    assert f"round 1: the reply of client {slow} came after the deadline" in caplog.text
    rows = [r for r in rounds.ledger.rows if r.kind == "train" and r.round == 1]
    assert [(r.partition, r.direction) for r in rows if r.partition == slow] == [
        (slow, "down"), (slow, "up"),
    ]  # fmt: skip
    (up,) = [r for r in rows if (r.partition, r.direction) == (slow, "up")]
    assert (up.scalars, up.payload_bytes) == (0, 0)
    assert [(turns.late, {*turns.lost}) for turns in by_round(rounds.ledger.rows)] == [
        ({slow}, {slow}), (set(), set()),
    ]  # fmt: skip
    assert up.message_bytes > 4 * sum(x.size for x in rounds.here.theta0.values())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("federation.min_replies=0", "federation.min_replies=0 should be greater than 0"),
        ("federation.min_replies=2", "should be at most clients_per_round=1"),
        ("federation.max_failures=1.5", r"federation.max_failures=1.5 should be in \[0, 1\]"),
        ("federation.max_update_rms=0", "should be null or greater than 0"),
    ],
)
def test_limits_that_cannot_be_are_refused(words: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_node(compose(words))
