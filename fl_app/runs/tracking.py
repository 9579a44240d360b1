"""A run's loggers: what they are told, and what happens when one fails."""

import sys
from collections.abc import Callable
from typing import Any

from fl_app.runs.folder import RunFolder
from fl_app.runs.loggers import Logger, check, chosen, load
from fl_app.runs.loggers.flat import flat
from fl_app.runs.summary import traffic

FILES = ("config.yaml", "ledger.csv", "metrics.csv", "summary.json")


class Tracking:
    """The loggers that a run has chosen, told the same numbers.

    Once they have started, no logger can end a run: one that fails is heard of once and told
    nothing more, except how the run ended.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.loggers: dict[str, Logger] = {}
        self.failed: set[str] = set()

    def start(self) -> None:
        """Begin the run in every tool.

        Raises
        ------
        Exception
            Whatever keeps a tool from starting: nothing is earned yet that could be lost.
        """
        check(self.run.cfg)
        for name in chosen(self.run.cfg):
            self.loggers[name] = load(name).Logger(self.run.cfg, self.run.path)

    def log(self, server_round: int, split: str, seconds: dict[str, float]) -> None:
        """Tell the scores of a split after a round, and what the run has cost until then.

        ``seconds`` are those of the whole run so far. Scores are told over rounds
        (``test/anls``) and over bytes of set-up and training (``over_bytes/test/anls``).
        """
        scores = {
            f"{split}/{metric}": value
            for r, of, metric, value in self.run.metrics
            if (r, of) == (server_round, split)
        }
        sent = traffic(self.run.ledger)
        costs = {f"bytes/{name}": float(count) for name, count in sent.items()}
        costs |= {f"seconds/{name}": value for name, value in seconds.items()}
        over_bytes = {f"over_bytes/{name}": value for name, value in scores.items()}

        def tell(logger: Logger) -> None:
            logger.log("round", server_round, scores | costs)
            logger.log("bytes_sent", sent["total"], over_bytes)

        for name in [name for name in self.loggers if name not in self.failed]:
            self._guarded(name, tell)

    def finish(self, status: str, summary: dict[str, Any]) -> None:
        """Tell how the run ended; the files of the run are complete when this is called."""
        files = [path for name in FILES if (path := self.run.path / name).exists()]
        numbers = flat(summary, "/")
        for name in self.loggers:
            self._guarded(name, lambda logger: logger.finish(status, numbers, files))
        self.loggers.clear()

    def _guarded(self, name: str, tell: Callable[[Logger], None]) -> None:
        try:
            tell(self.loggers[name])
        except Exception as error:  # any: a tool's bug is not the run's
            if name not in self.failed:
                print(
                    f"warning: logger={name} failed, and the run goes on without it: {error}",
                    file=sys.stderr,
                    flush=True,
                )
            self.failed.add(name)
