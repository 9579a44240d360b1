"""End to end: the commands themselves, refused, stopped, and Flower's own."""

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

from fl_app import run
from fl_app.files import project_root
from fl_app.simulation.processes import descendants
from tests import small
from tests.disturbed import (
    check_that_it_ends_as_if_undisturbed,
    gone,
    last_round,
)
from tests.simulation.test_run import overrides, read

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]  # of a machine that does more


TOO_SLOW = "Failed to start local SuperLink within"  # 15 s, which a busy machine may exceed


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "fl_app.run", *words]


def test_a_wrong_override_exits_2_before_anything_starts(capfd) -> None:
    assert run.main(["strategy=nope"]) == 2
    said = capfd.readouterr()
    assert "single_client" in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


def start(*words: str) -> subprocess.Popen[str]:
    """Start a run as ``make run`` does."""
    return subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        umask=0o022,  # under which others may read what a process makes
    )  # fmt: skip


def test_ctrl_c_keeps_the_rounds_done_and_leaves_no_process(tmp_path) -> None:
    """A run with two actors."""
    folder = tmp_path / "run"
    words = (
        f"{small.DATA} strategy=fedavg codec=sign clients_per_round=2 local_epochs=1 "
        f"logger=none output.dir={tmp_path}"
    )
    process = start(f"{words} rounds=1000 output.name=run")
    family: list[psutil.Process] = []
    assert process.stdout is not None
    assert process.stdout.readline().startswith("custom: seed 0")  # nothing of Flower's
    for line in process.stdout:
        if line.startswith("    3  "):
            family = descendants(process.pid)
            actors = [one for one in family if "ClientAppActor" in " ".join(one.cmdline())]
            process.send_signal(signal.SIGINT)
            break
    assert len(actors) == 2
    assert len(family) > 6  # SuperLink, simulation, Ray's own
    assert process.stderr is not None
    assert process.stderr.readline().startswith("stopping")
    process.send_signal(signal.SIGTERM)  # changes nothing
    process.communicate(timeout=200)
    assert process.returncode == 130
    assert gone(family)
    rounds = {int(r["round"]) for r in read(folder / "ledger.csv")}
    assert {0, 1, 2, 3} <= rounds
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    done = last_round(folder)
    assert done == summary["rounds"]
    measured = {int(m["round"]) for m in read(folder / "metrics.csv")}
    assert measured == set(range(done + 1))
    assert (folder / "report.html").is_file()

    check_that_it_ends_as_if_undisturbed(tmp_path, f"{words} rounds={last_round(folder) + 1}")
    assert json.loads((folder / "summary.json").read_text())["resumed"] == [done]


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
    words = json.dumps(overrides(folder, "strategy=fedavg codec=fp32"))
    try:
        said = TOO_SLOW
        while TOO_SLOW in said:
            done = subprocess.run(
                ["flwr", "run", str(project_root()), "--stream", "--run-config",
                 f"overrides={words} num-server-rounds=2 fraction-train=1.0"],
                env=environment, capture_output=True, text=True, timeout=400, check=False,
            )  # fmt: skip
            said = done.stdout + done.stderr
        assert (folder / "summary.json").is_file(), said
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
