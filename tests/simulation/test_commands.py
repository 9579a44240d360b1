"""End to end: the commands themselves, refused, stopped, and Flower's own."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fl_app import run
from fl_app.files import project_root
from fl_app.simulation.processes import descendants, is_alive, wait_for
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
    assert said.out == "checking the configuration ...\n"


def start(*words: str) -> tuple[subprocess.Popen[str], Iterator[str]]:
    """Start a run as ``make run`` does, on a terminal; return it and the lines that it shows."""
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    process = subprocess.Popen(
        command(*words), stdout=terminal, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TERM": "xterm-256color"},
        umask=0o022,  # under which others may read what a process makes
    )  # fmt: skip
    os.close(terminal)
    return process, shown(master)


def shown(master: int) -> Iterator[str]:
    """Yield what a terminal is sent, line by line, until nobody has it open any more."""
    rest = b""
    with suppress(OSError):
        while said := os.read(master, 2**16):
            *lines, rest = (rest + said).split(b"\n")
            yield from (f"{line.decode()}\n" for line in lines)
    os.close(master)
    yield rest.decode()


def left(line: str) -> str:
    """Return what is left of a line that has been drawn over."""
    return CONTROL.sub("", line.rpartition("\x1b[2K")[2])


CONTROL = re.compile(r"\x1b\[[?\d;]*[A-Za-z]|\r")


def check_display(drawn: str) -> None:
    """Look at what a terminal has been sent: phases, turns, lines above them, and a clean end."""
    said = CONTROL.sub("", drawn)
    phases = ("starting", "loading the model", "round 1 of 1000: clients ")
    at = [said.find(one) for one in phases]
    assert at == sorted(at)
    assert at[0] >= 0
    assert re.search(r"  client \d  step \d+ of \d+  loss \d+\.\d{4}  \d+ s left", said)
    assert re.search(r"\d kB down, [\d.]+ kB up so far", said)
    lines = [left(line) for line in drawn.split("\n")]
    (header,) = [n for n, line in enumerate(lines) if line.startswith("custom: seed 0")]
    assert [lines[header + n].partition(" ")[0] for n in (1, 2)] == ["results:", "round"]
    hidden, given_back = drawn.rfind("\x1b[?25l"), drawn.rfind("\x1b[?25h")
    assert 0 <= hidden < given_back
    assert drawn.count("\x1b[?25h") == 1
    assert left(drawn[given_back:]).strip() == ""


def test_ctrl_c_keeps_the_rounds_done_and_leaves_no_process(tmp_path) -> None:
    """A run with two actors, on a terminal."""
    folder = tmp_path / "run"
    words = (
        f"{small.DATA} strategy=fedavg codec=sign clients_per_round=2 local_epochs=1 "
        f"logger=none output.dir={tmp_path}"
    )
    process, lines = start(f"{words} rounds=1000 output.name=run")
    family: list[psutil.Process] = []
    drawn = ""
    for line in lines:
        drawn += line
        if left(line).startswith("    3  "):
            family = descendants(process.pid)
            actors = [one for one in family if "ClientAppActor" in " ".join(one.cmdline())]
            process.send_signal(signal.SIGINT)
            break
    assert len(actors) == 2
    assert len(family) > 6  # SuperLink, simulation, Ray's own
    assert process.stderr is not None
    assert process.stderr.readline().startswith("stopping")
    process.send_signal(signal.SIGTERM)  # changes nothing
    drawn += "".join(lines)
    process.communicate(timeout=200)
    assert process.returncode == 130
    check_display(drawn)
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
                if not wait_for(family, 10):
                    for left in filter(is_alive, family):
                        left.kill()
        time.sleep(0.2)
