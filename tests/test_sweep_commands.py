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

from fl_app.run_record import is_run, read
from fl_app.sweep_summary import jobs_of
from tests import small

pytestmark = pytest.mark.e2e


def command(folder: Path, *words: str) -> list[str]:
    shrunk = [*small.DATA.split(), "rounds=1", "local_epochs=1", f"output.dir={folder.parent}"]
    name = f"output.name={folder.name}"
    return [sys.executable, "-m", "fl_app.sweep", "-m", *words, *shrunk, name]


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *words), capture_output=True, text=True, timeout=280, check=False
    )


def run_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_run(path))


def test_a_failed_job_does_not_stop_the_others_and_resume_does_what_is_missing(tmp_path) -> None:
    folder = tmp_path / "sweep"
    diverges = "optimizer.lr=1e30 optimizer.max_grad_norm=1e30 local_epochs=30"
    jobs = ["codec=nf4", diverges, "codec.up.nope=1", "codec=sign"]
    grid = "job=" + ",".join(f'"{job}"' for job in jobs)
    done = run(folder, grid)
    assert done.returncode == 1, done.stdout + done.stderr
    assert [job.status for job in jobs_of(folder)] == [
        "completed", "failed", "failed", "completed",
    ]  # fmt: skip
    first = run_folders(folder)
    assert len(first) == 3  # the wrong configuration started nothing
    assert "diverged" in Path(f"{first[1]}.log").read_text() or "optimizer.lr" in done.stdout
    table = pd.read_csv(folder / "results.csv")
    assert list(table.status) == ["completed", "failed", "completed"]
    assert (folder / "report.html").is_file()
    assert (folder / "pareto.png").is_file()
    assert "nope" in done.stdout

    # Again, with one word mended and one job more: only what is missing is run.
    jobs[1:3] = ["codec=ternary"]
    again = run(folder, "job=" + ",".join(f'"{job}"' for job in jobs), "resume=true")
    assert again.returncode == 1  # the failed one of before was not asked for again
    new = sorted({*run_folders(folder)} - {*first})
    assert ["ternary" in path.name for path in new] == [True]
    assert again.stdout.count("was there") == 2
    assert read(new[0]).status == "completed"


def test_a_parallel_sweep_is_stopped_and_goes_on(tmp_path) -> None:
    folder = tmp_path / "sweep"
    words = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "codec=nf4,sign,ternary")
    process = subprocess.Popen(
        command(folder, *words, "seed=range(0,30)"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    first, line = process.stdout.readline(), process.stdout.readline()
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    said = process.stdout.read()
    complained = process.stderr.read()
    assert process.wait(timeout=120) == 130
    assert first == f"sweep: {folder}\n"
    assert re.match(r"job \d+  .*ANLS", line)
    assert "Traceback" not in complained
    assert "on the Pareto front" in said
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    done = [job for job in jobs_of(folder) if job.status == "completed"]
    assert 1 <= len(done) < 90
    statuses = {read(path).status for path in run_folders(folder)}
    assert statuses <= {"completed", "interrupted", "unfinished"}
    kept = {path for path in run_folders(folder) if read(path).status == "completed"}

    words_of_one = done[0].words.split()
    again = run(folder, *[word for word in words_of_one if word.startswith(("codec", "seed"))],
                "resume=true")  # fmt: skip
    assert again.stdout.count("was there") == 1
    assert {path for path in run_folders(folder) if read(path).status == "completed"} == kept


def test_two_sweeps_at_once_do_not_disturb_each_other_and_one_searches(tmp_path) -> None:
    grid = command(tmp_path / "grid", "codec=nf4,sign")
    search = command(
        tmp_path / "search", "+sweep=bytes_to_target", "hydra.sweeper.n_trials=2",
        "adapter.r=choice(2,4)", "target.value=0.01",
    )  # fmt: skip
    search = [word for word in search if word != "local_epochs=1"]
    processes = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for words in (grid, search)
    ]
    said = [process.communicate(timeout=280)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    assert [len(run_folders(tmp_path / name)) for name in ("grid", "search")] == [2, 2]
    best = (tmp_path / "search" / "optimization_results.yaml").read_text()
    sent = min(pd.read_csv(tmp_path / "search" / "results.csv").bytes_to_target)
    assert f"best_value: {sent:.1f}" in best
    assert json.loads((run_folders(tmp_path / "grid")[0] / "summary.json").read_text())["seed"] == 0
