"""Where nodes on this machine keep what a resumed run needs."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from fl_app.files import project_root


def run_folder(run_id: int) -> str:
    """Return the name of a run's folder on a node."""
    return f"{run_id:x}"


def forget(state_dir: Path, run_ids: Iterable[int]) -> None:
    """Remove what nodes on this machine have kept of a run that is over."""
    for run_id in run_ids:
        shutil.rmtree(state_dir / run_folder(run_id), ignore_errors=True)


def default(output_dir: str) -> Path:
    """Return where simulated nodes without a ``state-dir`` keep things."""
    return project_root() / output_dir / ".nodes"
