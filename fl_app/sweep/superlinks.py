"""The SuperLinks of a sweep: started once, and shared by its runs with any local launcher."""

import fcntl
import json
import os
import sys
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

from fl_app.config import ConfigError
from fl_app.runs.place import check_writable
from fl_app.simulation.superlink import SuperLinkError, superlinks

SHARED = "THINWIRE_SUPERLINKS"  # environment variable: the folder that lists a sweep's SuperLinks
WAIT_SECONDS = 0.1
STARTED = ExitStack()  # what this process has started; it is closed when the process ends
FOLDERS: list[Path] = []  # the folders of the sweeps that this process has started


class SharedSuperLinks(Callback):
    """Starts one SuperLink per simultaneous run on this machine; they share its processors.

    Runs that Hydra launches elsewhere (Slurm, a Ray cluster) start a SuperLink of their own.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Start the SuperLinks, and let the processes of runs find them.

        Raises
        ------
        SystemExit
            If the sweep's folder exists or cannot be written, or a SuperLink does not start. Hydra
        hides other errors.
        """
        folder = Path(config.hydra.sweep.dir).absolute()
        if folder.exists() and not config.resume:
            print(
                f"configuration: {folder} exists: choose another output.name, continue it with "
                "resume=true, or remove the folder",
                file=sys.stderr,
            )
            sys.exit(2)
        try:
            check_writable(folder)
        except ConfigError as error:
            print(f"configuration: {error}", file=sys.stderr)
            sys.exit(2)
        number = at_once(config.hydra.launcher)
        print(f"sweep: {folder}", flush=True)
        try:
            share(STARTED.enter_context(superlinks(number)))
        except SuperLinkError as error:
            print(error, file=sys.stderr)
            sys.exit(1)
        FOLDERS.append(folder)


def share(environments: list[dict[str, str]]) -> None:
    """Let the processes of runs find the SuperLinks through the environment.

    Without any, each run starts its own.
    """
    if environments:
        folder = Path(STARTED.enter_context(tempfile.TemporaryDirectory(prefix="thinwire-sweep-")))
        for index, environment in enumerate(environments):
            (folder / f"{index}.json").write_text(json.dumps(environment))
        os.environ[SHARED] = str(folder)
        STARTED.callback(os.environ.pop, SHARED)


def at_once(launcher: DictConfig) -> int:
    """Return how many runs a Hydra launcher starts at once on this machine; 0 if elsewhere.

    It is at most the number of processors.
    """
    kind = str(launcher._target_).rpartition(".")[2]
    if kind == "BasicLauncher":
        return 1
    if kind == "JoblibLauncher":
        return min(joblib.effective_n_jobs(launcher.n_jobs), joblib.cpu_count())
    return 0


@contextmanager
def free_superlink() -> Iterator[dict[str, str]]:
    """Wait for a SuperLink that no other run uses, and yield its environment.

    Outside of a sweep, start a new one.
    """
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
