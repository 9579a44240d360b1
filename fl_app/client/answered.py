"""What a node answers once: noted on its disk before it answers.

Flower's ``Context.state`` cannot tell. It is handed to a message's process as it was at the start,
and two messages may be worked on at once; what a process has put into it is kept only after its
reply has left; and it is gone with the node.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from flwr.app import Context

from fl_app.client import disk
from fl_app.client.simulated import is_repeated
from fl_app.faults import FaultError

FILE = "answered.sqlite"  # in the folder that a node keeps of a run
PATIENCE = 60.0  # seconds that a process waits for another one that is writing


def once(context: Context, what: str) -> None:
    """Note that the node answers ``what`` in this run, before it does.

    Raises
    ------
    FaultError
        If it has been noted before, by any process, or cannot be written.
    """
    path = disk.folders(context)[0] / FILE
    try:
        with closing(connect(path)) as book, book:
            book.execute("CREATE TABLE IF NOT EXISTS answered (what TEXT PRIMARY KEY)")
            book.execute("INSERT INTO answered VALUES (?)", (what,))
    except sqlite3.IntegrityError:
        if is_repeated(context):
            return  # the first try noted it, and no reply left
        raise FaultError("answered", what=what) from None
    except (OSError, sqlite3.Error) as error:
        raise FaultError("state_dir") from error


def connect(path: Path) -> sqlite3.Connection:
    """Return the database at ``path``, its owner's alone; what is committed survives a power cut.

    Raises
    ------
    OSError, sqlite3.Error
        If it cannot be opened.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite's own would be for all to read
    book = sqlite3.connect(path, timeout=PATIENCE, isolation_level="IMMEDIATE")
    book.execute("PRAGMA synchronous = EXTRA")
    return book
