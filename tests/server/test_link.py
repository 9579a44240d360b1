"""A simulated link that loses messages: they cost their bytes, and nobody builds on them."""

from pathlib import Path

from fl_app.runs.clients import by_round
from tests.server.test_coded import Rounds, drop, same

FEDAVG = (
    "strategy=fedavg clients_per_round=3 federation.max_failures=0.9 codec=fp32 "
    "'codec.up={id: chain, links: [{id: delta}, {id: error_feedback, inner: {id: sign}}]}' seed=2"
)
LOSSY = "link=lossy link.up.loss=0.4 link.down.loss=0.2"


def test_lost_messages_cost_their_bytes_and_leave_no_trace(tmp_path: Path) -> None:
    """The model is that of a run in which the same replies never came: memories are rolled back."""
    for name in ("link", "drop"):
        (tmp_path / name).mkdir()
    linked = Rounds(tmp_path / "link", f"{FEDAVG} {LOSSY}")
    dropping = Rounds(tmp_path / "drop", FEDAVG)
    link, lost = linked.coded.uplink.link, set()
    for number in range(1, 7):
        gone = {c: [d for d in ("down", "up") if link.is_lost(c, d, number)][:1] for c in range(3)}
        lost |= {(number, c, *ways) for c, ways in gone.items() if ways}
        if all(gone.values()):  # nothing arrives: the model stays
            before = linked.tree
            linked.round(number)
            assert same(linked.tree, before)
            continue
        dropping.grid.tamper = {c: drop for c, ways in gone.items() if ways}
        assert same(linked.round(number)[0], dropping.round(number)[0])
    assert {way for *_, way in lost} == {"down", "up"}
    for turns in by_round(linked.ledger.rows):
        assert turns.lost == {
            c: "the link lost the question" if way == "down" else "the link lost the reply"
            for number, c, way in lost
            if number == turns.round
        }
    for row in linked.ledger.rows:
        is_lost = (row.round, row.partition, row.direction) in lost
        assert row.message_bytes > 0
        assert row.received_bytes == (0 if is_lost else row.message_bytes)
    sent = {(r.round, r.partition) for r in linked.ledger.rows if r.direction == "up"}
    assert all(((number, c) in sent) == (way == "up") for number, c, way in lost)
