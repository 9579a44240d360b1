"""The SuperLinks of a sweep: started once, shared by its runs, however they are launched."""

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import joblib
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from fl_app.superlink import superlinks

SHARED = "THINWIRE_SUPERLINKS"  # of the environment: the folder of what a sweep has started
WAIT_SECONDS = 0.1
STARTED = ExitStack()  # what this process has started, to be closed when it ends
FOLDERS: list[Path] = []  # of the sweeps that this process has begun


class SharedSuperLinks(Callback):
    """Starts as many SuperLinks as runs go at once on this machine; they share its processors.

    Runs that Hydra launches elsewhere (Slurm, a Ray cluster) start a SuperLink of their own.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Start them, and let the processes of runs find them."""
        FOLDERS.append(Path(config.hydra.sweep.dir).absolute())
        number = at_once(config.hydra.launcher)
        if number == 0:
            return
        folder = Path(STARTED.enter_context(tempfile.TemporaryDirectory(prefix="thinwire-sweep-")))
        for index, environment in enumerate(STARTED.enter_context(superlinks(number))):
            (folder / f"{index}.json").write_text(json.dumps(environment))
        os.environ[SHARED] = str(folder)
        STARTED.callback(os.environ.pop, SHARED)


def at_once(launcher: DictConfig) -> int:
    """Return how many runs a Hydra launcher starts at once on this machine, 0 if elsewhere.

    Never more than there are processors.
    """
    kind = str(launcher._target_).rpartition(".")[2]
    if kind == "BasicLauncher":
        return 1
    if kind == "JoblibLauncher":
        return min(joblib.effective_n_jobs(launcher.n_jobs), len(os.sched_getaffinity(0)))
    return 0


@contextmanager
def free_superlink() -> Iterator[dict[str, str]]:
    """Yield a SuperLink that no other run uses, waiting for one; a new one outside a sweep."""
    shared = os.environ.get(SHARED)
    if shared is None:
        with superlinks() as (environment,):
            yield environment
        return
    for path in cycle(sorted(Path(shared).glob("*.json"))):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released if this process dies
            except BlockingIOError:
                time.sleep(WAIT_SECONDS)
                continue
            yield json.load(file)
            return
