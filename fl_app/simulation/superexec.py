"""``python -m fl_app.simulation.superexec``: a Flower SuperExec that preloads imports.

With ``--cpus`` it serves the simulations of a SuperLink (see ``ray_workers``), otherwise a
SuperLink or a SuperNode of a deployment. It ends together with the process that it serves.
"""

import argparse
import os
import signal
import threading
import time
from contextlib import suppress

import psutil
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec import run_superexec as superexec

from fl_app.files import keep_private
from fl_app.simulation.executor import PreloadedExecutor

GRACE_SECONDS = 10


def main() -> None:
    """Run the SuperExec until a signal ends it."""
    parser = argparse.ArgumentParser(description="a Flower SuperExec that preloads imports")
    parser.add_argument("--runtime-api-address", required=True, metavar="HOST:PORT")
    parser.add_argument("--parent-pid", type=int, required=True, help="this process ends with it")
    parser.add_argument("--served-pid", type=int, required=True, help="ends with this process")
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--cpus", type=int, help="serve simulations with this many processors")
    kinds.add_argument("--serverapp", action="store_true", help="serve a SuperLink")
    kinds.add_argument("--clientapp", action="store_true", help="serve a SuperNode")
    parser.add_argument("--actors", type=int, help="there will be one simulation, with this many")
    parser.add_argument("--root-certificates", metavar="FILE", help="for a Runtime API with TLS")
    parser.add_argument("--superexec-auth-secret-file", metavar="FILE")
    arguments = parser.parse_args()
    keep_private()
    _end_with(arguments.parent_pid, arguments.served_pid)
    executor = _executor(arguments)
    superexec.get_executor = lambda *_, **__: executor  # Flower offers only its own executors
    try:
        superexec.run_superexec(
            runtime_api_address=arguments.runtime_api_address,
            insecure=arguments.root_certificates is None,
            root_certificates_path=arguments.root_certificates,
            superexec_auth_secret=load_superexec_auth_secret(arguments.superexec_auth_secret_file),
            parent_pid=arguments.parent_pid,
            runtime_dependency_install=False,
        )
    finally:  # also if the parent was killed, which a SuperLink does not notice
        with suppress(ProcessLookupError):
            os.kill(arguments.served_pid, signal.SIGTERM)


def _end_with(parent_pid: int, served_pid: int) -> None:
    """End this process some seconds after its parent.

    Flower's own watch sends a signal, but the signal's handler closes a connection whose lock the
    interrupted code may hold, and then waits forever.
    """

    def watch() -> None:
        while psutil.pid_exists(parent_pid):
            time.sleep(1)
        time.sleep(GRACE_SECONDS)
        for pid in (served_pid, os.getpid()):
            if pid == parent_pid:
                continue  # it has ended, and another process may have its number
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _executor(arguments: argparse.Namespace) -> PreloadedExecutor:
    if arguments.serverapp or arguments.clientapp:
        task_type = TaskType.SERVER_APP if arguments.serverapp else TaskType.CLIENT_APP
        return PreloadedExecutor(task_type)
    # It imports Ray, which nodes do not need.
    from fl_app.simulation.ray_workers import SimulationExecutor

    return SimulationExecutor(arguments.cpus, arguments.actors)


if __name__ == "__main__":
    main()
