"""A run that is killed with SIGKILL, at any point, and resumed ends as if nothing had happened.

For breadth, server and nodes are one process, forked from one that has built the session: it is
killed before each of the things that it does to a file of the run or of a node, and at each message
to a node. The processes of real runs are killed in ``simulation/`` and ``server/test_faults.py``.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_app.build import forget_session, open_session
from fl_app.runs import checkpoint
from fl_app.server_app import Experiment
from tests import small
from tests.combinations import combinations
from tests.loopback import Loopback
from tests.outcome import result, setups

ROUNDS = 3
WAYS = {
    "nf4, one client": "experiment=nf4_single",
    "fedavg of two": "strategy=fedavg codec=nf4 clients_per_round=2",
    "SCAFFOLD's two parts, memory, and error feedback": "strategy=scaffold codec=sign "
    "clients_per_round=2",
    "server momentum, shift, and error feedback, both ways": "strategy=fedadam codec=fp32"
    " clients_per_round=2"
    " '++codec.down={id: chain, links: [{id: delta}, {id: error_feedback, inner: {id: nf4}}]}'"
    " '++codec.up={id: chain, links: [{id: delta}, {id: shift, inner: {id: nf4}}]}'"
    " codec.reference=broadcast",
    "FL-TAC's clusters, of which clients keep theirs": "strategy=fl_tac strategy.inner.features=0 "
    "strategy.inner.column=fields strategy.inner.slots=9 strategy.inner.clusters=3 codec=fp32 "
    "clients_per_round=2 adapter.r=2",
    "patches of the frozen weights, and the best round": "strategy=flora codec=nf4 "
    "clients_per_round=2 adapter.r=4 data.validation_documents=2",
    "DGC's memories of two parts": "strategy=dgc codec=fp16 clients_per_round=2",
    "1-bit Adam's forms, and what both ends know": "strategy=onebit_adam codec=fp32 "
    "clients_per_round=2 strategy.inner.freeze=1",
    "SCAFCOM's control variates and momentum": "strategy=scafcom codec=fp32 clients_per_round=2",
    "AQUILA's innovations, and silence": "strategy=aquila codec=fp32 clients_per_round=3 "
    "strategy.local.beta=100",
    "SAFARI over a link that loses": "strategy=safari codec=sign clients_per_round=2 link=lossy "
    "link.up.loss=0.4 link.down.loss=0.1",
    "levels by the link's rate": "strategy=rate_control codec=thin clients_per_round=2 link=2g "
    "link.down.loss=0.3",
    "FLASC's whole model and moments, of which tiers get their own": "strategy=flasc codec=fp32 "
    "clients_per_round=2 strategy.inner.tiers=2",
    "FedEP's sites": "experiment=fedep codec=nf4 clients_per_round=2",
    "FeedSign's votes, and the model that clients keep": "strategy=feedsign codec=fp32 "
    "clients_per_round=2 strategy.inner.directions=8",
    "FedKSeed's steps, from which both ends replay": "strategy=fedkseed codec=fp32 "
    "clients_per_round=2 strategy.inner.seeds=8",
    "FedSEP, of which clients keep nothing": "strategy=fedep codec=nf4 clients_per_round=2 "
    "strategy.local.method=fedsep federation.max_update_rms=null",
    "RM-LoRA, of which a round moves half": "experiment=rm_lora adapter.r=4 "
    "strategy.inner.k=2 clients_per_round=2",
    "scores of which signs are sent": "experiment=sign_mask",
}
SUITE = (
    "SCAFFOLD's two parts, memory, and error feedback",
    "server momentum, shift, and error feedback, both ways",
    "patches of the frozen weights, and the best round",
)  # fmt: skip
STRIDE = 20  # of the points at which a way is killed: each way has others
PATIENCE = 240  # seconds; what is waited for takes a few on a quiet machine
KILLED = -signal.SIGKILL
EVENTS = {"open": 0, "os.rename": 1, "os.remove": 0, "os.mkdir": 0}  # and which argument is a path


class Forks:
    """Runs of one configuration, in ``folder/run``, each in a fork of this process."""

    def __init__(self, folder: Path, words: str, rounds: int = ROUNDS) -> None:
        self.run, self.nodes, self.told = folder / "run", folder / "nodes", folder / "told"
        self.nodes.mkdir()
        self.words = (
            f"{small.DATA} {words} rounds={rounds} local_epochs=1 logger=none "
            f"output.dir={folder} output.name=run"
        )
        self.again = f"{self.words} resume={self.run}"
        self.starts = 0

    def prepare(self, words: str) -> None:
        """Build what all forks share."""
        forget_session()
        _ = open_session(words).data

    def start(self, words: str, stop: int | None = None) -> int:
        """Run, until point ``stop``; return the exit status. ``told`` has the points, or why."""
        self.starts += 1
        child = os.fork()
        if child == 0:
            status = 1
            try:
                self._work(words, stop)
                status = 0
            except BaseException:
                self.told.write_text(traceback.format_exc())
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _work(self, words: str, stop: int | None) -> None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        points: list[str] = []

        def reach(what: str) -> None:
            points.append(what)
            if len(points) - 1 == stop:
                os.kill(os.getpid(), signal.SIGKILL)

        self._hook(reach)
        here, grid = open_session(words), Loopback(words, 3)
        grid.run.run_id = self.starts
        for context in grid.contexts.values():
            context.run_id = self.starts
            context.node_config["state-dir"] = str(self.nodes)
        deliver = grid.deliver

        def delivered(message):
            reach(f"a message of type {message.metadata.message_type}")
            return deliver(message)

        grid.deliver = delivered
        Experiment(here, grid, words, setup_seconds=0.0).start()
        self.told.write_text("\n".join(points))

    def _hook(self, reach: Callable[[str], None]) -> None:
        watched = (str(self.run), str(self.nodes))

        def hear(event: str, arguments: tuple) -> None:
            if event in EVENTS:
                path = arguments[EVENTS[event]]
                writes = event != "open" or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
                if isinstance(path, str) and path.startswith(watched) and writes:
                    reach(f"{event} {path}")

        sys.addaudithook(hear)  # a fork's end is the only end of it


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("offset", "way"),
    combinations(enumerate(WAYS), suite=[(k, way) for k, way in enumerate(WAYS) if way in SUITE]),
    ids=WAYS,
)
def test_a_run_killed_at_any_point_ends_as_if_it_had_not_been(
    tmp_path: Path, offset: int, way: str
) -> None:
    forks = Forks(tmp_path, WAYS[way])
    forks.prepare(forks.words)
    assert forks.start(forks.words) == 0, forks.told.read_text()
    points = forks.told.read_text().splitlines()
    forks.run.rename(tmp_path / "undisturbed")
    expected, asked = result(tmp_path / "undisturbed"), setups(tmp_path / "undisturbed")
    assert sum("train" in point for point in points) >= ROUNDS
    assert ("adapter-best" in expected["adapters"]) == ("validation" in WAYS[way])

    killed = {}
    for at, point in list(enumerate(points))[offset::STRIDE]:
        assert forks.start(forks.words, at) == KILLED, (point, forks.told.read_text())
        if not (forks.run / "config.yaml").exists():
            assert at < 6  # its name is all that the run had
        else:
            killed[at] = tmp_path / f"killed-{at}"
            forks.run.rename(killed[at])
            continue
        if forks.run.exists():
            forks.run.rename(tmp_path / f"nothing-{at}")

    forks.run.mkdir()
    (forks.run / "config.yaml").touch()
    forks.prepare(forks.again)
    (forks.run / "config.yaml").unlink()
    forks.run.rmdir()
    resumed = 0
    for at, folder in killed.items():
        folder.rename(forks.run)
        had = checkpoint.load(forks.run / "checkpoints")
        second = at * 7 % len(points)  # and once more, elsewhere
        statuses = [forks.start(forks.again, second)]
        while statuses[-1] == KILLED:
            statuses.append(forks.start(forks.again))
        if statuses[-1]:  # nothing was left to do
            assert "nothing is left" in forks.told.read_text(), (points[at], points[second])
        else:
            resumed += 1
        assert result(forks.run) == expected, (points[at], points[second], had and had[1])
        forks.run.rename(folder)
    assert resumed >= len(killed) - 3
    assert asked
