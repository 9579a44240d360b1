"""End to end: a real sweep that fails in part, is stopped, and goes on in a search."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from fl_app.runs.read import is_run, read
from fl_app.simulation.processes import wait_for
from fl_app.sweep.job import bytes_to_target
from fl_app.sweep.summary import jobs_of
from tests import small

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # of a machine that does more
PATIENCE = 400  # seconds; a sweep takes a quarter of it on a quiet machine


# A job of the sweep that the search has for its first trial, too.
SEARCHED = "codec=uniform_entropy codec.reference=theta0 codec.error=0.3 target.value=0.01"


def command(folder: Path, *words: str) -> list[str]:
    shrunk = [*small.DATA.split(), "rounds=1", "local_epochs=6", f"output.dir={folder.parent}"]
    name = f"output.name={folder.name}"
    return [sys.executable, "-m", "fl_app.sweep", "-m", *words, *shrunk, name]


def run_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_run(path))


def grid(*jobs: str) -> str:
    return "job=" + ",".join(f'"{job}"' for job in jobs)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stop a sweep with Ctrl-C once three jobs have ended, in the fourth; return its folder."""
    folder = tmp_path_factory.mktemp("sweeps") / "sweep"
    diverges = "optimizer.lr=1e30 optimizer.max_grad_norm=1e30"
    process = subprocess.Popen(
        command(
            folder, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
            grid(diverges, "codec.up.nope=1", f"{SEARCHED} adapter.r=4", "codec=sign rounds=1000"),
        ),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == f"sweep: {folder}\n"
    told: dict[int, str] = {}
    while not {0, 1, 2} <= told.keys():
        line = process.stdout.readline()
        assert line, process.stderr.read()
        if found := re.match(r"job (\d+)  ", line):
            told[int(found[1])] = line
    deadline = time.monotonic() + PATIENCE
    while not [*folder.glob("003*/checkpoints/round-*.safetensors")]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    said = process.stdout.read()
    complained = process.stderr.read()
    assert process.wait(PATIENCE) == 130
    assert "optimizer.lr" in told[0]
    assert "nope" in told[1]
    assert "ANLS" in told[2]
    assert "Traceback" not in complained
    assert "on the Pareto front" in said
    assert wait_for(family, 20)
    return folder


def test_failed_jobs_stop_no_sweep_but_ctrl_c_does(stopped: Path) -> None:
    ended = {job.number: job for job in jobs_of(stopped)}
    assert [ended[k].status for k in range(3)] == ["failed", "failed", "completed"]
    assert ended[1].run is None  # the wrong configuration started nothing
    statuses = [read(path).status for path in run_folders(stopped)]
    assert statuses[:2] == ["failed", "completed"]
    assert [status in ("interrupted", "unfinished") for status in statuses[2:]] == [True]
    table = pd.read_csv(stopped / "results.csv")
    assert list(table.status) == statuses[:2]
    for name in ("report.html", "pareto.png", "plotly.min.js"):
        assert (stopped / name).is_file()


def test_a_search_goes_on_where_the_sweep_was_stopped(stopped: Path) -> None:
    first = {path: read(path).status for path in run_folders(stopped)}
    # Its first trial has been done, the job that failed and the one that was stopped are no trials.
    done = subprocess.run(
        command(
            stopped, "+sweep=bytes_to_target", "hydra.sweeper.n_trials=2", "resume=true",
            *SEARCHED.split(), "adapter.r=choice(2,4)",
        ),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, check=False,
        env={**os.environ, "LOKY_MAX_CPU_COUNT": "1"},  # one actor
    )  # fmt: skip
    assert done.returncode == 1, done.stdout  # the failed ones of before were not asked for again
    assert done.stdout.count("already completed") == 1
    now = {path: read(path) for path in run_folders(stopped)}
    (new,) = now.keys() - first.keys()
    assert now[new].option("adapter.r") == 2
    assert {path: run.status for path, run in now.items()} == {**first, new: "completed"}
    trials = [bytes_to_target(run) for run in now.values() if run.option("target.value") == 0.01]
    assert len(trials) == 2
    best = (stopped / "optimization_results.yaml").read_text()
    assert f"best_value: {min(trials):.1f}" in best
