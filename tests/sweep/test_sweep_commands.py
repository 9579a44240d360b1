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


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *words), capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def run_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_run(path))


def grid(*jobs: str) -> str:
    return "job=" + ",".join(f'"{job}"' for job in jobs)


def test_failed_jobs_stop_no_sweep_ctrl_c_does_and_resume_does_what_is_missing(tmp_path) -> None:
    folder = tmp_path / "sweep"
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
    ended = {job.number: job for job in jobs_of(folder)}
    assert [ended[k].status for k in range(4)] == ["completed", "failed", "failed", "completed"]
    assert ended[2].run is None  # the wrong configuration started nothing
    assert len(ended) < 120
    first = {path: read(path).status for path in run_folders(folder)}
    assert {*first.values()} <= {"completed", "failed", "interrupted", "unfinished"}
    table = pd.read_csv(folder / "results.csv")
    assert list(table.status)[:3] == ["completed", "failed", "completed"]
    for name in ("report.html", "pareto.png"):
        assert (folder / name).is_file()

    # Again, with other words in place of the wrong ones: only what is missing is run.
    again = run(folder, "seed=0", grid("codec=nf4", "codec=ternary", "codec=sign"), "resume=true")
    assert again.returncode == 1  # the failed ones of before were not asked for again
    assert again.stdout.count("already completed") == 2
    now = {path: read(path).status for path in run_folders(folder)}
    (new,) = now.keys() - first.keys()
    assert "ternary" in new.name
    assert now == {**first, new: "completed"}


def test_two_sweeps_at_once_do_not_disturb_each_other_and_one_searches(tmp_path) -> None:
    of_two = command(tmp_path / "grid", "codec=nf4,sign")
    search = command(
        tmp_path / "search", "+sweep=bytes_to_target", "hydra.sweeper.n_trials=2",
        "adapter.r=choice(2,4)", "target.value=0.01",
    )  # fmt: skip
    search = [word for word in search if word != "local_epochs=1"]
    processes = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for words in (of_two, search)
    ]
    said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    assert [len(run_folders(tmp_path / name)) for name in ("grid", "search")] == [2, 2]
    best = (tmp_path / "search" / "optimization_results.yaml").read_text()
    sent = min(pd.read_csv(tmp_path / "search" / "results.csv").bytes_to_target)
    assert f"best_value: {sent:.1f}" in best
    assert json.loads((run_folders(tmp_path / "grid")[0] / "summary.json").read_text())["seed"] == 0
