"""One round on a few rows, to know what a run will cost before it starts.

Server and clients are the real ones, in this process, so that the bytes are those of real messages
and the seconds those of real steps.
"""

import io
import math
import resource
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

from datasets import DatasetDict

from fl_app.data.rows import first
from fl_app.privacy import is_example_level
from fl_app.session import Session
from fl_app.simulation.in_process import opened, run_session
from fl_app.tree import same_bits
from fl_app.wire.forms import DEFAULT

STEPS = 2  # whose rows a client trains on
SCORED = 8  # rows of each split that is scored
SCORING = ("validation", "test")  # splits that are scored after every round
NAME = "rehearsal"


@dataclass(frozen=True)
class Cost:
    """What a run costs, from a round on a few rows.

    Attributes
    ----------
    down, up : int
        Message bytes of a round of training, to all its clients and from them; of one that brings
        the model.
    saved : int
        Message bytes that round 1 does not send, as its clients rebuild theta0 from the seed.
    setup : int
        Message bytes before round 1.
    evaluate : int
        Message bytes of a round in which clients score the model; 0 if they do not.
    memory : int
        Bytes that this process has used at most: it was the server and all clients in turn.
    disk : int
        Bytes of the folder of results.
    turn, scoring : float
        Seconds of a client's turn on its own rows, on average, and of scoring all rows of the
        server after a round.
    """

    down: int
    up: int
    saved: int
    setup: int
    evaluate: int
    memory: int
    disk: int
    turn: float
    scoring: float

    def sent(self, rounds: int) -> int:
        """Return the message bytes of a run, both directions, without evaluation."""
        return self.setup + rounds * (self.down + self.up) - self.saved

    def seconds(self, rounds: int, clients: int, actors: int) -> float:
        """Return the seconds of a run's rounds, each with so many clients on so many actors."""
        return rounds * (math.ceil(clients / actors) * self.turn + self.scoring)


@contextmanager
def opened_for_one_round(overrides: str) -> Iterator[tuple[Session, str]]:
    """Build a session for one round of a run, whose results go to a folder that is removed.

    Yields
    ------
    Session, str
        The session, and the overrides that it was built from.

    Raises
    ------
    ConfigError
        If an override is wrong.
    """
    with tempfile.TemporaryDirectory(prefix="thinwire-") as folder:
        words = shlex.join(
            [
                *shlex.split(overrides),
                *("rounds=1", "logger=none", f"output.dir='{folder}'", f"output.name={NAME}"),
            ]
        )
        with opened(words) as session:
            yield session, words


def rehearse(session: Session, overrides: str, held: Sequence[int]) -> Cost:
    """Run one round on a few rows, and measure what the whole run will cost.

    Each client of the round trains on the rows of two steps at most, for all its epochs, and the
    server scores eight rows of each split. With DP-SGD, clients use all their rows: the noise
    depends on their number. A frame of an entropy codec is longer or shorter after a whole turn.

    Parameters
    ----------
    session : Session
        Of `opened_for_one_round`; it is of no use afterwards.
    overrides : str
        What it was built from.
    held : sequence of int
        The rows of each client.

    Raises
    ------
    RuntimeError, ValueError
        If the round fails, as it would in the run.
    """
    cfg, counts = session.cfg, _counts(session.data)
    step = cfg.batch_size * cfg.gradient_accumulation
    if not is_example_level(cfg):
        session.most_rows = STEPS * step
    session.data = DatasetDict(
        {
            split: rows if split == "train" else first(rows, SCORED)
            for split, rows in session.data.items()
        }
    )
    with redirect_stdout(io.StringIO()):
        run = run_session(session, overrides, setup_seconds=0.0, sends_theta0=True)
    disk = sum(f.stat().st_size for f in run.path.rglob("*") if f.is_file())
    used = [min(rows, session.most_rows or rows) for rows in held]
    seconds, few = run.summary["seconds"], _counts(session.data)
    scored = sum(2 * few.get(split, 0) for split in SCORING) + few.get("unseen", 0)
    turn = seconds["train"] / cfg.clients_per_round
    share = sum(math.ceil(n / step) for n in held) / sum(math.ceil(n / step) for n in used)
    every_round = sum(counts.get(split, 0) for split in SCORING)
    sent = run.summary["bytes"]
    saved = sent["message_down"] - sent["message_down_seed_only"]
    return Cost(
        saved=saved if _is_rebuilt(session) else 0,
        down=run.bytes_of("message_bytes", "train", "down"),
        up=run.bytes_of("message_bytes", "train", "up"),
        setup=run.bytes_of("message_bytes", "setup"),
        evaluate=run.bytes_of("message_bytes", "evaluate"),
        memory=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        disk=disk,
        turn=turn * share,
        scoring=seconds["evaluate"] / scored * every_round,
    )


def _is_rebuilt(session: Session) -> bool:
    """Tell whether what clients decode of the first download is what they have without it."""
    down = session.forms[DEFAULT].down
    own = session.references(down)
    wire, _ = down.whole.encode(own, down.whole.init(own, session.cfg.seed), own)
    return same_bits(down.whole.decode(wire, own), own)


def _counts(data: DatasetDict) -> dict[str, int]:
    return {split: len(rows) for split, rows in data.items()}
