"""The recorded grid of ``make bench-scale``: its messages are those of real clients."""

import weakref
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from benchmarks.replayed import Recording, ReplayedGrid, record, server_session
from fl_app.aggregation.inner import inner_strategy
from fl_app.build import open_session
from fl_app.config import compose
from fl_app.server import round as sent
from fl_app.server import uplink
from fl_app.server.coded import Coded
from fl_app.server.mailbox import BATCH
from fl_app.tree import Tree
from fl_app.wire.ledger import Ledger
from fl_app.wire.records import message_bytes, to_record, to_tree
from tests import small
from tests.loopback import Loopback
from tests.messages import frame, said

OVERRIDES = f"experiment=fedavg_nf4 {small.DATA} local_epochs=1"
EVERYONE = f"{OVERRIDES} clients_per_round=3"


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record(EVERYONE)


def after_a_round(grid, overrides: str, folder: Path, here=None) -> Tree:
    """Return the model that a round over ``grid`` makes."""
    here = here or open_session(overrides)
    server = Coded(inner_strategy(here.cfg), here, Ledger(folder / "ledger.csv"))
    result = server.start(grid, to_record(here.theta0), num_rounds=1, train_config=ConfigRecord())
    return to_tree(result.arrays, like=here.theta0)


def replies(grid, messages: list[Message]) -> list[Message]:
    """Return the replies by the partitions of ``messages``."""
    by_request = {m.metadata.reply_to_message_id: m for m in grid.send_and_receive(messages)}
    return [by_request[message.metadata.message_id] for message in messages]


def test_a_recorded_node_sends_what_the_real_client_sends(recording, tmp_path) -> None:
    here = open_session(EVERYONE)
    sent = []
    for grid in (Loopback(EVERYONE, nodes=3), ReplayedGrid(recording.replies, 3)):
        server = Coded(inner_strategy(here.cfg), here, Ledger(tmp_path / "ledger.csv"))
        messages = server.configure_train(1, to_record(here.theta0), ConfigRecord(), grid)
        sent.append(replies(grid, messages))
    for real, recorded in zip(*sent, strict=True):
        assert frame(recorded) == frame(real)
        assert {*said(recorded)} == {*said(real)}
        assert all(said(recorded)[name] == said(real)[name] for name in ("num-examples", "loss"))
        assert message_bytes(recorded) == message_bytes(real)
        assert recorded.metadata.message_type == real.metadata.message_type


def test_a_server_without_a_model_finds_the_model_of_the_real_round(recording, tmp_path) -> None:
    real = after_a_round(Loopback(EVERYONE, nodes=3), EVERYONE, tmp_path)
    bare = server_session(compose(EVERYONE), recording.theta0)
    found = after_a_round(ReplayedGrid(recording.replies, 3), EVERYONE, tmp_path, bare)
    assert all(np.array_equal(found[name], real[name]) for name in real)
    assert any(not np.array_equal(found[name], start) for name, start in bare.theta0.items())


def test_more_clients_than_recordings_answer_in_turns(recording) -> None:
    grid = ReplayedGrid(recording.replies, 7)
    nodes = sorted(grid.get_node_ids(), key=grid.partitions.__getitem__)
    assert len({*nodes}) == 7
    messages = [Message(RecordDict(), node, "train") for node in nodes]
    frames = [frame(m) for m in replies(grid, messages)]
    assert frames == [frames[k % 3] for k in range(7)]
    assert grid.pull_messages([m.metadata.message_id for m in messages]) == []  # once each


@pytest.mark.parametrize("clients", [BATCH + 4, 3 * BATCH])
def test_of_a_mean_few_decoded_models_are_alive_at_a_time(
    recording, tmp_path, monkeypatch, clients
) -> None:
    trees, records = Alive(), Alive()
    decode, plain = uplink.receive, sent.to_record

    def decoded(*arguments):
        tree, memory = decode(*arguments)
        trees.add(next(iter(tree.values())))
        return tree, memory

    def in_flowers_arrays(tree):
        record = plain(tree)
        records.add(record)
        return record

    monkeypatch.setattr(uplink, "receive", decoded)
    monkeypatch.setattr(sent, "to_record", in_flowers_arrays)
    many = f"{OVERRIDES} federation.clients={clients} clients_per_round={clients}"
    bare = server_session(compose(many), recording.theta0)
    after_a_round(ReplayedGrid(recording.replies, clients), many, tmp_path, bare)
    assert trees.added == clients
    assert trees.most <= 3  # the last, the new one, and one that the garbage collector has to find
    assert records.most <= BATCH + 1  # messages of one request to Flower


class Alive:
    """Counts how many of the added objects were alive at once."""

    def __init__(self) -> None:
        self.references: list[weakref.ref] = []
        self.added = self.most = 0

    def add(self, thing: object) -> None:
        self.references = [r for r in self.references if r() is not None] + [weakref.ref(thing)]
        self.added += 1
        self.most = max(self.most, len(self.references))
