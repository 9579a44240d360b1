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


def test_actors_and_server_are_killed_in_turn(flower, tmp_path: Path, capfd) -> None:
    """Both ends of SCAFFOLD have a memory, and a codec with error feedback has one more."""
    folder = tmp_path / "run"
    words = (
        f"{small.DATA} strategy=scaffold codec=sign clients_per_round=2 rounds={ROUNDS} "
        f"adapter.dropout=0.1 local_epochs=1 logger=none output.dir={tmp_path}"
    )
    again = f"resume={folder}"
    with ThreadPoolExecutor(1) as pool:
        for kill, more in (
            (kill_actors, "federation.max_failures=0"),
            (kill_server, f"{again} federation.max_failures=0.5"),
        ):
            before = last_round(folder)
            running = pool.submit(run.submit, f"{words} output.name=run {more}", flower)
            wait_for_round(folder, before + 2, lambda: not running.done())  # noqa: B023
            kill()
            assert running.result() == 1
            assert "the run did not complete (finished:failed)" in capfd.readouterr().err
            assert last_round(folder) < ROUNDS
            if kill is kill_actors:
                assert json.loads((folder / "summary.json").read_text())["status"] == "failed"

    check_that_it_ends_as_if_undisturbed(tmp_path, words)
    resumed = json.loads((folder / "summary.json").read_text())["resumed"]
    assert len(resumed) == 2
    assert {number for number, _, _ in setups(folder)} == {0, *(k + 1 for k in resumed)}


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
    check_that_it_is_its_users_alone(home, folder, tmp_path / ".nodes")
    shutil.rmtree(home)
    check_that_it_ends_as_if_undisturbed(tmp_path, f"{words} rounds={last_round(folder) + 1}")


def serves(process: psutil.Process, home: Path) -> bool:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return process.environ().get("FLWR_HOME") == str(home)
    return False


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
