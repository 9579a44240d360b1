"""End to end: real sweeps that fail in part, go on, are stopped, run side by side and search."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import psutil
import pytest

from fl_app.runs.read import is_run, read
from fl_app.sweep.summary import jobs_of
from tests import small

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # of a machine that does more
PATIENCE = 400  # seconds; a sweep takes a quarter of it on a quiet machine


def command(folder: Path, *words: str) -> list[str]:
    shrunk = [*small.DATA.split(), "rounds=1", "local_epochs=1", f"output.dir={folder.parent}"]
    name = f"output.name={folder.name}"
    return [sys.executable, "-m", "fl_app.sweep", "-m", *words, *shrunk, name]


def run_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_run(path))


def grid(*jobs: str) -> str:
    return "job=" + ",".join(f'"{job}"' for job in jobs)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stop a sweep with Ctrl-C once its first four jobs have ended; return its folder."""
    folder = tmp_path_factory.mktemp("sweeps") / "sweep"
    diverges = "optimizer.lr=1e30 optimizer.max_grad_norm=1e30 local_epochs=30"
    process = subprocess.Popen(
        command(
            folder, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=range(0,30)",
            grid("codec=nf4", diverges, "codec.up.nope=1", "codec=sign"),
        ),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == f"sweep: {folder}\n"
    told: dict[int, str] = {}
    while not {0, 1, 2, 3} <= told.keys():
        line = process.stdout.readline()
        assert line, process.stderr.read()
        if found := re.match(r"job (\d+)  ", line):
            told[int(found[1])] = line
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    said = process.stdout.read()
    complained = process.stderr.read()
    assert process.wait(PATIENCE) == 130
    assert "ANLS" in told[0]
    assert "ANLS" in told[3]
    assert "optimizer.lr" in told[1]
    assert "nope" in told[2]
    assert "Traceback" not in complained
    assert "on the Pareto front" in said
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    return folder


def test_failed_jobs_stop_no_sweep_but_ctrl_c_does(stopped: Path) -> None:
    ended = {job.number: job for job in jobs_of(stopped)}
    assert [ended[k].status for k in range(4)] == ["completed", "failed", "failed", "completed"]
    assert ended[2].run is None  # the wrong configuration started nothing
    assert len(ended) < 120
    assert {read(path).status for path in run_folders(stopped)} <= {
        "completed", "failed", "interrupted", "unfinished",
    }  # fmt: skip
    table = pd.read_csv(stopped / "results.csv")
    assert list(table.status)[:3] == ["completed", "failed", "completed"]
    for name in ("report.html", "pareto.png"):
        assert (stopped / name).is_file()


def test_two_sweeps_at_once_one_goes_on_and_one_searches(stopped: Path) -> None:
    first = {path: read(path).status for path in run_folders(stopped)}
    folder = stopped.parent
    # Other words in place of the wrong ones: only what is missing is run.
    again = command(stopped, "seed=0", grid("codec=nf4", "codec=ternary", "codec=sign"))
    search = command(
        folder / "search", "+sweep=bytes_to_target", "hydra.sweeper.n_trials=2",
        "adapter.r=choice(2,4)", "target.value=0.01",
    )  # fmt: skip
    search = [word for word in search if word != "local_epochs=1"]
    processes = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for words in ([*again, "resume=true"], search)
    ]
    said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert processes[0].returncode == 1  # the failed ones of before were not asked for again
    assert said[0].count("already completed") == 2
    now = {path: read(path).status for path in run_folders(stopped)}
    (new,) = now.keys() - first.keys()
    assert "ternary" in new.name
    assert now == {**first, new: "completed"}

    assert processes[1].returncode == 0, said[1]
    found = run_folders(folder / "search")
    assert len(found) == 2
    best = (folder / "search" / "optimization_results.yaml").read_text()
    sent = min(pd.read_csv(folder / "search" / "results.csv").bytes_to_target)
    assert f"best_value: {sent:.1f}" in best
    assert json.loads((found[0] / "summary.json").read_text())["seed"] == 0
