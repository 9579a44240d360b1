"""Start, query and stop a SuperLink for simulations, with all its processes.

It has its own FLWR_HOME and free ports, no telemetry and no installation at run time. Its
simulations start with imports done, see ``superexec``. Everything listens on loopback and serves
only this user: the SuperLink checks who connects, Ray requires a token.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import joblib
import psutil

from fl_app.files import OTHERS, RESULTS, project_root
from fl_app.simulation import bundle
from fl_app.simulation.helpers import HELPERS, ended, named
from fl_app.simulation.processes import (
    Family,
    handled_by,
    interrupt,
    is_alive,
    is_simulation,
    wait_for,
)
from fl_app.simulation.proxies import loopback_direct
from fl_app.simulation.ray_folder import ray_folder

START_SECONDS = 60
STOP_SECONDS = 20
FLWR_SECONDS = 20  # for a command of Flower's CLI
CONNECTION = "thinwire"
RAY_TOKEN = "ray.token"  # file with the token that connections to Ray need
CPUS = "THINWIRE_CPUS"  # environment variable: processors that a SuperLink's simulations share
APP = "THINWIRE_APP"  # environment variable: the folder that is submitted


class SuperLinkError(RuntimeError):
    """The SuperLink did not start, or does not answer."""


@contextmanager
def superlinks(number: int = 1, actors: int | None = None) -> Iterator[list[dict[str, str]]]:
    """Start SuperLinks that share this machine's processors; yield their environments for the CLI.

    On exit, also by a signal that ends this process, all their processes are ended.

    Parameters
    ----------
    number : int
        How many.
    actors : int, optional
        The number of actors, if each SuperLink is for one run; otherwise runs follow each other.

    Raises
    ------
    SuperLinkError
        If one does not start; the message contains the end of its log.
    """
    cpus = max(1, joblib.cpu_count() // max(1, number))
    with handled_by(interrupt), ExitStack() as started:
        yield [started.enter_context(_superlink(cpus, actors)) for _ in range(number)]


@contextmanager
def _superlink(cpus: int, actors: int | None) -> Iterator[dict[str, str]]:
    with ExitStack() as folders:
        try:
            ray = folders.enter_context(ray_folder())
            name = folders.enter_context(
                tempfile.TemporaryDirectory(prefix="thinwire-", ignore_cleanup_errors=True)
            )
        except OSError as error:
            raise SuperLinkError(f"no folder for temporary files: {error}") from None
        home = Path(name)
        port = free_port()
        address = f"127.0.0.1:{port}"
        environment = _environment(home, cpus, ray)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f'address = "{address}"\ninsecure = true\n'
        )
        bundle.make(home)
        write_secret(home / RAY_TOKEN)
        logs = [home / "superlink.log", home / "superexec.log"]
        processes: list[subprocess.Popen[bytes]] = []
        family = Family(processes)
        try:
            superlink = _start(
                [
                    sys.executable, "-m", "fl_app.simulation.private_superlink", "--insecure",
                    "--simulation", "--isolation", "process",
                    "--host", "127.0.0.1", "--port", str(port),
                ],
                environment, logs[0],
            )  # fmt: skip
            processes.append(superlink)
            processes.append(_start(
                [
                    sys.executable, "-m", "fl_app.simulation.superexec",
                    "--runtime-api-address", address, "--parent-pid", str(os.getpid()),
                    "--served-pid", str(superlink.pid), "--cpus", str(cpus),
                    *([] if actors is None else ["--actors", str(actors)]),
                ],
                environment, logs[1],
            ))  # fmt: skip
            _wait_until_healthy(processes, port, logs)
            environment[HELPERS] = named(
                {"SuperLink": superlink.pid, "SuperExec": processes[1].pid}
            )
            yield environment
        finally:
            stop(processes, environment, family)


def _start(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("w") as output:
        return subprocess.Popen(
            command,
            env=environment,
            cwd=environment[
                "FLWR_HOME"
            ],  # Python imports from the current folder: nobody's but ours
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only this process, which then stops the others
            umask=OTHERS,
        )


def write_secret(path: Path) -> None:
    """Write a new random secret that only this user can read.

    Raises
    ------
    FileExistsError
        If ``path`` exists.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))


def _environment(home: Path, cpus: int, ray: str) -> dict[str, str]:
    direct = loopback_direct(os.environ)
    return {
        **{name: value for name, value in direct.items() if name != "RAY_AUTH_TOKEN"},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        CPUS: str(cpus),
        RESULTS: str(project_root()),
        APP: str(home / "thinwire"),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # torch uses torch_threads
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": ray,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home / RAY_TOKEN),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's switch for loopback, on any system
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_health_check_failure_threshold": "1000",  # a busy machine is not a dead one
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore::DeprecationWarning,ignore::FutureWarning",
    }


def script(name: str) -> str:
    """Return the path of a command that is installed beside this Python."""
    return str(Path(sys.executable).parent / name)


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(
    processes: list[subprocess.Popen[bytes]], port: int, logs: list[Path]
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while all(p.poll() is None for p in processes) and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    said = "\n".join(f"{log.stem}: {log.read_text()[-2000:]}" for log in logs)
    raise SuperLinkError(f"the SuperLink did not start:\n{said}")


def status(environment: dict[str, str], patience: float = 30) -> tuple[str, str]:
    """Return status and details of the last run from ``flwr list``, waiting until they are final.

    Nothing is waited for once a helper has ended.

    Parameters
    ----------
    environment : dict
        That of its SuperLink.
    patience : float
        The longest wait in seconds.
    """
    deadline = time.monotonic() + patience
    latest = ("unknown", "")
    while time.monotonic() < deadline and not ended(environment):
        runs = _runs(environment)
        if runs:
            latest = str(runs[0]["status"]), str(runs[0].get("status-details", ""))
            if latest[0].startswith("finished"):
                return latest
        time.sleep(0.5)
    return latest


def _runs(environment: dict[str, str]) -> list[dict[str, object]]:
    try:
        listed = flwr("list", CONNECTION, "--format", "json", environment=environment)
        return list(json.loads(listed)["runs"])
    except (ValueError, KeyError):
        return []


def flwr(*arguments: str, environment: dict[str, str], seconds: float | None = None) -> str:
    """Return the output of Flower's CLI; "" if it does not end in time, by `FLWR_SECONDS`."""
    try:
        done = subprocess.run(
            [script("flwr"), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=FLWR_SECONDS if seconds is None else seconds,
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def stop(
    processes: list[subprocess.Popen[bytes]], environment: dict[str, str], family: Family
) -> None:
    """Stop a SuperLink, its SuperExec and all their descendants.

    A SIGTERM during a run would lose results that it has not written yet, so that Flower stops the
    run first.
    """
    with handled_by(signal.SIG_IGN):
        members = family.members()
        simulations = [member for member in members if is_simulation(member)]
        whole = all(process.poll() is None for process in processes) and not ended(environment)
        for simulation in () if whole else simulations:  # nobody would pass on that it should stop
            with suppress(psutil.NoSuchProcess):
                simulation.terminate()
        if whole and any(map(is_alive, simulations)):
            for run in _runs(environment):
                if not str(run["status"]).startswith("finished"):
                    flwr("stop", str(run["run-id"]), CONNECTION, environment=environment)
        wait_for(simulations, STOP_SECONDS)
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for member in members:
            if is_alive(member):
                with suppress(psutil.NoSuchProcess):
                    member.kill()
        wait_for(members, STOP_SECONDS)
