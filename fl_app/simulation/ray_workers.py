"""Simulations on one shared Ray, with workers that have done their imports.

Flower's own simulation starts a Ray for each run: importing torch and transformers in each of its
actors takes longer than a short run.
"""

import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import grpc
import joblib
import psutil
import ray
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import PushTaskOutputRequest
from flwr.simulation.simulationio_connection import SimulationIoConnection
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult
from ray._private.node import Node
from ray.core.generated.common_pb2 import Language  # type: ignore[attr-defined]
from ray.core.generated.node_manager_pb2 import (  # type: ignore[attr-defined]
    PrestartWorkersRequest,
)
from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub

from fl_app.simulation.executor import PRELOAD, PreloadedExecutor, run_task
from fl_app.simulation.helpers import EVERY, RayHelpers, note

MOST_WAITING = 8  # workers that wait, with torch in memory
PRESTART_DELAY = 3  # seconds until a simulation has taken its workers
PRESTART_SECONDS = 20
STOP_SECONDS = 4  # time to write results; a SuperExec exits 5 s after a signal
LOOPBACK = "127.0.0.1"
# Ray starts these beside its own: to scale a cluster, to show logs and for a dashboard.
UNUSED = ("start_monitor", "start_log_monitor", "start_api_server")
SLOW_START = "timed out during startup"
BUSY = """Ray has not started within the 30 seconds that it waits: the machine is too busy.
Run it again when less else runs, or from Python with fl_app.run_experiment, which needs no Ray."""
OBJECT_STORE_SHARE = 0.3  # Ray's default, here of this SuperExec's share of the memory


class SimulationExecutor(PreloadedExecutor):
    """Starts Flower's simulations on one Ray, whose workers have done their imports.

    Parameters
    ----------
    cpus : int
        Processors that Ray may give to actors.
    actors : int, optional
        The number of actors, if there will be only one simulation. Otherwise simulations follow
        each other, and for each as many workers wait as there are processors.
    """

    def __init__(self, cpus: int, actors: int | None = None) -> None:
        super().__init__(TaskType.SIMULATION)  # it imports while Ray starts
        self.waiting = min(actors or cpus, MOST_WAITING)
        self.is_single = actors is not None
        self.ray_address = start_ray(cpus)
        self.prestart_at: float | None = time.monotonic()
        self.look_at = 0.0
        self.helpers = RayHelpers()
        self.simulations: dict[BaseProcess, Sequence[str]] = {}

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process of a task, and replace the workers that it takes."""
        launched = super().launch(spec)
        if not self.is_single:
            self.prestart_at = time.monotonic() + PRESTART_DELAY
        return launched

    def start(self, task_type: TaskType, arguments: Sequence[str], quiet: bool) -> None:
        """Start a simulation on this executor's Ray."""
        simulation = self.contexts.Process(
            target=simulate, args=(task_type, arguments, quiet, self.ray_address)
        )
        simulation.start()
        self.simulations[simulation] = arguments

    def close(self) -> None:
        """End the simulations before Ray: a server would count actors that end as lost clients."""
        for simulation in self.simulations:
            simulation.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for simulation in self.simulations:
            simulation.join(max(0.0, deadline - time.monotonic()))
            simulation.kill()

    def reconcile(self) -> None:
        """Start workers in place of those that the last simulation took, and look who is there.

        Raises
        ------
        SystemExit
            If one of Ray's processes has ended: no simulation goes on without it.
        """
        if time.monotonic() >= self.look_at:
            self.look_at = time.monotonic() + EVERY
            self._look()
        if self.prestart_at is not None and time.monotonic() >= self.prestart_at:
            self.prestart_at = None
            missing = self.waiting - _idle_workers()
            if missing > 0:
                with suppress(grpc.RpcError):  # then the next simulation starts more slowly
                    node = ray.nodes()[0]
                    port = node["NodeManagerPort"]
                    prestart_workers(f"{node['NodeManagerAddress']}:{port}", missing)

    def _look(self) -> None:
        if said := self.helpers.ended():
            note(said)
            sys.exit(said)
        for simulation in [one for one in self.simulations if one.exitcode is not None]:
            arguments = self.simulations.pop(simulation)
            if simulation.exitcode not in (0, 1):  # else it has said itself how the run ended
                report_failure(arguments, simulation.exitcode)


def report_failure(arguments: Sequence[str], status: int | None) -> None:
    """Tell the SuperLink at once that a simulation was killed; its heartbeat lasts a minute.

    Parameters
    ----------
    arguments : sequence of str
        Those of the simulation: the option and address of the SuperLink, "--token" and a token.
    status : int or None
        Its exit status: minus the number of a signal, if one has ended it.
    """
    ending = f"by signal {-status}" if status is not None and status < 0 else f"with {status}"
    details = (
        f"The server's process was ended {ending}, which the kernel does when memory runs out."
    )
    connection = SimulationIoConnection(arguments[1], insecure=True, token=arguments[3])
    request = PushTaskOutputRequest(sub_status=SubStatus.FAILED, details=details)
    try:
        connection._stub.PushTaskOutput(request)
    except Exception as error:  # the heartbeat will end, too
        print(f"the end of a simulation was not reported: {error}", file=sys.stderr, flush=True)


def prestart_workers(raylet: str, number: int) -> None:
    """Make Ray start workers for the actors of the next simulation.

    Parameters
    ----------
    raylet : str
        HOST:PORT of Ray's node manager.
    number : int
        How many.

    Raises
    ------
    grpc.RpcError
        If the raylet does not answer or refuses.
    """
    with grpc.insecure_channel(raylet, [("grpc.enable_http_proxy", 0)]) as channel:
        NodeManagerServiceStub(channel).PrestartWorkers(
            PrestartWorkersRequest(language=Language.PYTHON, num_workers=number),
            timeout=PRESTART_SECONDS,
            metadata=_credentials(),
        )


def _credentials() -> list[tuple[str, str]]:
    """Return the header that authenticates a call to Ray (``RAY_AUTH_MODE=token``)."""
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

    Ray ends with this process.

    Raises
    ------
    RuntimeError
        If it listens on other interfaces than loopback.
    """
    share = min(1.0, cpus / joblib.cpu_count())
    for name in UNUSED:
        setattr(Node, name, lambda *_, **__: None)
    os.environ |= {
        "RAY_preload_python_modules": PRELOAD,
        "RAY_num_workers_soft_limit": str(cpus + min(cpus, MOST_WAITING)),  # more idle ones end
        "RAY_prestart_worker_first_driver": "0",  # this driver needs none
    }
    try:
        ray.init(
            address="local",  # ignore RAY_ADDRESS
            num_cpus=cpus,
            object_store_memory=int(OBJECT_STORE_SHARE * share * psutil.virtual_memory().available),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # Ray has no class for a start that takes longer than it waits
        if SLOW_START in str(error):
            note(BUSY)
        raise
    if ray.nodes()[0]["NodeManagerAddress"] != LOOPBACK:  # a later version may lack the switch
        ray.shutdown()
        raise RuntimeError(f"Ray {ray.__version__} does not listen only on {LOOPBACK}")
    return str(ray.get_runtime_context().gcs_address)


def simulate(task_type: TaskType, arguments: Sequence[str], quiet: bool, ray_address: str) -> None:
    """Run ``flwr-simulation`` with ``arguments``, on the Ray at ``ray_address``."""
    from fl_app.simulation.lost_turns import repeat_lost_turns  # Flower's simulation, imported here

    repeat_lost_turns()
    ray.init(address=ray_address, log_to_driver=False, logging_level=logging.ERROR)
    run_task(task_type, arguments, quiet)
