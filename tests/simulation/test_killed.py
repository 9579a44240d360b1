"""The processes of a simulation are killed, and the run is resumed, on a SuperLink that stays."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fl_app import run
from fl_app.simulation.processes import is_simulation
from tests import small
from tests.disturbed import check_that_it_ends_as_if_undisturbed, last_round, wait_for_round
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
        f"local_epochs=1 logger=none output.dir={tmp_path}"
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
