"""A run that is killed with SIGKILL, at any point, and resumed ends as if nothing had happened.

For breadth, server and nodes are one process, forked from one that has built the session: it is
killed before each of the things that it does to a file of the run or of a node, and at each message
to a node. For truth, the processes of a real run are killed: see the end.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fl_app.build import forget_session, open_session
from fl_app.files import project_root
from fl_app.runs import checkpoint
from fl_app.server_app import Experiment
from fl_app.simulation.processes import descendants, is_alive, is_simulation
from tests import modes, small
from tests.loopback import Loopback
from tests.outcome import result, setups

ROUNDS = 3
WAYS = {
    "nf4, one client": "experiment=nf4_single",
    "fedavg of two": "strategy=fedavg codec=nf4 clients_per_round=2",
    "SCAFFOLD's two parts, memory, and error feedback": "strategy=scaffold codec=sign "
    "clients_per_round=2",
    "shift and error feedback, both ways": "strategy=fedavg codec=fp32 clients_per_round=2"
    " '++codec.down={id: chain, links: [{id: delta}, {id: error_feedback, inner: {id: nf4}}]}'"
    " '++codec.up={id: chain, links: [{id: delta}, {id: shift, inner: {id: nf4}}]}'"
    " codec.reference=broadcast",
    "a server with momentum": "strategy=fedadam codec=nf4 clients_per_round=2",
    "patches of the frozen weights": "strategy=flora codec=nf4 clients_per_round=2 adapter.r=4",
}
STRIDE = 12  # of the points at which a way is killed: each way has others
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
@pytest.mark.parametrize(("offset", "way"), enumerate(WAYS), ids=WAYS)
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


# ---- the processes of a real run ------------------------------------------------------------


class Launcher:
    """``python -m fl_app.run``, as ``make run`` starts it, once or again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, []

    def start(self, words: str) -> subprocess.Popen[str]:
        with (self.folder / "log").open("a") as log:
            self.started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "fl_app.run", words],
                    stdout=log, stderr=subprocess.STDOUT, text=True, cwd=project_root(),
                    umask=0o022,  # under which others may read what a process makes
                )
            )  # fmt: skip
        return self.started[-1]

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def family(self, rounds: int) -> list[psutil.Process]:
        """Wait until at least so many rounds are over; return the processes of the run."""
        kept, deadline = self.folder / "run" / "checkpoints", time.monotonic() + PATIENCE
        while last_round(kept) < rounds:
            assert self.started[-1].poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)
        return descendants(self.started[-1].pid)


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    here = Launcher(tmp_path)
    yield here
    for process in here.started:
        process.terminate()
        process.wait(PATIENCE)


def last_round(checkpoints: Path) -> int:
    return max((int(p.stem[6:]) for p in checkpoints.glob("round-*.safetensors")), default=0)


def gone(processes: list[psutil.Process], look_every: float = 0.2) -> bool:
    """Tell whether all have ended, within what Ray and Flower take for that."""
    deadline = time.monotonic() + 60
    while any(map(is_alive, processes)) and time.monotonic() < deadline:
        time.sleep(look_every)
    return not any(map(is_alive, processes))


def check_that_it_is_its_users_alone(home: Path, run: Path, nodes: Path) -> None:
    """Look at what a run, its nodes and its launcher have left."""
    assert modes.of(home) == 0o700
    assert {"config.toml", "superlink.log", "superexec.log", "thinwire.toml"} <= {
        path.name for path in home.iterdir()
    }
    ours = {path: mode for path, mode in modes.open_to_others(home).items() if "/ray/" not in path}
    assert ours == {str(home / "ray"): "0o777"}  # Ray opens its part to all, in vain
    assert list(nodes.glob("*/client-*"))
    assert modes.open_to_others(run) == modes.open_to_others(nodes) == {}


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_server_launcher_and_actor_are_killed_in_turn(tmp_path: Path, launcher: Launcher) -> None:
    forks = Forks(tmp_path, WAYS["SCAFFOLD's two parts, memory, and error feedback"], rounds=20)
    forks.prepare(forks.words)
    assert forks.start(forks.words) == 0, forks.told.read_text()
    forks.run.rename(tmp_path / "undisturbed")
    expected = result(tmp_path / "undisturbed")
    again, kept = f"resume={forks.run}", forks.run / "checkpoints"

    process = launcher.start(forks.words)
    family = launcher.family(1)
    (simulation,) = [member for member in family if is_simulation(member)]
    simulation.kill()
    assert process.wait(PATIENCE) == 1
    assert gone(family)
    assert "the run did not complete (finished:failed)" in launcher.log()

    process = launcher.start(again)
    family = launcher.family(last_round(kept) + 2)
    (simulation,) = [member for member in family if is_simulation(member)]
    (raylet,) = [member for member in family if member.name() == "raylet"]
    home = Path(simulation.environ()["FLWR_HOME"])
    process.kill()
    process.wait(PATIENCE)
    assert gone([raylet], look_every=0.005)
    assert not is_alive(simulation)  # else it would go on without the clients that Ray ran
    assert gone(family)
    check_that_it_is_its_users_alone(home, forks.run, tmp_path / ".nodes")
    shutil.rmtree(home)

    process = launcher.start(f"{again} federation.max_failures=0")
    family = launcher.family(last_round(kept) + 2)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            if "ClientAppActor" in " ".join(member.cmdline()):
                member.kill()
    assert process.wait(PATIENCE) == 1
    assert gone(family)
    assert json.loads((forks.run / "summary.json").read_text())["status"] == "failed"
    assert last_round(kept) < 20

    assert launcher.start(again).wait(PATIENCE) == 0, launcher.log()
    assert result(forks.run) == expected
    resumed = json.loads((forks.run / "summary.json").read_text())["resumed"]
    assert len(resumed) == 3
    assert {number for number, _, _ in setups(forks.run)} == {0, *(k + 1 for k in resumed)}
