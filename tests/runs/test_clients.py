"""Who took part: what the ledger says of every turn is in the summary, the table and a result."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_app.runs import catalog, result
from fl_app.runs.clients import by_round, losses, mark, summary
from fl_app.runs.read import Run, read
from fl_app.wire.ledger import CLIPPED, LATE, LOST, Ledger, Transfer
from fl_app.wire.ledger import read as read_ledger
from tests.finished_runs import finished

OUTCOMES = ["", CLIPPED, LOST, LATE]  # of a turn
TURNS = st.dictionaries(
    st.tuples(st.integers(1, 4), st.sampled_from(["train", "evaluate"]), st.integers(0, 4)),
    st.sampled_from(OUTCOMES),
    max_size=20,
)


def rows(turns: dict[tuple, str], reason: str = "it is ill") -> list[Transfer]:
    """Return what a server writes down; "late" is a lost turn whose reply came in the end."""
    found = [Transfer(0, 0, "down", "setup"), Transfer(0, 0, "up", "setup")]
    for (number, kind, client), outcome in turns.items():
        down = Transfer(number, client, "down", kind, message_bytes=9)
        found.append(down)
        if outcome in (LOST, LATE):
            down.lose(reason)
        if outcome != LOST:
            up = Transfer(number, client, "up", kind, message_bytes=9)
            up.outcome = outcome if outcome in (LATE, CLIPPED) else ""
            found.append(up)
    return found


@given(TURNS, st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_turn_is_counted_in_its_round(tmp_path: Path, turns, reason: str) -> None:
    ledger = Ledger(tmp_path / "ledger.csv")
    ledger.add(rows(turns, reason.replace("\r", " ").replace("\n", " ").replace("\0", " ")))
    for found in (ledger, read_ledger(ledger.path)):
        said = summary(found.rows, {})
        for name, of in (("lost", (LOST, LATE)), ("late", (LATE,)), ("clipped", (CLIPPED,))):
            assert said[name] == sum(outcome in of for outcome in turns.values())
        assert said["asked"] == len(turns)
        for one in by_round(found.rows):
            here = {c: o for (n, k, c), o in turns.items() if (n, k) == (one.round, one.kind)}
            assert {*one.lost} == {client for client, o in here.items() if o in (LOST, LATE)}
            assert one.used == sorted(client for client, o in here.items() if o in ("", CLIPPED))


def test_a_client_that_is_lost_before_it_is_asked_counts_too() -> None:
    """Its node could not be brought up to date, say; a question what a node serves is no turn."""
    down = Transfer(2, 4, "down", "setup")
    down.lose("state")
    (one,) = by_round([Transfer(0, 4, "down", "setup"), down])
    assert (one.round, one.kind, one.lost, one.used) == (2, "train", {4: "state"}, [])


def test_the_words_name_client_rounds_and_the_first_reason() -> None:
    found = [(n, {"2": f"why {n}"}) for n in range(1, 11)] + [(3, {1: "once"})]
    assert losses(found) == [
        "client 1 in round 3: once",
        "client 2 in rounds 1, 2, 3, 4, 5, 6, 7, 8 and 2 more: why 1",
    ]
    assert [mark(*of) for of in ((0, 0), (1, 0), (3, 2))] == [
        "", "1 turn lost", "3 turns lost, 2 clients absent",
    ]  # fmt: skip


def test_a_reason_is_no_formula_in_a_spreadsheet(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.csv")
    ledger.add(rows({(1, "train", 0): LOST}, '=HYPERLINK("http://x")'))
    assert "\"'=HYPERLINK" in ledger.path.read_text()


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "one"
    return read(finished(folder, "codec=sign", lost=(1, 2)))


def test_a_run_that_lost_somebody_says_so_in_its_table(damaged: Run) -> None:
    (row,) = catalog.to_frame([damaged]).to_dict("records")
    assert (row["turns_asked"], row["turns_lost"]) == (6, 2)
    assert row["lost"] == "client 4 in rounds 1, 2: a row has no answer"
    clients = damaged.summary["clients"]
    assert [one["lost"] for one in clients["by_round"]] == [{"4": "a row has no answer"}] * 2


def test_a_result_keeps_who_was_lost_and_no_reason(damaged: Run, tmp_path: Path) -> None:
    text = result.to_text(result.of_run(damaged))
    assert "a row has no answer" not in text
    (tmp_path / "one.json").write_text(text)
    again = result.read(tmp_path / "one.json").run()
    assert again.mark == damaged.mark == "2 turns lost"
    assert again.ledger.sent() == damaged.ledger.sent()
    content = json.loads(text)
    content["rounds"][1].pop("turns")
    (tmp_path / "one.json").write_text(json.dumps(content))
    with pytest.raises(result.ResultError):
        result.read(tmp_path / "one.json")


def test_a_result_of_a_whole_run_has_nothing_of_it(tmp_path: Path) -> None:
    """Results of earlier versions are those of whole runs, and stay readable."""
    content = result.of_run(read(finished(tmp_path / "one", "codec=sign")))
    assert not {"absent", "lost_turns"} & {*content}
    assert all("turns" not in one for one in content["rounds"])
