"""The ledger: what is added is on disk at once, and the totals are those of the rows."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app.codecs import from_spec
from fl_app.wire.ledger import COLUMNS, Ledger, Transfer, short_name

ROWS = st.lists(
    st.builds(
        Transfer,
        round=st.integers(0, 5),
        partition=st.integers(0, 9),
        direction=st.sampled_from(["up", "down"]),
        kind=st.sampled_from(["train", "evaluate", "setup"]),
        codec=st.sampled_from(["fp32", "delta+nf4", 'odd,"name']),
        message_bytes=st.integers(0, 2**40),
    ),
    max_size=20,
)


def test_the_columns_are_the_documented_ones(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.csv")
    assert (tmp_path / "ledger.csv").read_text().strip() == (
        "round,partition,direction,kind,codec,scalars,payload_bytes,frame_bytes,message_bytes,"
        "encode_s,decode_s,competition_bytes,outcome,reason,received_bytes"
    )


@given(rows=ROWS)
def test_disk_and_memory_agree(tmp_path_factory: pytest.TempPathFactory, rows) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.csv"
    ledger = Ledger(path)
    half = len(rows) // 2
    ledger.add(rows[:half])
    ledger.add(rows[half:])
    with path.open(newline="") as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == COLUMNS if read else True
    assert [(int(r["round"]), r["codec"], int(r["message_bytes"])) for r in read] == [
        (r.round, r.codec, r.message_bytes) for r in rows
    ]
    assert ledger.total() == sum(r.message_bytes for r in rows)


@given(rows=ROWS, until=st.integers(0, 5))
def test_sent_leaves_out_evaluation_and_later_rounds(tmp_path_factory, rows, until) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "ledger.csv")
    ledger.add(rows)
    expected = 0
    for row in rows:
        if row.kind != "evaluate" and row.round <= until:
            expected += row.message_bytes
    assert ledger.sent(until) == expected


def test_a_codec_is_named_by_its_links() -> None:
    spec = {"id": "chain", "links": [{"id": "delta"}, {"id": "nf4", "block": 64}]}
    assert short_name(from_spec(spec).spec) == "delta+nf4"
    assert short_name({"id": "fp32"}) == "fp32"
    wrapped = {"id": "entropy", "inner": spec}
    assert short_name(wrapped) == "entropy(delta+nf4)"
    links = [{"id": "delta"}, {"id": "error_feedback", "inner": wrapped}]
    chained = {"id": "chain", "links": links}
    assert short_name(chained) == "delta+error_feedback(entropy(delta+nf4))"
