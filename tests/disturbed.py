"""A run that is stopped or killed, and resumed: helpers of the tests that do it."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil

from fl_app.build import open_session
from fl_app.runs.node_state import default_state_dir
from fl_app.server_app import Experiment
from fl_app.simulation.processes import is_alive
from tests.loopback import Loopback
from tests.outcome import result

PATIENCE = 240  # seconds; what is waited for takes a few on a quiet machine


def last_round(run: Path) -> int:
    """Return the last round of which there is a checkpoint; 0 if there is none."""
    kept = (run / "checkpoints").glob("round-*.safetensors")
    return max((int(path.stem[6:]) for path in kept), default=0)


def wait_for_round(run: Path, number: int, goes_on: Callable[[], bool]) -> None:
    """Wait until round ``number`` of a run is over.

    Raises
    ------
    TimeoutError
        If the run ended before, or takes too long.
    """
    deadline = time.monotonic() + PATIENCE
    while last_round(run) < number:
        if not goes_on() or time.monotonic() > deadline:
            raise TimeoutError(f"{run} has not done round {number}")
        time.sleep(0.02)


def gone(processes: list[psutil.Process], look_every: float = 0.2) -> bool:
    """Tell whether all have ended, within what Ray and Flower take for that."""
    deadline = time.monotonic() + 60
    while any(map(is_alive, processes)) and time.monotonic() < deadline:
        time.sleep(look_every)
    return not any(map(is_alive, processes))


def in_process(overrides: str, state: Path | None = None) -> None:
    """Do a run, or the rest of one, in this process; nodes have kept their memory in ``state``."""
    session = open_session(overrides)
    grid = Loopback(overrides, session.cfg.federation.clients)
    if state is not None:
        grid.run.run_id = 99  # another one than those before
        for context in grid.contexts.values():
            context.run_id = grid.run.run_id
            context.node_config["state-dir"] = str(state)
    Experiment(session, grid, overrides, setup_seconds=0.0).start()


def check_that_it_ends_as_if_undisturbed(folder: Path, words: str) -> None:
    """Resume ``folder/run`` and do the same run beside it without a disturbance.

    Parameters
    ----------
    folder : Path
        The folder of results.
    words : str
        All overrides but the name of the run.
    """
    in_process(f"{words} output.name=run resume={folder}/run", default_state_dir(str(folder)))
    in_process(f"{words} output.name=undisturbed")
    assert result(folder / "run") == result(folder / "undisturbed")
