"""The ledger: one row per transfer, measured where the bytes leave or arrive."""

import csv
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TextIO

from fl_app.faults.printable import no_formula

Direction = Literal["up", "down"]
Kind = Literal["train", "split", "evaluate", "setup"]
TRAINING = ("train", "split")  # the kinds of a client's turn
LOST, LATE, CLIPPED = "lost", "late", "clipped"


@dataclass
class Transfer:
    """One message between the server and one client.

    Attributes
    ----------
    round : int
        From 1; 0 is set-up.
    partition : int
        The client.
    direction, kind : str
        "up" is client to server. "split" is a message of a turn with states or gradients of a model
        that is cut between client and server, "train" one with what is trained.
    codec : str
        Short name of the codec, "none" where no model travels.
    scalars : int
        Values of the model in the message.
    payload_bytes, frame_bytes, message_bytes : int
        Output of the codec; data of the Array; all Flower objects of the message.
    encode_s, decode_s : float
        Seconds of one thread on the side that did it.
    competition_bytes : int
        ``payload_bytes`` and the aliases that the competition's log counted on top, see
        ``fl_app.wire.conventions``.
    outcome : str
        ``LOST``: a question that had no usable reply. ``LATE``, ``CLIPPED``: a reply that came
        after the deadline, or was scaled down. Else "".
    reason : str
        Why it was lost, as the server or the client says.
    received_bytes : int or None
        Those of ``message_bytes`` that arrived: 0 where a simulated link has lost the message.
        None: all of them.
    """

    round: int
    partition: int
    direction: Direction
    kind: Kind
    codec: str = "none"
    scalars: int = 0
    payload_bytes: int = 0
    frame_bytes: int = 0
    message_bytes: int = 0
    encode_s: float = 0.0
    decode_s: float = 0.0
    competition_bytes: int = 0
    outcome: str = ""
    reason: str = ""
    received_bytes: int | None = None

    def carries(
        self, spec: dict[str, Any], scalars: int, payload: int, frame: int, aliases: int = 0
    ) -> None:
        """Write down the frame that the message carries.

        Parameters
        ----------
        spec : dict
            Of the codec.
        scalars, payload, frame : int
            Values in it, bytes of the codec's output, bytes of the frame.
        aliases : int
            Bytes that the competition's log counted on top, of a whole model alone.
        """
        self.codec, self.scalars = short_name(spec), scalars
        self.payload_bytes, self.frame_bytes = payload, frame
        self.competition_bytes = payload + aliases

    def lose(self, reason: str) -> None:
        """Write down that the question had no usable reply, and why."""
        self.outcome, self.reason = LOST, reason


COLUMNS = tuple(field.name for field in fields(Transfer))


def short_name(spec: dict[str, Any]) -> str:
    """Return a codec's ids in the order of its links, for a column: ``entropy(delta+nf4)``.

    Of several parts: ``model:delta+nf4 control:nf4``.
    """
    if "names" in spec:
        named = zip(spec["names"], spec["codecs"], strict=True)
        return " ".join(f"{part}:{short_name(codec)}" for part, codec in named)
    if "links" in spec:
        return "+".join(map(short_name, spec["links"]))
    return f"{spec['id']}({short_name(spec['inner'])})" if "inner" in spec else str(spec["id"])


class Transfers:
    """Rows of a ledger, and their sums.

    ``columns`` are those that were recorded: of an older file, some are missing.
    """

    def __init__(self, rows: list[Transfer], columns: Iterable[str] = COLUMNS) -> None:
        self.rows = rows
        self.columns = frozenset(columns)

    def total(
        self, column: str = "message_bytes", where: Callable[[Transfer], bool] = lambda row: True
    ) -> int | float:
        """Return the sum of ``column`` over the rows for which ``where`` holds.

        Raises
        ------
        ValueError
            If the column was not recorded.
        """
        if column not in self.columns:
            raise ValueError(f"the ledger has no {column}: an older version wrote it; run it again")
        return sum(getattr(row, column) for row in self.rows if where(row))

    def total_of(self, column: str, kind: str, direction: str | None = None) -> int:
        """Return the sum of a column of counts over transfers of a kind and direction.

        Without ``direction`` both directions count. Those of "train" are all of clients' turns,
        `TRAINING`.
        """
        kinds = TRAINING if kind == "train" else (kind,)
        return int(
            self.total(column, lambda r: r.kind in kinds and direction in (None, r.direction))
        )

    def sent(self, until: int | None = None, column: str = "message_bytes") -> int:
        """Return the message bytes of set-up and training, both directions, to round ``until``.

        Evaluation is not part of it: it is a way of looking, and counted apart.
        """
        return int(
            self.total(
                column, lambda r: r.kind != "evaluate" and (until is None or r.round <= until)
            )
        )


class Ledger(Transfers):
    """Every transfer of a run, in memory and, row by row, in ``ledger.csv``.

    Parameters
    ----------
    path : Path
    keep : int
        Rows of the file that stay, of a run that goes on.

    Raises
    ------
    ValueError
        If the file has fewer rows.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        rows = read(path).rows[:keep] if keep else []
        if len(rows) < keep:
            raise ValueError(f"{path} has {len(rows)} rows, its checkpoint was made with {keep}")
        super().__init__(rows)
        self.path = path
        partial = path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            csv.writer(file).writerow(COLUMNS)
            _write(file, rows)
        partial.rename(path)

    def add(self, rows: Iterable[Transfer]) -> None:
        """Append ``rows``; they are on disk when this returns."""
        rows = list(rows)
        _all_arrived(rows)
        with self.path.open("a", newline="") as file:
            _write(file, rows)
        self.rows += rows


def _write(file: TextIO, rows: Iterable[Transfer]) -> None:
    csv.DictWriter(file, COLUMNS).writerows(
        {
            **asdict(r),
            "encode_s": f"{r.encode_s:.6f}",
            "decode_s": f"{r.decode_s:.6f}",
            "reason": no_formula(r.reason),  # a client may have chosen the words
        }
        for r in rows
    )


def _all_arrived(rows: Iterable[Transfer]) -> None:
    """Write down that a message arrived, where nothing says what did."""
    for row in rows:
        if row.received_bytes is None:
            row.received_bytes = row.message_bytes


def _number(column: str) -> Callable[[str], Any]:
    if column in ("direction", "kind", "codec", "outcome", "reason"):
        return str
    return seconds if column.endswith("_s") else number


def number(text: str) -> int:
    """Return a count out of a file; ValueError if it is none, or more than 2^63."""
    found = int(text)
    if not 0 <= found < 2**63:
        raise ValueError(f"{found} is no count")
    return found


def seconds(text: str) -> float:
    """Return a time out of a file; ValueError if it is none."""
    found = float(text)
    if not 0 <= found < math.inf:
        raise ValueError(f"{found} is no time")
    return found


def read(path: Path) -> Transfers:
    """Return what is in a ``ledger.csv``, also of a run that goes on or of an older version."""
    kinds = {name: _number(name) for name in COLUMNS}
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        rows = [
            Transfer(**{name: kinds[name](text) for name, text in row.items() if name in kinds})
            for row in table
            if None not in row.values()  # a line that is being written
        ]
        _all_arrived(rows)  # those of an older version do not say it
        return Transfers(rows, COLUMNS if table.fieldnames is None else table.fieldnames)
