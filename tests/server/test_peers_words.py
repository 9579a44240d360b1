"""What a node says reaches the server's log as one printable line, and nothing in a longer form."""

import re
from pathlib import Path

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_app.codecs import WireError
from fl_app.server.nodes import find_clients
from fl_app.server.round import RoundFailedError
from fl_app.wire.messages import BARE
from tests.messages import silent
from tests.server.test_coded import Rounds
from tests.server.test_nodes import Nodes, serves

ROOT = Path(__file__).parents[2]
FORGED = "x\x1b[31mRED\nround 1: all clients fine"
LINE = 1200  # characters, of any
SAYS = st.text() | st.sampled_from([FORGED, "x" * 5_000_000, "\u202e\u2066", "a\r\nb", "\ud800"])


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [r.getMessage() for r in caplog.records if r.name == "thinwire"]
    caplog.clear()
    assert all(line.isprintable() and len(line) < LINE for line in found), found
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(SAYS.filter(lambda text: text.encode(errors="ignore").decode() == text))
def test_a_node_that_serves_nothing_is_named_in_one_line(caplog, said: str) -> None:
    caplog.clear()
    odd = [Error(code=2, reason=said), serves(said, 2), serves(0, [said])]
    answers = {1: serves(0, 2), 5: serves(1, 2), **dict(enumerate(odd, start=2))}
    assert find_clients(Nodes(answers), 2, timeout=1).nodes == {0: 1, 1: 5}
    assert [line for line in lines(caplog) if line.startswith("node 2 is left out")]


def _metrics(reply: Message) -> Message:
    reply.content["metrics"] = MetricRecord({f"\x1b[2J{i}": 1.0 for i in range(20_000)})
    return reply


def _error(reply: Message) -> Message:
    made = Message(Error(code=2, reason=FORGED + "x" * 5_000_000), reply_to=reply)
    made.metadata.__dict__.update(reply.metadata.__dict__)
    return made


def _timing(reply: Message) -> Message:
    reply.content[BARE] = ConfigRecord({BARE: FORGED * 10_000})
    return reply


def _frame(reply: Message) -> Message:
    array = Array("uint8", (1,), FORGED * 10_000, b"x")
    silent(reply).content["arrays"] = ArrayRecord({"frame": array})
    return reply


def test_a_reply_that_cannot_be_used_is_one_line_and_so_is_the_end(tmp_path: Path, caplog) -> None:
    ways = {0: _metrics, 1: _error, 2: _timing}
    rounds = Rounds(tmp_path, "strategy=fedavg codec=fp32 clients_per_round=3", ways)
    with pytest.raises(RoundFailedError) as caught:
        rounds.round(1)
    said = str(caught.value).split("\n")
    assert [line[:11] for line in said[1:]] == [f"  client {k}:" for k in range(3)]
    assert all(line.isprintable() and len(line) < LINE for line in said)
    assert len([x for x in lines(caplog) if x.startswith("round 1, left out: client ")]) == 3
    rounds.grid.tamper = dict.fromkeys(range(3), _frame)
    with pytest.raises(RoundFailedError):
        rounds.round(2)
    assert len(lines(caplog)) == 3


@given(st.text())
def test_whatever_a_wire_error_quotes_it_is_one_line(text: str) -> None:
    said = str(WireError(f"codec {FORGED}{text} is unknown"))
    assert said.isprintable()
    assert len(str(WireError(text * 1000))) < LINE


def test_a_nodes_reason_is_read_in_one_place() -> None:
    found = {
        str(path.relative_to(ROOT)): count
        for folder in ("strategies", "fl_app")
        for path in (ROOT / folder).rglob("*.py")
        if (count := len(re.findall(r"\berror\.reason\b", path.read_text())))
    }
    assert found == {"fl_app/server/replies.py": 1}
