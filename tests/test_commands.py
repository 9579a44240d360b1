"""End to end: runs that repeat, fail or are stopped, and the commands themselves."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

from fl_app import run
from tests.test_run import overrides, read

pytestmark = pytest.mark.e2e


def untimed(folder: Path) -> list[list[str]]:
    return [list(row.values())[:9] for row in read(folder / "ledger.csv")]


def test_the_same_run_twice_gives_the_same_ledger_and_metrics(flower, tmp_path) -> None:
    words = "experiment=nf4_single adapter.dropout=0.1"
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        assert run.submit(overrides(folder, words), flower, wait=False) == 0
    assert untimed(first) == untimed(second)
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()
    one, other = (load_file(f / "checkpoints/round-0002.safetensors") for f in (first, second))
    assert {name: x.tobytes() for name, x in one.items()} == {
        name: x.tobytes() for name, x in other.items()
    }


def test_a_run_whose_clients_all_fail_fails_and_keeps_what_it_has(flower, tmp_path, capfd) -> None:
    folder = tmp_path / "diverges"
    words = overrides(
        folder, "optimizer.lr=1e30 optimizer.max_grad_norm=1e30 rounds=2 local_epochs=30"
    )
    assert run.submit(words, flower) == 1
    captured = capfd.readouterr()
    assert "every client of round 1 failed" in captured.out
    assert "optimizer.lr" in captured.out
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert [r["kind"] for r in read(folder / "ledger.csv")].count("train") == 2
    assert {m["round"] for m in read(folder / "metrics.csv")} == {"0"}


def test_missing_weights_are_one_clear_error(flower, tmp_path, capfd) -> None:
    words = overrides(tmp_path / "missing", f"model.path={tmp_path}/nothing model.sha256=null")
    assert run.submit(words, flower) == 1
    assert "model.path" in capfd.readouterr().err.splitlines()[-1]


# ---- the commands themselves -----------------------------------------------------------------


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "fl_app.run", *words]


def test_a_wrong_override_exits_2_before_anything_starts() -> None:
    done = subprocess.run(
        command("strategy=nope"), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert "single_client" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_ctrl_c_keeps_the_rounds_done_and_leaves_no_process(tmp_path) -> None:
    folder = tmp_path / "stopped"
    process = subprocess.Popen(
        command(overrides(folder, "rounds=1000")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    family: set[psutil.Process] = set()
    assert process.stdout is not None
    assert process.stdout.readline().startswith("nf4_single: seed 0")  # nothing of Flower's
    for line in process.stdout:
        if line.startswith("    3  "):
            family = set(psutil.Process(process.pid).children(recursive=True))
            process.send_signal(signal.SIGINT)
            break
    assert len(family) > 4  # SuperLink, simulation, Ray's own
    assert process.stderr is not None
    assert process.stderr.readline().startswith("stopping")
    process.send_signal(signal.SIGTERM)  # changes nothing
    process.stdout.read()
    assert process.wait(timeout=90) == 130
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    rounds = {int(r["round"]) for r in read(folder / "ledger.csv")}
    assert {0, 1, 2, 3} <= rounds
    assert list((folder / "checkpoints").glob("*.safetensors"))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    measured = {int(m["round"]) for m in read(folder / "metrics.csv")}
    assert measured == set(range(summary["rounds"] + 1))
    assert (folder / "report.html").is_file()


def test_flwr_run_works_by_itself(tmp_path) -> None:
    """Two nodes by default, Flower's own local SuperLink, no setting but a home of its own."""
    folder, home = tmp_path / "plain", tmp_path / "home"
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(str(probe.getsockname()[1]))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": ports[0],
        "FLWR_LOCAL_CONTROL_API_PORT": ports[1],
        "FLWR_TELEMETRY_ENABLED": "0",
    }
    words = json.dumps(overrides(folder, "strategy=fedavg codec=fp32 clients_per_round=3"))
    try:
        done = subprocess.run(
            ["flwr", "run", str(run.project_root()), "--stream", "--run-config",
             f"overrides={words}"],
            env=environment, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert (folder / "summary.json").is_file(), done.stdout + done.stderr
        assert json.loads((folder / "summary.json").read_text())["status"] == "completed"
        assert {r["partition"] for r in read(folder / "ledger.csv") if r["kind"] == "train"} == {
            "0", "1", "2",
        }  # fmt: skip
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if str(home) in " ".join(process.info["cmdline"] or []):
                family = [*process.children(recursive=True), process]
                process.terminate()
                _, alive = psutil.wait_procs(family, timeout=10)
                for left in alive:
                    left.kill()
        time.sleep(0.2)
