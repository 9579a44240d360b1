"""``python -m fl_app.simulation.superexec``: a Flower SuperExec whose processes start warm.

With ``--cpus`` it serves the simulations of a SuperLink (see ``ray_workers``), without it a
SuperLink or a SuperNode of a deployment. It ends with the process that it serves, and that one
with it.
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
from fl_app.simulation.executor import WarmExecutor

GRACE_SECONDS = 10


def main() -> None:
    """Run the SuperExec until it is told to end."""
    parser = argparse.ArgumentParser(description="a Flower SuperExec whose processes start warm")
    parser.add_argument("--runtime-api-address", required=True, metavar="HOST:PORT")
    parser.add_argument("--parent-pid", type=int, required=True, help="this process ends with it")
    parser.add_argument("--served-pid", type=int, required=True, help="ends with this process")
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--cpus", type=int, help="serve simulations with as many processors")
    kinds.add_argument("--serverapp", action="store_true", help="serve a SuperLink")
    kinds.add_argument("--clientapp", action="store_true", help="serve a SuperNode")
    parser.add_argument("--actors", type=int, help="of the one simulation that is to come")
    parser.add_argument("--root-certificates", metavar="FILE", help="of a Runtime API with TLS")
    parser.add_argument("--superexec-auth-secret-file", metavar="FILE")
    arguments = parser.parse_args()
    keep_private()
    _end_with(arguments.parent_pid, arguments.served_pid)
    executor = _executor(arguments)
    superexec.get_executor = lambda *_, **__: executor  # Flower knows only executors of its own
    try:
        superexec.run_superexec(
            runtime_api_address=arguments.runtime_api_address,
            insecure=arguments.root_certificates is None,
            root_certificates_path=arguments.root_certificates,
            superexec_auth_secret=load_superexec_auth_secret(arguments.superexec_auth_secret_file),
            parent_pid=arguments.parent_pid,
            runtime_dependency_install=False,
        )
    finally:  # also if the parent was killed, of which a SuperLink takes no notice
        with suppress(ProcessLookupError):
            os.kill(arguments.served_pid, signal.SIGTERM)


def _end_with(parent_pid: int, served_pid: int) -> None:
    """End this process some seconds after its parent.

    Flower's own watch asks it to, but its answer to the signal closes a connection which the
    interrupted code may hold the lock of, and then it waits for ever.
    """

    def watch() -> None:
        while psutil.pid_exists(parent_pid):
            time.sleep(1)
        time.sleep(GRACE_SECONDS)
        for pid in (served_pid, os.getpid()):
            if pid == parent_pid:
                continue  # it has ended, and its number may be another's
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _executor(arguments: argparse.Namespace) -> WarmExecutor:
    if arguments.serverapp or arguments.clientapp:
        return WarmExecutor(TaskType.SERVER_APP if arguments.serverapp else TaskType.CLIENT_APP)
    from fl_app.simulation.ray_workers import (
        WarmSimulations,  # with Ray, which nodes need not import
    )

    return WarmSimulations(arguments.cpus, arguments.actors)


if __name__ == "__main__":
    main()
