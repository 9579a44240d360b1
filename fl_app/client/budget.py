"""What a client's rows have spent of their privacy, counted on the node's disk.

A turn is written before it begins, and so before its reply can leave: one that fails, is killed, or
whose reply is lost has been spent all the same. A turn that is beyond the budget is refused.

**Real nodes with rows of their own or an epsilon in their policy, and simulated ones with a
policy**, count by rows, in ``STATE/budget.sqlite``: all runs together, whoever submits them, under
any ``data-path``. A row is known by a digest of what is in it. A turn counts for every set of rows
that has a row in common with its own, so that rows which are added, removed or put into another
file go on with what they have spent. The budget is the operator's (``privacy.epsilon`` and
``privacy.delta`` of the policy), else what the run promises.

**Other nodes**, which simulate, count by client in the folder of the run, and of the runs that it
continues.

There is no way back from a file that is damaged or gone: it is refused, not begun anew.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from datasets import Dataset
from flwr.app import Context
from omegaconf import DictConfig

from fl_app import data
from fl_app.client import disk, policy
from fl_app.client import rows as node_data
from fl_app.client.answered import connect
from fl_app.client.node_config import DATA_PATH
from fl_app.client.simulated import is_repeated, is_simulated
from fl_app.data import earlier, sources, table
from fl_app.faults import FaultError
from fl_app.files import atomic_file
from fl_app.privacy import accounting
from fl_app.privacy.budget import Mechanism, mechanism, most_turns
from fl_app.privacy.spent import Spent
from fl_app.runs.node_state import run_folder

FILE = "budget.sqlite"
BEGUN = "budget.begun"  # beside it: that there was one
# Options by which a run changes values of rows, and what leaves them as they are on disk.
CHANGING: dict[str, Any] = {"truncate_boxes": False, "formats": {}, "empty": {}}
_KEY_BYTES = 16
_BATCH = 1000  # rows
TABLES = """
CREATE TABLE IF NOT EXISTS sets (id INTEGER PRIMARY KEY, digest BLOB UNIQUE);
CREATE TABLE IF NOT EXISTS members (row BLOB, of INTEGER, PRIMARY KEY (row, of)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shared (one INTEGER, other INTEGER, PRIMARY KEY (one, other));
CREATE TABLE IF NOT EXISTS turns (
    of INTEGER, run TEXT, client INTEGER, round INTEGER, noise REAL, rate REAL, steps INTEGER,
    at TEXT, PRIMARY KEY (run, client, round));
"""


@dataclass(frozen=True)
class Limit:
    """The most that may be spent: epsilon at delta, and who says so."""

    epsilon: float
    delta: float
    whose: str


def begin(
    context: Context, cfg: DictConfig, client: int, server_round: int, rows: Dataset
) -> Spent:
    """Write that a client takes its turn of a round of the run; return what it has spent with it.

    Raises
    ------
    FaultError
        If the client has answered this round or a later one, the budget has no room for the turn,
        or the count cannot be read or written.
    """
    run, asked = run_folder(context.run_id), mechanism(cfg, len(rows))
    with _book(context) as book:
        if is_repeated(context):  # the first try left nothing but this row
            book.execute(
                "DELETE FROM turns WHERE run = ? AND client = ? AND round = ?",
                (run, client, server_round),
            )
        (last,) = book.execute(
            "SELECT max(round) FROM turns WHERE run = ? AND client = ?", (run, client)
        ).fetchone()
        if last is not None and server_round <= last:
            raise FaultError("round_again", client=client, round=server_round, last=last)
        of = _set(book, _keys(context, cfg, client, rows))
        before = [*_history(book, of), *_of_runs_before(context, client)]
        spent = _checked(context, cfg, asked, before, turns=1)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        book.execute(
            "INSERT INTO turns VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (of, run, client, server_round, *_release(asked), now),
        )
    return spent


def check_plan(context: Context, cfg: DictConfig, client: int, rows: Dataset) -> None:
    """Check that the budget has room for all turns that the run may still ask of a client.

    Raises
    ------
    FaultError
        If not, before the run begins.
    """
    if not _counts_rows(context):
        return  # nothing is spent but by this run
    asked = mechanism(cfg, len(rows))
    with _book(context) as book:
        runs = [folder.name for folder in disk.folders(context)]
        places = ", ".join("?" * len(runs))
        (taken,) = book.execute(
            f"SELECT count(*) FROM turns WHERE client = ? AND run IN ({places})",
            (client, *runs),
        ).fetchone()
        of = _set(book, _keys(context, cfg, client, rows))
        left = max(0, most_turns(cfg) - taken)
        _checked(context, cfg, asked, [*_history(book, of)], turns=left)


def _checked(
    context: Context,
    cfg: DictConfig,
    asked: Mechanism,
    before: Sequence[accounting.Release],
    turns: int,
) -> Spent:
    """Return what is spent after ``turns`` more; FaultError if that is beyond the budget."""
    limit = _limit(context, cfg, asked)
    noise, rate, steps = _release(asked)
    history = [*before, (noise, rate, turns * steps)]
    spent = accounting.composed(history, limit.delta)
    if spent > limit.epsilon:
        raise FaultError(
            "budget",
            turns=len(before),
            more=turns,
            epsilon=f"{spent:.3g}",
            delta=f"{limit.delta:.3g}",
            limit=f"{limit.epsilon:.3g}",
            whose=limit.whose,
        )
    return Spent(len(before) + turns, spent, limit.delta)


def _limit(context: Context, cfg: DictConfig, asked: Mechanism) -> Limit:
    """Return the operator's limit, else what the run itself promises its clients."""
    rules = policy.of(context)
    if rules is not None and rules.privacy.epsilon is not None:
        delta = rules.privacy.delta
        return Limit(
            rules.privacy.epsilon,
            asked.delta if delta is None else min(delta, asked.delta),
            "the node's policy allows (privacy.epsilon)",
        )
    promised = cfg.privacy.epsilon
    if promised is None:
        promised = asked.epsilon(most_turns(cfg))
    return Limit(promised, asked.delta, "the run promises, and the node's policy has no number")


def _release(asked: Mechanism) -> accounting.Release:
    return asked.noise_multiplier, asked.sample_rate, asked.steps


# ---- whose turns they are -------------------------------------------------------------------


def _counts_rows(context: Context) -> bool:
    """Return whether turns count for rows, in all runs; else for a client of a run."""
    rules = policy.of(context)
    if is_simulated() or rules is None:
        return rules is not None
    return node_data.has_own(context) or rules.privacy.epsilon is not None


def _keys(context: Context, cfg: DictConfig, client: int, rows: Dataset) -> list[bytes]:
    """Return what the rows are known by, in order, each once."""
    if not _counts_rows(context):
        return [f"client {client}".encode()]
    if any(cfg.data.get(key) for key in CHANGING):
        rows = _as_on_disk(context, cfg, client)
    known = {*digests(rows)}
    path = context.node_config.get(DATA_PATH)
    if path is None and cfg.data.id == "table":
        path = cfg.data.train.path
    if path is not None and sources.is_local(str(path)) and Path(str(path)).exists():
        before = _known_before(str(path), Path(str(path)).stat().st_mtime_ns)
        known |= {before[one] for one in known & before.keys()}
    return sorted(known)


@lru_cache(maxsize=1)
def _known_before(path: str, changed: int) -> dict[bytes, bytes]:
    """Return what rows were known by when types of CSV and JSON were guessed, where that differs.

    What they have spent then still counts.

    Parameters
    ----------
    path : str
        The rows of a node.
    changed : int
        When the path was changed.
    """
    found: dict[bytes, bytes] = {}
    for now, then in earlier.both(path):
        found |= {
            new: old for new, old in zip(digests(now), digests(then), strict=True) if new != old
        }
    return found


def _as_on_disk(context: Context, cfg: DictConfig, client: int) -> Dataset:
    """Return a client's rows with boxes and values as they are, whatever a run makes of them."""
    options: dict[Any, Any] = {**cfg.data}
    options.update({key: off for key, off in CHANGING.items() if key in options})
    whole = DictConfig(options)
    if node_data.has_own(context):
        return data.own_rows(whole, str(context.node_config[DATA_PATH]))
    train = data.load(whole, cfg.seed)["train"]
    clients = cfg.federation.clients
    return data.client_split(train, whole.partitioner, client, clients, whole.seed)


def digests(rows: Dataset) -> Iterator[bytes]:
    """Yield a digest of each row's values, whatever a run makes of the rows.

    It may choose their order and their columns' names (``data.train.columns``), and by ``data.id``
    whether classes have names and files have their folders.
    """
    raw = table.with_class_names(rows).with_format("arrow")  # pictures as their bytes
    for start in range(0, len(rows), _BATCH):
        for row in raw[start : start + _BATCH].to_pylist():
            text = json.dumps(sorted(map(_written, row.values()))).encode()
            yield hashlib.blake2b(text, digest_size=_KEY_BYTES).digest()


def _written(value: Any) -> str:
    """Return a value as text; a path without its folder."""
    if isinstance(value, str) and value.startswith("/"):
        value = Path(value).name
    return json.dumps(value, sort_keys=True, default=_text)


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)


def _set(book: sqlite3.Connection, keys: Iterable[bytes]) -> int:
    """Return the number of a set of rows, which is new or known."""
    keys = list(keys)
    digest = hashlib.sha256(b"".join(keys)).digest()
    known = book.execute("SELECT id FROM sets WHERE digest = ?", (digest,)).fetchone()
    if known is not None:
        return int(known[0])
    new = book.execute("INSERT INTO sets (digest) VALUES (?)", (digest,)).lastrowid
    assert new is not None
    book.executemany("INSERT INTO members VALUES (?, ?)", ((key, new) for key in keys))
    book.execute(
        "INSERT INTO shared SELECT DISTINCT ?, other.of FROM members AS own JOIN members AS other "
        "ON own.row = other.row WHERE own.of = ?",
        (new, new),
    )
    book.execute("INSERT OR IGNORE INTO shared SELECT other, one FROM shared WHERE one = ?", (new,))
    return new


def _history(book: sqlite3.Connection, of: int) -> Iterator[accounting.Release]:
    """Yield what every turn released that had a row of the set ``of``."""
    yield from book.execute(
        "SELECT noise, rate, steps FROM turns WHERE of IN (SELECT other FROM shared WHERE one = ?)",
        (of,),
    )


def _of_runs_before(context: Context, client: int) -> Iterator[accounting.Release]:
    """Yield what a client released in the runs that this one continues."""
    if _counts_rows(context):
        return  # they are in the same file
    for folder in disk.folders(context)[1:]:
        if (folder / FILE).exists():
            with _opened(folder) as book:
                yield from book.execute(
                    "SELECT noise, rate, steps FROM turns WHERE client = ?", (client,)
                ).fetchall()


# ---- the file -------------------------------------------------------------------------------


@contextmanager
def _book(context: Context) -> Iterator[sqlite3.Connection]:
    """Open the node's count, for this process alone; what is written is on disk at the end."""
    folder = disk.folders(context)[0]
    with _opened(folder.parent if _counts_rows(context) else folder) as book:
        yield book


@contextmanager
def _opened(folder: Path) -> Iterator[sqlite3.Connection]:
    begun = folder / BEGUN
    try:
        with closing(connect(folder / FILE)) as book:
            names = {name for (name,) in book.execute("SELECT name FROM sqlite_master")}
            if begun.exists() and "turns" not in names:
                raise FaultError("budget_lost")
            book.executescript(TABLES)
            if not begun.exists():
                atomic_file(begun, b"budget.sqlite lies beside this; without it nothing private\n")
            with book:
                book.execute("BEGIN IMMEDIATE")
                yield book
    except (OSError, sqlite3.Error) as error:
        # Of the errors of SQLite, this one alone says that the file is not what it was.
        damaged = type(error) is sqlite3.DatabaseError
        raise FaultError("budget_lost" if damaged else "state_dir") from error
