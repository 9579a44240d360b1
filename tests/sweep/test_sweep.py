"""A sweep's own parts, without Flower: whose words are whose, what is done, who has a SuperLink."""

import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import joblib
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from fl_app.config import CONF_DIR, compose, identity
from fl_app.runs.read import read
from fl_app.sweep import superlinks
from fl_app.sweep.job import bytes_to_target, completed, last_line, words_of_job
from fl_app.sweep.summary import Job, conclude, jobs_of, text
from tests.finished_runs import finished, sweep


def refusal(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fl_app.sweep", "-m", *words],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_wrong_word_in_a_sweep_exits_2_before_anything_starts(tmp_path: Path) -> None:
    done = refusal(f"output.dir={tmp_path}", "codec=nf4,nope")
    assert done.returncode == 2
    assert "nope" in done.stderr
    assert "uniform_entropy" in done.stderr  # what there is
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())  # the corrected command may take the same name


def test_words_of_the_sweep_are_not_those_of_its_jobs(monkeypatch) -> None:
    words = ["+sweep=codecs", "resume=true", "output.name=x", "output.dir=y", "job='codec=sign'"]
    hydra = {"hydra": {"overrides": {"task": [*words, "seed=1", "+codec.a=2"]}}}
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create(hydra))
    assert words_of_job() == ["seed=1", "+codec.a=2"]


@pytest.mark.parametrize("words", ["", "codec=sign", "experiment=thin seed=3", "privacy=dp_sgd"])
def test_a_run_is_found_again_by_its_configuration(tmp_path: Path, words: str) -> None:
    seed = compose(words).seed
    run = finished(tmp_path / "sweep" / "one", words, seed)
    assert identity(read(run).config) == identity(compose(f"{words} seed={seed} output.name=other"))
    assert completed(tmp_path, compose(f"{words} logger=none output.dir=elsewhere")) == run
    for other in ("rounds=77", "seed=9", "target.value=0.1"):
        assert completed(tmp_path, compose(f"{words} {other}")) is None


def test_a_spoiled_run_is_none(tmp_path: Path) -> None:
    (finished(tmp_path / "a", "codec=sign") / "summary.json").write_text("{")
    (finished(tmp_path / "b", "codec=sign") / "config.yaml").write_text("{")
    assert completed(tmp_path, compose("codec=sign")) is None
    good = finished(tmp_path / "c", "codec=sign")
    assert completed(tmp_path, compose("codec=sign")) == good


def test_a_folder_that_is_taken_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    done = refusal(f"output.dir={tmp_path}", "output.name=taken", "codec=nf4,sign")
    assert done.returncode == 2
    assert "resume=true" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "taken").glob("*/ledger.csv"))


@pytest.mark.parametrize("status", ["failed", "interrupted", "unfinished"])
def test_a_run_that_is_not_complete_is_done_again(tmp_path: Path, status: str) -> None:
    finished(tmp_path / "one", "codec=sign", status=status)
    assert completed(tmp_path, compose("codec=sign")) is None


def test_bytes_to_target(tmp_path: Path) -> None:
    met = read(finished(tmp_path / "met", "target.value=0.6"))
    assert bytes_to_target(met) == met.ledger.sent(until=1) > 0
    assert bytes_to_target(read(finished(tmp_path / "missed", "target.value=0.99"))) == math.inf
    assert bytes_to_target(read(finished(tmp_path / "none", "target.value=null"))) == math.inf


def test_a_job_counts_as_it_ended_last(tmp_path: Path) -> None:
    first = Job(0, "codec=sign", None, "failed", "no reason")
    again = Job(3, "codec=sign", str(finished(tmp_path / "run")), "completed", "")
    for job in (first, Job(1, "codec=nf4", None, "failed", "one, too"), again):
        job.add_to(tmp_path)
    assert jobs_of(tmp_path) == [Job(1, "codec=nf4", None, "failed", "one, too"), again]


def test_the_end_of_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert conclude(tmp_path) == 1  # nothing was done
    for number, folder in enumerate(sweep(tmp_path)):
        run = read(folder)
        Job(number, folder.name, str(folder), run.status, f"see {folder}.log").add_to(tmp_path)
    Job(99, "rounds=0", None, "failed", "rounds must be at least 1").add_to(tmp_path)
    capsys.readouterr()
    assert conclude(tmp_path) == 1
    said = capsys.readouterr().out
    assert "rounds must be at least 1" in said
    assert "unfinished" in said
    for name in ("results.csv", "report.html", "pareto.png"):
        assert (tmp_path / name).stat().st_size > 1000
        assert str(tmp_path / name) in said


def test_a_run_that_ended_while_the_sweep_was_stopped_counts(tmp_path: Path, capsys) -> None:
    first = finished(tmp_path / "0", "codec=nf4")
    finished(tmp_path / "1", "codec=sign")
    finished(tmp_path / "2", "codec=fp32", status="interrupted")
    Job(0, "codec=nf4", str(first), "completed", "").add_to(tmp_path)
    assert conclude(tmp_path) == 0
    rows = (tmp_path / "results.csv").read_text().splitlines()[1:]
    assert sorted(row.split(",")[0] for row in rows) == ["0", "1"]


def test_the_reason_is_the_last_line_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert last_line(log)
    log.write_text("one\nclient 4: the loss became nan\n\n")
    assert last_line(log) == "client 4: the loss became nan"


def test_the_table_marks_the_front_and_averages_over_seeds(tmp_path: Path) -> None:
    lines = text([read(folder) for folder in sweep(tmp_path)]).splitlines()
    nf4, fedavg, fp32 = lines[1:4]
    assert [line.startswith("*") for line in (nf4, fedavg, fp32)] == [True, False, False]
    assert "0.8500 ± 0.0100" in nf4  # of its third seed, the first run
    assert "0.8100 ± 0.0100" in fp32
    assert "missed by 3 of 3 seeds" in fedavg
    none = finished(tmp_path / "none", "codec=sign target.value=null")
    assert "until" not in text([read(none)])  # what has no target misses none
    both = text([read(none), read(finished(tmp_path / "one", "codec=nf4 target.value=0.9"))])
    ends = {line.split()[-5:][0]: line.split("kB")[-1].strip() for line in both.splitlines()[1:3]}
    assert sorted(ends.values()) == ["-", "missed by 1 of 1 seeds"]


def test_a_run_that_lost_a_client_is_marked_in_the_table_and_its_line(tmp_path: Path) -> None:
    damaged = read(finished(tmp_path / "a", "codec=sign", lost=(1, 2)))
    lines = text([damaged, read(finished(tmp_path / "b", "codec=nf4", payload=9000))]).splitlines()
    assert lines[1].startswith("(*)  sign [2 turns lost]")
    assert lines[-1].startswith("(*) on it, but it lost clients")
    line = Job(0, "codec=sign", str(damaged.path), "completed", "").line(damaged)
    assert line.endswith("2 turns lost (client 4 in rounds 1, 2: a row has no answer)")


def test_no_more_superlinks_than_processors() -> None:
    launchers = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
    wide = OmegaConf.create({"_target_": launchers, "n_jobs": 64})
    cpus = joblib.cpu_count()
    assert superlinks.at_once(wide) == cpus
    assert superlinks.at_once(OmegaConf.create({"_target_": launchers, "n_jobs": 1})) == 1
    basic = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
    assert superlinks.at_once(OmegaConf.create({"_target_": basic})) == 1
    assert superlinks.at_once(OmegaConf.create({"_target_": "a.SlurmLauncher"})) == 0


def test_a_superlink_has_one_run_at_a_time(tmp_path: Path, monkeypatch) -> None:
    for index in range(2):
        (tmp_path / f"{index}.json").write_text(json.dumps({"index": index}))
    monkeypatch.setenv(superlinks.SHARED, str(tmp_path))
    monkeypatch.setattr(superlinks, "WAIT_SECONDS", 0.01)
    got = threading.Event()

    def third() -> None:
        with superlinks.free_superlink():
            got.set()

    waiting = threading.Thread(target=third)
    with superlinks.free_superlink() as first:
        with superlinks.free_superlink() as second:
            assert sorted(e["index"] for e in (first, second)) == [0, 1]
            waiting.start()
            assert not got.wait(0.2)
        assert got.wait(10)
    waiting.join()


@pytest.mark.parametrize("grid", sorted(path.stem for path in (CONF_DIR / "sweep").glob("*.yaml")))
def test_every_grid_composes_and_its_jobs_are_configurations(grid: str) -> None:
    import hydra

    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = hydra.compose("multirun", [f"+sweep={grid}"], return_hydra_config=True)
    params = cfg.hydra.sweeper.params
    jobs = [job.strip().strip('"') for job in str(params.get("job", "")).split('",')]
    assert all(compose(job) for job in jobs)
    if grid == "everything":
        assert len(jobs) == len({str(identity(compose(job))) for job in jobs}) >= 24
