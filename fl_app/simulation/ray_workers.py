"""Simulations that start warm: one Ray for all of them, and workers that have imported everything.

Flower's own simulation starts a Ray of its own: importing torch and transformers in each of its
actors takes longer than a short run.
"""

import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import grpc
import joblib
import psutil
import ray
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult
from ray.core.generated.common_pb2 import Language  # type: ignore[attr-defined]
from ray.core.generated.node_manager_pb2 import (  # type: ignore[attr-defined]
    PrestartWorkersRequest,
)
from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub

from fl_app.simulation.executor import WARM, WarmExecutor, run_task

MOST_WARM = 8  # workers that wait, with torch in memory
PRESTART_DELAY = 3  # seconds, until a simulation has taken its workers
PRESTART_SECONDS = 20
STOP_SECONDS = 4  # for what it still writes; a SuperExec exits 5 s after it was told to
LOOPBACK = "127.0.0.1"
OBJECT_STORE_SHARE = 0.3  # of the memory of this SuperExec's share of the machine, Ray's default


class WarmSimulations(WarmExecutor):
    """Starts Flower's processes; those of simulations are warm, and find a Ray.

    Parameters
    ----------
    cpus : int
        What Ray may give to actors.
    actors : int, optional
        How many the only simulation to come has. Without, one simulation comes after another, and
        as many workers as there are processors wait for each.
    """

    def __init__(self, cpus: int, actors: int | None = None) -> None:
        super().__init__(TaskType.SIMULATION)  # it imports while Ray starts
        self.warm = min(actors or cpus, MOST_WARM)
        self.only = actors is not None
        self.ray_address = start_ray(cpus)
        self.prestart_at: float | None = time.monotonic()
        self.simulations: list[BaseProcess] = []

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process that ``spec`` describes."""
        launched = super().launch(spec)
        if not self.only:
            self.prestart_at = time.monotonic() + PRESTART_DELAY
        return launched

    def start(self, task_type: TaskType, arguments: Sequence[str], quiet: bool) -> None:
        """Start a simulation on this executor's Ray."""
        simulation = self.contexts.Process(
            target=simulate, args=(task_type, arguments, quiet, self.ray_address)
        )
        simulation.start()
        self.simulations = [one for one in self.simulations if one.is_alive()] + [simulation]

    def close(self) -> None:
        """End the simulations while Ray is there: to a server, actors that end are lost clients."""
        for simulation in self.simulations:
            simulation.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for simulation in self.simulations:
            simulation.join(max(0.0, deadline - time.monotonic()))
            simulation.kill()

    def reconcile(self) -> None:
        """Make up for the warm workers that the last simulation took."""
        if self.prestart_at is not None and time.monotonic() >= self.prestart_at:
            self.prestart_at = None
            missing = self.warm - _idle_workers()
            if missing > 0:
                with suppress(grpc.RpcError):  # without, the next simulation only starts slower
                    node = ray.nodes()[0]
                    port = node["NodeManagerPort"]
                    prestart_workers(f"{node['NodeManagerAddress']}:{port}", missing)


def prestart_workers(raylet: str, number: int) -> None:
    """Have Ray start workers that the actors of the next simulation find ready.

    Raises
    ------
    grpc.RpcError
        If nobody at ``raylet``, HOST:PORT, takes such orders.
    """
    with grpc.insecure_channel(raylet) as channel:
        NodeManagerServiceStub(channel).PrestartWorkers(
            PrestartWorkersRequest(language=Language.PYTHON, num_workers=number),
            timeout=PRESTART_SECONDS,
            metadata=_proof(),
        )


def _proof() -> list[tuple[str, str]]:
    """Return what shows Ray that a call comes from this user (``RAY_AUTH_MODE=token``)."""
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
    return [("authorization", f"Bearer {token}")]


def _idle_workers() -> int:
    names = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            names.append(" ".join(process.cmdline()))
    return sum(name.startswith("ray::IDLE") for name in names)


def start_ray(cpus: int) -> str:
    """Start Ray with ``cpus`` processors and their share of the memory; return its address.

    It ends with this process.

    Raises
    ------
    RuntimeError
        If it listens on other interfaces than loopback.
    """
    share = min(1.0, cpus / joblib.cpu_count())
    os.environ |= {
        "RAY_preload_python_modules": WARM,
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
    if ray.nodes()[0]["NodeManagerAddress"] != LOOPBACK:  # a later version may not know the switch
        ray.shutdown()
        raise RuntimeError(f"Ray {ray.__version__} does not listen on {LOOPBACK} alone")
    return str(ray.get_runtime_context().gcs_address)


def simulate(task_type: TaskType, arguments: Sequence[str], quiet: bool, ray_address: str) -> None:
    """Be ``flwr-simulation`` with ``arguments``, on the Ray at ``ray_address``."""
    ray.init(address=ray_address, log_to_driver=False, logging_level=logging.ERROR)
    run_task(task_type, arguments, quiet)
