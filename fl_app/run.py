"""``python -m fl_app.run [OVERRIDE ...]``: one hermetic ``flwr run`` in simulation.

Starts a SuperLink of its own (own FLWR_HOME, free ports, no telemetry, no dependency installation
at run time), submits the app, shows its log, and stops everything that it started. The exit
status is the run's: 0 completed, 1 failed, 2 wrong configuration, 130 interrupted.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

from fl_app.config import ConfigError, compose
from fl_app.installed import project_root
from fl_app.preflight import check

START_SECONDS = 60
STOP_SECONDS = 20
FLWR_SECONDS = 20  # for a question to the SuperLink
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, a closed terminal
CONNECTION = "thinwire"


class SuperLinkError(RuntimeError):
    """The SuperLink did not start, or does not answer."""


def main(arguments: list[str]) -> int:
    """Run the experiment that ``arguments`` (Hydra overrides) name; return the exit status."""
    overrides = " ".join(arguments)
    try:
        cfg = compose(overrides)
        check(cfg)
    except ConfigError as error:
        print(f"configuration: {error}", file=sys.stderr)
        return 2
    folder = project_root() / cfg.output.dir / str(cfg.output.name)
    if cfg.output.name is not None and folder.exists():
        print(
            f"configuration: {folder} exists: choose another output.name, or remove the folder",
            file=sys.stderr,
        )
        return 2
    try:
        with superlink() as environment:
            return submit(overrides, environment)
    except KeyboardInterrupt:
        print("interrupted; what was measured so far is in the run's folder", file=sys.stderr)
        return 130
    except SuperLinkError as error:
        print(error, file=sys.stderr)
        return 1


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Say so at once, since it takes a while; a second Ctrl-C changes nothing."""
    for ending in ENDINGS:
        signal.signal(ending, signal.SIG_IGN)
    with suppress(OSError):  # a closed terminal takes no text
        print("stopping the run; this takes up to a minute", file=sys.stderr, flush=True)
    raise KeyboardInterrupt


@contextmanager
def _handled_by(handler: Callable[..., None] | signal.Handlers) -> Iterator[None]:
    """Let ``handler`` answer what asks this process to end; under nohup a hang-up does not."""
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heard = [ending for ending in ENDINGS if not (nohup and ending is signal.SIGHUP)]
    before = {ending: signal.signal(ending, handler) for ending in heard}
    try:
        yield
    finally:
        for ending, former in before.items():
            signal.signal(ending, former)


@contextmanager
def superlink() -> Iterator[dict[str, str]]:
    """Start a SuperLink for simulations; yield the environment that Flower's CLI needs for it.

    On exit, also by a signal that ends this process, every process that descends from it is gone.

    Raises
    ------
    SuperLinkError
        If it does not come up; the message holds the end of its log.
    """
    with _handled_by(_interrupt), tempfile.TemporaryDirectory(prefix="thinwire-") as name:
        home = Path(name)
        port = _free_port()
        environment = _environment(home)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f'address = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        log = home / "superlink.log"
        command = [
            _script("flower-superlink"), "--insecure", "--simulation",
            "--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(port),
        ]  # fmt: skip
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=project_root(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then tidies up
            )
        try:
            _wait_until_healthy(process, port, log)
            yield environment
        finally:
            stop(process, environment)


def _environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(home),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore::DeprecationWarning,ignore::FutureWarning",
    }


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SuperLinkError(f"the SuperLink did not start:\n{log.read_text()[-2000:]}")


def submit(overrides: str, environment: dict[str, str]) -> int:
    """Submit the app with ``flwr run``, show its log, and return 0 only if it completed.

    Every client gets a simulated node, and a CPU for each of its threads.
    """
    federation = compose(overrides).federation
    flwr = _script("flwr")
    command = [
        flwr, "run", str(project_root()), CONNECTION, "--stream",
        "--run-config", f"overrides={json.dumps(overrides)}",
        "--federation-config",
        f"num-supernodes={federation.clients} "
        f"client-resources-num-cpus={federation.torch_threads} init-args-log-to-driver=false",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if not _is_chatter(line):
                print(line, end="", flush=True)
        process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
    final, details = status(environment)
    if final == "finished:completed":
        return 0
    print(f"the run did not complete ({final}). {details}", file=sys.stderr)
    return 1


# What Flower and Ray say in every run, and what says nothing about this one.
CHATTER = (
    "Using SuperLink", "Successfully started run", "Starting logstream",
    "Starting Flower Simulation", "Since flwr 1.32", "Federation `", "To change federation size",
    "flwr federation", "Successfully installed", "torch.jit.script_method", "  warnings.warn(",
)  # fmt: skip


def _is_chatter(line: str) -> bool:
    return any(text in line for text in CHATTER)


def status(environment: dict[str, str], patience: float = 30) -> tuple[str, str]:
    """Return status and details of the last run, as ``flwr list`` says, once they are final."""
    deadline = time.monotonic() + patience
    latest = ("unknown", "")
    while time.monotonic() < deadline:
        runs = _runs(environment)
        if runs:
            latest = str(runs[0]["status"]), str(runs[0].get("status-details", ""))
            if latest[0].startswith("finished"):
                return latest
        time.sleep(0.5)
    return latest


def _runs(environment: dict[str, str]) -> list[dict[str, object]]:
    try:
        listed = _flwr("list", CONNECTION, "--format", "json", environment=environment)
        return list(json.loads(listed)["runs"])
    except (ValueError, KeyError):
        return []


def _flwr(*arguments: str, environment: dict[str, str]) -> str:
    """Return what Flower's CLI prints, nothing if it hangs."""
    try:
        done = subprocess.run(
            [_script("flwr"), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=FLWR_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def stop(process: subprocess.Popen[bytes], environment: dict[str, str]) -> None:
    """Stop the SuperLink and everything that descends from it.

    A SIGTERM in the middle of a run would orphan Flower's simulation and Ray, so Flower is asked
    to stop the run first.
    """
    with _handled_by(signal.SIG_IGN):
        family = _descendants(process.pid)
        if any(_is_alive(member) for member in family):
            for run in _runs(environment):
                if not str(run["status"]).startswith("finished"):
                    _flwr("stop", str(run["run-id"]), CONNECTION, environment=environment)
            deadline = time.monotonic() + STOP_SECONDS
            while any(map(_is_alive, family)) and time.monotonic() < deadline:
                time.sleep(0.1)
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for member in family:
            if _is_alive(member, even_superexec=True):
                member.kill()


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _is_alive(process: psutil.Process, even_superexec: bool = False) -> bool:
    """Tell whether an app's process still runs; Flower's superexec, which starts them, stays."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return even_superexec or "superexec" not in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
