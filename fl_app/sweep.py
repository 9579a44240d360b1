"""``python -m fl_app.sweep -m KEY=A,B ...``: a Hydra multirun, of which each job is a ``flwr run``.

Ends with a table, and in the sweep's folder results.csv, report.html and pareto.png. The exit
status is 0 if every run completed, 1 if one failed, 2 for a wrong configuration, 130 if
interrupted.
"""

import json
import math
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import hydra
import psutil
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from fl_app.config import CONF_DIR, ConfigError, compose, identity
from fl_app.installed import project_root
from fl_app.preflight import check
from fl_app.run import submit
from fl_app.sweep_summary import JOBS, conclude
from fl_app.sweep_superlinks import FOLDERS, STARTED, free_superlink
from fl_app.text import duration, score, size, title

OF_THE_SWEEP = ("sweep", "resume", "job", "output.name", "output.dir")  # not of a job
LONGEST_NAME = 120


@hydra.main(config_path=str(CONF_DIR), config_name="multirun", version_base="1.3")
def job(cfg: DictConfig) -> float:
    """Run one job; return the bytes until its target was met, as an objective to minimize.

    Infinite if it was missed, not a number if the job failed.
    """
    if parent_process() is not None:  # the sweep's own process tells the jobs when to stop
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    began = time.monotonic()
    folder = project_root() / HydraConfig.get().sweep.dir
    words = words_of_job(cfg)
    name = shlex.join(words) or "the default configuration"
    try:
        wanted = compose(shlex.join(words))
        check(wanted)
        found = completed(project_root() / cfg.output.dir, wanted) if cfg.resume else None
        record = {"run": str(found or _run(folder, words))}
    except ConfigError as error:
        found, record = None, {"error": str(error)}
    summary = _summary(record)
    line = {"job": name, "status": summary["status"], "why": summary.get("why", ""), **record}
    _add_line(folder / JOBS, line)
    seconds = "was there" if found else duration(time.monotonic() - began)
    print(f"job {HydraConfig.get().job.num}  {name}: {_outcome(summary)}, {seconds}", flush=True)
    if summary["status"] != "completed":
        return math.nan
    until = summary["target"]["bytes"]
    return math.inf if until is None else float(until)


def words_of_job(cfg: DictConfig) -> list[str]:
    """Return the overrides of this job, without those of the sweep itself."""
    parser = OverridesParser.create()
    words = [
        word
        for word in HydraConfig.get().overrides.task
        if parser.parse_override(word).key_or_group.lstrip("/") not in OF_THE_SWEEP
    ]
    return words + shlex.split(cfg.job)


def completed(folder: Path, wanted: DictConfig) -> Path | None:
    """Return a completed run below ``folder`` with the configuration ``wanted``, if any."""
    for path in sorted(folder.glob("**/summary.json")):
        summary = json.loads(path.read_text())
        same = summary["status"] == "completed" and summary["seed"] == wanted.seed
        if same and identity(OmegaConf.load(path.with_name("config.yaml"))) == identity(wanted):
            return path.parent
    return None


def _run(sweep: Path, words: list[str]) -> Path:
    """Run a job in a folder of its own, its log beside it."""
    name = re.sub(r"[^\w.+-]+", "-", " ".join([f"{HydraConfig.get().job.num:03d}", *words]))
    folder = next(path for path in _names(sweep / name[:LONGEST_NAME]) if not path.exists())
    words = [*words, f"output.dir='{sweep}'", f"output.name={folder.name}"]
    with free_superlink() as environment, folder.with_suffix(".log").open("w") as log:
        submit(" ".join(map(shlex.quote, words)), environment, log)
    return folder


def _names(path: Path) -> Iterator[Path]:
    yield path
    for attempt in range(2, 1000):
        yield path.with_name(f"{path.name}-{attempt}")


def _summary(record: dict[str, str]) -> dict[str, Any]:
    """Return a job's summary.json; one that says what went wrong if there is none."""
    if "error" in record:
        return {"status": "failed", "why": record["error"]}
    path = Path(record["run"]) / "summary.json"
    if not path.exists():
        return {"status": "failed", "why": f"see {path.parent}.log"}
    summary: dict[str, Any] = json.loads(path.read_text())
    return {"why": f"see {path.parent}.log"} | summary


def _outcome(summary: dict[str, Any]) -> str:
    if summary["status"] != "completed":
        return f"{summary['status']} ({summary['why']})"
    scores = [f"{title(name)} {score(name, value)}" for name, value in summary["final"].items()]
    return ", ".join([*scores, f"{size(summary['bytes']['total'])} sent"])


def _add_line(path: Path, record: dict[str, str]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")  # one write: jobs may end at the same time


def main() -> int:
    """Sweep as the command line says; return the exit status."""
    os.chdir(project_root())  # output.dir is relative to it
    interrupted = refused = False
    try:
        job()
    except KeyboardInterrupt:
        interrupted = True
    except SystemExit as ending:  # Hydra has said what is wrong
        refused = bool(ending.code)
    finally:
        family = psutil.Process().children(recursive=True)
        STARTED.close()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    status = conclude(FOLDERS[-1]) if FOLDERS else 0
    return 130 if interrupted else 2 if refused else status


if __name__ == "__main__":
    from fl_app import sweep  # the module that Hydra's launchers find again

    sys.exit(sweep.main())
