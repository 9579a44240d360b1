"""Where nodes on this machine keep the state that a resumed run needs."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from fl_app.files import project_root


def run_folder(run_id: int) -> str:
    """Return the name of a run's folder on a node; ``run_id`` is Flower's."""
    return f"{run_id:x}"


def forget_runs(state_dir: Path, run_ids: Iterable[int]) -> None:
    """Remove the state that nodes on this machine have kept for runs that have ended."""
    for run_id in run_ids:
        shutil.rmtree(state_dir / run_folder(run_id), ignore_errors=True)


def default_state_dir(output_dir: str) -> Path:
    """Return the folder for the state of simulated nodes that have no ``state-dir``."""
    return project_root() / output_dir / ".nodes"
