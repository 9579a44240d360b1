"""``python -m fl_app.sweep -m KEY=A,B ...``: a Hydra multirun in which each job is a ``flwr run``.

At the end it prints a table and writes results.csv, report.html and pareto.png to the sweep's
folder. The exit status is 0 if every run completed, 1 if one failed, 2 for a wrong configuration,
130 if interrupted.
"""

import json
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import parent_process
from pathlib import Path

import hydra
import psutil
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from fl_app.config import CONF_DIR, ConfigError, compose, identity
from fl_app.config.data_only import key_of
from fl_app.config.shorthand import expanded
from fl_app.files import keep_private, project_root
from fl_app.preflight import check
from fl_app.preflight.inferred import with_inferred
from fl_app.run import submit
from fl_app.runs.read import Run, is_run, read
from fl_app.runs.text import duration
from fl_app.simulation.superlink import SuperLinkError
from fl_app.sweep.first_job import OF_THE_SWEEP, check_first
from fl_app.sweep.names import folder_name, varying
from fl_app.sweep.summary import JOBS, Job, conclude
from fl_app.sweep.superlinks import FOLDERS, STARTED, free_superlink


@hydra.main(config_path=str(CONF_DIR), config_name="multirun", version_base="1.3")
def job(cfg: DictConfig) -> float | None:
    """Run one job of a sweep.

    Returns
    -------
    float or None
        The bytes until its target was met, as an objective to minimize; infinite if it was missed,
        None if the job failed.
    """
    keep_private()  # a launcher may have started this process
    if parent_process() is not None:  # the sweep's own process stops the jobs
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    began = time.monotonic()
    sweep = project_root() / HydraConfig.get().sweep.dir
    words, own = words_of_job(), shlex.split(cfg.job)
    name = folder_name(HydraConfig.get().job.num, own, words, varying(sweep))
    words += own
    found = run = None
    try:
        overrides, _ = with_inferred(shlex.join(words))
        wanted = compose(overrides)
        check(wanted)
        found = completed(project_root() / cfg.output.dir, wanted) if cfg.resume else None
        folder = found or _run(sweep, name, shlex.split(overrides))
        log = Path(f"{folder}.log")
        run = read(folder) if is_run(folder) else None
        why = "" if run and run.status == "completed" else f"{last_line(log)} (see {log})"
    except (ConfigError, SuperLinkError, OSError) as error:
        why = str(error)
    ended = Job(
        number=HydraConfig.get().job.num,
        words=shlex.join(words) or "the default configuration",
        run=None if run is None else str(run.path),
        status="failed" if run is None else run.status,
        why=why,
    )
    ended.add_to(sweep)
    took = "already completed" if found else f"took {duration(time.monotonic() - began)}"
    print(f"{ended.line(run)}; {took}", flush=True)
    return bytes_to_target(run) if ended.status == "completed" and run else None


def bytes_to_target(run: Run) -> float:
    """Return the bytes sent until a run met its target; infinite if it did not."""
    target = run.option("target.value")
    met = None if target is None else run.first_met(target)
    return math.inf if met is None else float(run.ledger.sent(until=met))


def words_of_job() -> list[str]:
    """Return the overrides that Hydra passes to this job, without those of the sweep itself."""
    parser = OverridesParser.create()
    return [
        word
        for word in HydraConfig.get().overrides.task
        if key_of(parser.parse_override(word)) not in OF_THE_SWEEP
    ]


def completed(folder: Path, wanted: DictConfig) -> Path | None:
    """Return a completed run below ``folder`` with the configuration ``wanted``, if any."""
    sought = identity(wanted)
    for path in sorted(folder.glob("**/summary.json")):
        with suppress(ValueError, KeyError, FileNotFoundError):  # skip damaged runs
            summary = json.loads(path.read_text())
            if (summary["status"], summary["seed"]) == ("completed", wanted.seed):
                run = read(path.parent)
                if identity(run.config) == sought:
                    return run.path
    return None


def _run(sweep: Path, name: str, words: list[str]) -> Path:
    """Run a job in a new folder, with its log beside it; return the folder."""
    folder = next(path for path in _names(sweep / name) if not path.exists())
    words = [*words, f"output.dir='{sweep}'", f"output.name={folder.name}"]
    with free_superlink() as environment, Path(f"{folder}.log").open("w") as log:
        submit(shlex.join(words), environment, log, wait=False)  # the next run may start
    return folder


def last_line(log: Path) -> str:
    """Return the last line of a job's log, which says why it ended."""
    lines = log.read_text().split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it left no log")


def _names(path: Path) -> Iterator[Path]:
    yield path
    for attempt in range(2, 1000):
        yield path.with_name(f"{path.name}-{attempt}")


def main() -> int:
    """Run the sweep of the command line; return the exit status."""
    keep_private()
    try:
        sys.argv[1:] = expanded(sys.argv[1:], Path.cwd())
        check_first(sys.argv[1:])
    except ConfigError as error:
        print(f"configuration: {error}", file=sys.stderr)
        return 2
    os.chdir(project_root())  # output.dir is relative to it
    interrupted = refused = False
    with STARTED:
        try:
            job()
        except KeyboardInterrupt:
            interrupted = True
            _end_workers()
        except SystemExit as ending:  # Hydra has printed what is wrong
            refused = bool(ending.code)
    if not FOLDERS:
        return 130 if interrupted else 2 if refused else 0
    folder = FOLDERS[-1]
    if refused and not (folder / JOBS).exists():  # refused after Hydra had made the folder
        (folder / "multirun.yaml").unlink(missing_ok=True)
        with suppress(OSError):  # the folder contains something else
            folder.rmdir()
        return 2
    status = conclude(folder)
    if interrupted:
        print(f"to continue: the same command with output.name={folder.name} resume=true")
    return 130 if interrupted else 2 if refused else status


def _end_workers() -> None:
    """Kill the processes of a parallel launcher and their ``flwr run`` commands."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any("LokyProcess" in word for word in process.cmdline()):
                for member in (process, *process.children(recursive=True)):
                    member.kill()
