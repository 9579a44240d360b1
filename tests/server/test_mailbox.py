"""Replies as they arrive: batches, deadlines, and what comes too late."""

import time

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from fl_app.server import mailbox
from fl_app.server.mailbox import BATCH, Mailbox


class Nodes:
    """A grid whose reply to message i is there at the i-th pull or later, as told."""

    def __init__(self, ready: dict[int, int]) -> None:
        self.ready = ready
        self.waiting: dict[str, Message] = {}
        self.passes = 0
        self.largest = 0

    def push_messages(self, messages: list[Message]) -> list[str]:
        self.largest = max(self.largest, len(messages))
        for message in messages:
            name = f"m{message.metadata.dst_node_id}-{len(self.waiting)}"
            message.metadata.__dict__["_message_id"] = name
            self.waiting[name] = message
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, ids: list[str]) -> list[Message]:
        self.passes += 1
        self.largest = max(self.largest, len(ids))
        now = [
            i for i in ids if self.ready.get(self.waiting[i].metadata.dst_node_id, 0) <= self.passes
        ]
        return [Message(RecordDict(), reply_to=self.waiting.pop(i)) for i in now]


def questions(nodes) -> list[Message]:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return [Message(RecordDict({"config": ConfigRecord()}), node, "train") for node in nodes]


def answered(replies) -> list[int]:
    return [reply.metadata.src_node_id for reply in replies]


@given(st.dictionaries(st.integers(1, 200), st.integers(0, 6), max_size=60))
def test_every_reply_is_yielded_once(ready) -> None:
    mailbox.POLL_LEAST, before = 0.0, mailbox.POLL_LEAST
    try:
        grid = Nodes(ready)
        found = answered(Mailbox(grid).ask(questions(ready), timeout=60))
    finally:
        mailbox.POLL_LEAST = before
    assert sorted(found) == sorted(ready)
    assert grid.largest <= BATCH
    assert not grid.waiting


def test_the_first_reply_is_there_before_the_last() -> None:
    grid = Nodes({1: 0, 2: 10**9})
    replies = Mailbox(grid).ask(questions([1, 2]), timeout=0.2)
    assert answered([next(replies)]) == [1]
    assert [*replies] == []


def test_the_deadline_ends_a_round_and_what_is_late_comes_with_the_next() -> None:
    grid = Nodes({2: 10**9})
    box = Mailbox(grid)
    began = time.monotonic()
    assert answered(box.ask(questions([1, 2]), timeout=0.3)) == [1]
    assert time.monotonic() - began >= 0.3
    assert len(box.overdue) == 1
    grid.ready = {3: grid.passes + 3}
    assert sorted(answered(box.ask(questions([3]), timeout=60))) == [2, 3]
    assert not box.overdue


@pytest.mark.parametrize("count", [0, 1, BATCH, BATCH + 1, 3 * BATCH])
def test_messages_go_in_batches(count: int) -> None:
    grid = Nodes({})
    assert len(answered(Mailbox(grid).ask(questions(range(1, count + 1)), timeout=1))) == count
    assert grid.largest == min(count, BATCH)
