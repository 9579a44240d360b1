"""Send a run's numbers to its loggers; a logger that fails does not end the run."""

import sys
from collections.abc import Callable, Collection
from typing import Any

from fl_app.runs import clients
from fl_app.runs.folder import RunFolder
from fl_app.runs.loggers import Logger, check, chosen, load
from fl_app.runs.loggers.flat import flat
from fl_app.runs.summary import traffic

FILES = ("config.yaml", "ledger.csv", "metrics.csv", "summary.json")


class Tracking:
    """The loggers of a run; all get the same numbers.

    Once they have started, no logger can end a run. One that fails is reported once and gets
    nothing more, except the end of the run.

    Attributes
    ----------
    loggers : dict
        Name -> Logger.
    failed : set of str
        Names of those that have failed.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.loggers: dict[str, Logger] = {}
        self.failed: set[str] = set()

    def start(self) -> None:
        """Start the run in every tool.

        Raises
        ------
        Exception
            If a tool cannot start: the run has no results yet that could be lost.
        """
        check(self.run.cfg)
        for name in chosen(self.run.cfg):
            self.loggers[name] = load(name).Logger(self.run.cfg, self.run.path)

    def log(self, server_round: int, splits: Collection[str], seconds: dict[str, float]) -> None:
        """Log the scores of splits after a round, and the costs of the run so far.

        Scores are logged over rounds (``test/anls``) and over bytes of set-up and training
        (``over_bytes/test/anls``).

        Parameters
        ----------
        server_round : int
            The round.
        splits : collection of str
            The splits of the server's data.
        seconds : dict
            Seconds of the whole run so far, by name.
        """
        scores = {
            f"{split}/{metric}": value
            for r, split, metric, value in self.run.metrics
            if r == server_round and split in splits
        }
        sent = traffic(self.run.ledger)
        turns = clients.summary(self.run.ledger.rows, {})
        costs = {f"bytes/{name}": float(count) for name, count in sent.items()}
        costs |= {f"turns/{key}": float(turns[key]) for key in ("asked", "lost", "late", "clipped")}
        costs |= {f"seconds/{name}": value for name, value in seconds.items()}
        over_bytes = {f"over_bytes/{name}": value for name, value in scores.items()}

        def log(logger: Logger) -> None:
            logger.log("round", server_round, scores | costs)
            logger.log("bytes_sent", sent["total"], over_bytes)

        for name in [name for name in self.loggers if name not in self.failed]:
            self._guarded(name, log)

    def finish(self, status: str, summary: dict[str, Any]) -> None:
        """Log how the run ended; call it when the run's files are complete."""
        files = [path for name in FILES if (path := self.run.path / name).exists()]
        numbers = flat(summary, "/")
        for name in self.loggers:
            self._guarded(name, lambda logger: logger.finish(status, numbers, files))
        self.loggers.clear()

    def _guarded(self, name: str, call: Callable[[Logger], None]) -> None:
        try:
            call(self.loggers[name])
        except Exception as error:  # any: a tool's bug must not end the run
            if name not in self.failed:
                print(
                    f"warning: logger={name} failed, and the run goes on without it: {error}",
                    file=sys.stderr,
                    flush=True,
                )
            self.failed.add(name)
