"""``python -m fl_app.run [OVERRIDE ...]``: one self-contained ``flwr run`` in simulation.

It starts a SuperLink, submits the app, shows its log, and stops everything that it started. The
exit status is that of the run: 0 completed, 1 failed, 2 wrong configuration, 130 interrupted.
"""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import TextIO

import joblib
from omegaconf import DictConfig

from fl_app.config import ConfigError, compose
from fl_app.files import keep_private
from fl_app.preflight import check_built, configured
from fl_app.progress.display import display
from fl_app.progress.events import say, send
from fl_app.runs import text
from fl_app.runs.place import folder_of
from fl_app.runs.resume import ResumeError, is_complete
from fl_app.simulation.helpers import EVERY, ended
from fl_app.simulation.processes import handled_by, interrupt
from fl_app.simulation.superlink import (
    APP,
    CONNECTION,
    CPUS,
    SuperLinkError,
    script,
    status,
    superlinks,
)


def main(arguments: list[str]) -> int:
    """Run the experiment that ``arguments`` (Hydra overrides) name; return the exit status."""
    keep_private()
    try:
        with handled_by(interrupt), display():
            say("checking the configuration")
            overrides, cfg, actors = planned(" ".join(arguments))
            say(f"starting the federation: a server and {cfg.federation.clients} simulated clients")
            with superlinks(actors=actors) as (environment,):
                check_built(cfg)  # it imports torch, while the SuperLink's processes do the same
                try:
                    return submit(overrides, environment)
                finally:
                    send(phase="ending the federation")
    except (ConfigError, ResumeError, FileExistsError) as error:
        print(f"configuration: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted; the results so far are in the run's folder; to resume: resume=FOLDER",
            file=sys.stderr,
        )
        return 130
    except SuperLinkError as error:
        print(error, file=sys.stderr)
        return 1


def planned(overrides: str) -> tuple[str, DictConfig, int]:
    """Return overrides, configuration and number of actors of a run, checked without torch.

    Raises
    ------
    ConfigError, ResumeError, FileExistsError
        See ``fl_app.preflight.configured`` and `cpus_per_actor`.
    """
    overrides, cfg = configured(overrides)
    return overrides, cfg, joblib.cpu_count() // cpus_per_actor(cfg, joblib.cpu_count())


def submit(
    overrides: str, environment: dict[str, str], out: TextIO | None = None, wait: bool = True
) -> int:
    """Submit the app with ``flwr run``, show its log, and wait for its end.

    Every client gets a simulated node.

    Parameters
    ----------
    overrides : str
        Those of the run.
    environment : dict
        That of its SuperLink, see ``superlinks``.
    out : TextIO or None
        Where the log goes; None: standard output.
    wait : bool
        Wait until all processes have ended. Otherwise return as soon as all results are written.

    Returns
    -------
    int
        0 if the run completed, else 1.
    """
    cfg = compose(overrides)
    # In a file, because Flower's KEY="VALUE" cannot contain both kinds of quotes.
    run_config = Path(environment[APP]).with_suffix(".toml")
    run_config.write_text(f"overrides = {json.dumps(overrides)}\n")
    command = [
        script("flwr"), "run", environment[APP], CONNECTION, "--stream",
        "--run-config", str(run_config),
        "--federation-config",
        f"num-supernodes={cfg.federation.clients} "
        f"client-resources-num-cpus={cpus_per_actor(cfg, int(environment[CPUS]))} "
        "init-args-log-to-driver=false",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    over, lost = threading.Event(), list[str]()

    def watch() -> None:
        while not over.wait(EVERY):
            if said := ended(environment):
                lost.append(said)
                process.terminate()  # it would wait for an answer
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if not _is_noise(line):
                print(line, end="", file=out, flush=True)
            if line.startswith(text.LAST_LINE) and not wait and _has_completed(cfg):
                return 0
        process.wait()
    finally:
        over.set()
        if process.poll() is None:
            process.terminate()
    if _has_completed(cfg):
        return 0
    if lost:
        print(lost[0], file=out or sys.stderr)
        return 1
    final, details = status(environment)
    if final == "finished:completed":
        return 0
    if said := ended(environment):  # the stream can end before it is looked at again
        print(said, file=out or sys.stderr)
        return 1
    print(f"the run did not complete ({final}). {details}", file=out or sys.stderr)
    return 1


def _has_completed(cfg: DictConfig) -> bool:
    """Tell whether the run's summary says "completed"; False if its folder is not known."""
    path = folder_of(cfg)
    return path is not None and is_complete(path)


def cpus_per_actor(cfg: DictConfig, cpus: int) -> int:
    """Return the number of processors that Ray reserves per actor, at least one per thread.

    Flower starts as many actors as fit. More actors than clients in a round would only import torch
    and wait.

    Parameters
    ----------
    cfg : DictConfig
        The configuration of the run.
    cpus : int
        The processors of the simulation.

    Raises
    ------
    ConfigError
        If a client needs more threads than there are processors.
    """
    threads = cfg.federation.torch_threads
    if threads > cpus:
        raise ConfigError(
            f"federation.torch_threads={threads}, but a run has {cpus} processors here: lower it "
            "(or hydra.launcher.n_jobs, in a sweep)"
        )
    at_once = max(1, cfg.clients_per_round, cfg.evaluate_clients_per_round)
    return max(threads, cpus // at_once)


# Lines that Flower and Ray print in every run, without information about this one.
NOISE = (
    "Using SuperLink", "Successfully started run", "Starting logstream",
    "Starting Flower Simulation", "Since flwr 1.32", "Federation `", "To change federation size",
    "flwr federation", "torch.jit.script_method", "  warnings.warn(",
)  # fmt: skip


def _is_noise(line: str) -> bool:
    return any(text in line for text in NOISE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
