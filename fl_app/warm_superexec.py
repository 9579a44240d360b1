"""``python -m fl_app.warm_superexec``: a Flower SuperExec whose simulations start warm.

Flower's own starts every simulation as a new process with a Ray of its own: importing torch and
transformers there and in each of Ray's actors takes longer than a short run. This one keeps one
Ray for all simulations, forks each from a process that has imported everything, and has Ray keep
workers ready that have done so too. A simulation itself is Flower's, unchanged.
"""

import argparse
import logging
import multiprocessing
import os
import signal
import sys
import time
from contextlib import suppress
from multiprocessing import forkserver

import grpc
import joblib
import psutil
import ray
from flwr.supercore.constant import TASK_TYPE_TO_APPIO_API_ADDRESS_ARG, TaskType
from flwr.supercore.superexec import run_superexec as superexec
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult, SubprocessExecutor
from ray.core.generated.common_pb2 import Language  # type: ignore[attr-defined]
from ray.core.generated.node_manager_pb2 import (  # type: ignore[attr-defined]
    PrestartWorkersRequest,
)
from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub

SERVER_IMPORTS = ("fl_app.server_app", "fl_app.client_app", "flwr.simulation.app", "ray")
WORKER_IMPORTS = ("fl_app.client_app",)
MOST_WARM = 8  # workers that wait, with torch in memory
PRESTART_DELAY = 3  # seconds, until a simulation has taken its workers
PRESTART_SECONDS = 20
OBJECT_STORE_SHARE = 0.3  # of the memory of this SuperExec's share of the machine, Ray's default


class WarmExecutor(SubprocessExecutor):
    """Starts Flower's processes; those of simulations are forked, and find a Ray.

    Parameters
    ----------
    cpus : int
        What Ray may give to actors.
    """

    def __init__(self, cpus: int) -> None:
        self.cpus = cpus
        self.forks = multiprocessing.get_context("forkserver")
        self.forks.set_forkserver_preload(list(SERVER_IMPORTS))
        forkserver.ensure_running()  # it imports while Ray starts
        self.ray_address = start_ray(cpus)
        self.prestart_at: float | None = time.monotonic()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process that ``spec`` describes."""
        if spec.task_type is not TaskType.SIMULATION:
            return super().launch(spec)
        arguments = [
            TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[spec.task_type], spec.runtime_api_address,
            "--token", spec.token, "--insecure", "--parent-pid", str(os.getpid()),
        ]  # fmt: skip
        self.forks.Process(target=simulate, args=(arguments, self.ray_address)).start()
        self.prestart_at = time.monotonic() + PRESTART_DELAY
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Make up for the warm workers that the last simulation took."""
        if self.prestart_at is not None and time.monotonic() >= self.prestart_at:
            self.prestart_at = None
            missing = min(self.cpus, MOST_WARM) - _idle_workers()
            if missing > 0:
                with suppress(grpc.RpcError):  # without, the next simulation only starts slower
                    self._prestart_workers(missing)

    def _prestart_workers(self, number: int) -> None:
        """Have Ray start workers that the actors of the next simulation find ready."""
        node = ray.nodes()[0]
        with grpc.insecure_channel(
            f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
        ) as channel:
            NodeManagerServiceStub(channel).PrestartWorkers(
                PrestartWorkersRequest(language=Language.PYTHON, num_workers=number),
                timeout=PRESTART_SECONDS,
            )


def _idle_workers() -> int:
    names = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            names.append(" ".join(process.cmdline()))
    return sum(name.startswith("ray::IDLE") for name in names)


def start_ray(cpus: int) -> str:
    """Start Ray with ``cpus`` processors and their share of the memory; return its address.

    It ends with this process.
    """
    share = min(1.0, cpus / joblib.cpu_count())
    os.environ |= {
        "RAY_preload_python_modules": ",".join(WORKER_IMPORTS),
        "RAY_num_workers_soft_limit": str(cpus + min(cpus, MOST_WARM)),  # idle ones above it end
        "RAY_prestart_worker_first_driver": "0",  # this driver needs none
    }
    ray.init(
        address="local",  # whatever RAY_ADDRESS says
        num_cpus=cpus,
        object_store_memory=int(OBJECT_STORE_SHARE * share * psutil.virtual_memory().available),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    return str(ray.get_runtime_context().gcs_address)


def simulate(arguments: list[str], ray_address: str) -> None:
    """Be ``flwr-simulation`` with ``arguments``, on the Ray at ``ray_address``."""
    from flwr.simulation.app import flwr_simulation

    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # what is said goes through Flower's log
        os.dup2(nothing, stream)
    ray.init(address=ray_address, log_to_driver=False, logging_level=logging.ERROR)
    sys.argv = ["flwr-simulation", *arguments]
    flwr_simulation()


def main() -> None:
    """Run the SuperExec until it is told to end."""
    parser = argparse.ArgumentParser(description="a Flower SuperExec whose simulations start warm")
    parser.add_argument("--runtime-api-address", required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    parser.add_argument("--superlink-pid", type=int, required=True, help="ends with this process")
    parser.add_argument("--cpus", type=int, required=True)
    arguments = parser.parse_args()
    executor = WarmExecutor(arguments.cpus)
    superexec.get_executor = lambda *_, **__: executor  # Flower knows only executors of its own
    try:
        superexec.run_superexec(
            runtime_api_address=arguments.runtime_api_address,
            insecure=True,
            parent_pid=arguments.parent_pid,
            runtime_dependency_install=False,
        )
    finally:  # also if the parent was killed, of which a SuperLink takes no notice
        with suppress(ProcessLookupError):
            os.kill(arguments.superlink_pid, signal.SIGTERM)


if __name__ == "__main__":
    main()
