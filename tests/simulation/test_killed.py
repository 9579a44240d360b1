"""The processes of a simulation are killed, its launcher last, and the run is resumed."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fl_app import run
from fl_app.files import kept_private
from fl_app.simulation.processes import is_alive, is_simulation
from tests import modes, small
from tests.disturbed import (
    check_that_it_ends_as_if_undisturbed,
    gone,
    last_round,
    wait_for_round,
)
from tests.outcome import setups

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]  # of a machine that does more
ROUNDS = 12


def descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def kill_actors() -> None:
    for process in descendants():
        with suppress(psutil.NoSuchProcess):
            if "ClientAppActor" in " ".join(process.cmdline()):
                process.kill()


def kill_server() -> None:
    simulations = [process for process in descendants() if is_simulation(process)]
    max(simulations, key=psutil.Process.create_time).kill()  # an earlier one may be ending


def test_killed_actors_cost_nothing_and_a_killed_server_a_resume(
    flower, tmp_path: Path, capfd
) -> None:
    """Both ends of SCAFFOLD have a memory, and a codec with error feedback has one more."""
    folder = tmp_path / "run"
    words = (
        f"{small.DATA} strategy=scaffold codec=sign clients_per_round=2 rounds={ROUNDS} "
        f"adapter.dropout=0.1 local_epochs=1 logger=none output.dir={tmp_path}"
    )
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run.submit, f"{words} output.name=run", flower)
        for number, kill in ((2, kill_actors), (5, kill_server)):
            wait_for_round(folder, number, lambda: not running.done())
            kill()
        assert running.result() == 1
    said = capfd.readouterr()
    assert "which is done again: ActorDiedError" in said.out
    assert "the run did not complete (finished:failed). The server's process was ended" in said.err
    assert 5 <= last_round(folder) < ROUNDS

    check_that_it_ends_as_if_undisturbed(tmp_path, words)
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["clients"]["lost"], summary["clients"]["asked"]) == (0, 2 * ROUNDS)
    (resumed,) = summary["resumed"]
    assert {number for number, _, _ in setups(folder)} == {0, resumed + 1}


def test_a_killed_launcher_leaves_no_process(
    launcher, flower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of the tests that share it."""
    monkeypatch.setattr(run, "status", lambda _: ("unknown", ""))  # who could answer is gone
    words = (
        f"{small.DATA} strategy=single_client codec=sign local_epochs=1 logger=none "
        f"output.dir={tmp_path}"
    )
    folder, home = tmp_path / "run", Path(flower["FLWR_HOME"])
    (home / "thinwire.toml").unlink(missing_ok=True)  # of an earlier test
    with kept_private(), ThreadPoolExecutor(1) as pool:
        running = pool.submit(run.submit, f"{words} output.name=run rounds=1000", flower)
        wait_for_round(folder, 2, lambda: not running.done())
        family = [one for one in descendants() if serves(one, home)]
        (simulation,) = [one for one in family if is_simulation(one)]
        (raylet,) = [one for one in family if one.name() == "raylet"]
        assert len(family) > 6  # SuperLink, its SuperExec, an actor, the command of Flower
        launcher.kill()
        launcher.wait()
        assert gone([raylet], look_every=0.005)
        assert not is_alive(simulation)  # else it would go on without the clients that Ray ran
        assert gone(family)
        assert running.result() == 1
    ray = Path(flower["RAY_TMPDIR"])
    check_that_it_is_its_users_alone(home, ray, folder, tmp_path / ".nodes")
    for left in (home, ray):
        shutil.rmtree(left)
    check_that_it_ends_as_if_undisturbed(tmp_path, f"{words} rounds={last_round(folder) + 1}")


def serves(process: psutil.Process, home: Path) -> bool:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return process.environ().get("FLWR_HOME") == str(home)
    return False


def check_that_it_is_its_users_alone(home: Path, ray: Path, run: Path, nodes: Path) -> None:
    """Look at what a run, its nodes and its launcher have left."""
    assert modes.of(home) == modes.of(ray) == 0o700
    assert {"config.toml", "superlink.log", "superexec.log", "thinwire.toml"} <= {
        path.name for path in home.iterdir()
    }
    assert modes.open_to_others(home) == {}  # Ray opens its part to all, in vain
    assert list(nodes.glob("*/client-*"))
    assert modes.open_to_others(run) == modes.open_to_others(nodes) == {}
