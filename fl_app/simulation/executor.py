"""Start Flower's task processes by forking a process that has done their imports.

Flower starts a process for every message to a node, and for every run. Importing torch and
transformers there takes longer than a short local training. The tasks themselves are Flower's,
unchanged.

Only the installed app is run: a bundle that brings anything else is refused, and no bundle is
written to disk. The submitter of a run chooses a configuration and brings no code. An executor
takes only tasks of its own types; Flower's agents, for example, are not run.
"""

import importlib
import logging
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Any

from flwr.app import Error
from flwr.supercore.constant import TASK_TYPE_TO_APPIO_API_ADDRESS_ARG, TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult, SubprocessExecutor

from fl_app.faults import FaultError, during, noted
from fl_app.faults.printable import WithoutTraceback
from fl_app.files import installed
from fl_app.simulation import bundle

PRELOAD = "fl_app.simulation.preload"
FIRST_USE = "fl_app.simulation.first_use"
# The module and function of the command that Flower starts for a task.
COMMANDS: Mapping[TaskType, tuple[str, str]] = {
    TaskType.SERVER_APP: ("flwr.superlink.cli.flwr_serverapp", "flwr_serverapp"),
    TaskType.CLIENT_APP: ("flwr.supernode.cli.flwr_clientapp", "flwr_clientapp"),
    TaskType.SIMULATION: ("flwr.simulation.app", "flwr_simulation"),
}
IMPORTS: Mapping[TaskType, tuple[str, ...]] = {
    TaskType.SERVER_APP: (PRELOAD, FIRST_USE, __name__),
    TaskType.CLIENT_APP: (PRELOAD, FIRST_USE, __name__),
    TaskType.SIMULATION: (PRELOAD, FIRST_USE, __name__, "ray"),
}
# Read together with the code, so that an upgrade replaces neither alone.
INSTALLED = installed(bundle.INSTALLED)
OURS = bundle.described(INSTALLED.read_text())
MESSAGE_ONLY = WithoutTraceback(bundle.BundleError)
# Devices of the drivers of NVIDIA (also of its boards, and in Windows' Linux) and AMD.
GPUS = ("nvidia*", "nvhost*", "nvgpu*", "dxg", "kfd")

# Where the commands look up the functions that install a bundle and find it.
INSTALL, FIND = "install_from_fab", "get_project_dir"
INSTALLS: Mapping[TaskType, tuple[tuple[str, str], ...]] = {
    TaskType.SERVER_APP: tuple(
        ("flwr.superlink.runtime.run_serverapp", name) for name in (INSTALL, FIND)
    ),
    TaskType.CLIENT_APP: (
        ("flwr.supernode.runtime.run_clientapp", INSTALL),
        ("flwr.supernode.runtime.run_clientapp", FIND),
        ("flwr.clientapp.utils", FIND),
    ),
    TaskType.SIMULATION: tuple(("flwr.simulation.app", name) for name in (INSTALL, FIND)),
}


def has_gpu() -> bool:
    """Tell whether torch finds a GPU; without a driver's device, torch is not imported to ask."""
    if not any(found for name in GPUS for found in Path("/dev").glob(name)):
        return False
    import torch

    return torch.cuda.is_available()


class PreloadedExecutor(SubprocessExecutor):
    """Starts Flower's processes for tasks of ``task_types``, and for no others.

    On a machine with a GPU, processes are spawned and do their own imports: CUDA does not survive a
    fork, and some of the imports initialize it.
    """

    def __init__(self, *task_types: TaskType) -> None:
        self.task_types = task_types
        self.contexts: ForkServerContext | SpawnContext
        if has_gpu():
            self.contexts = multiprocessing.get_context("spawn")
            return
        self.contexts = multiprocessing.get_context("forkserver")
        self.contexts.set_forkserver_preload(
            [
                name
                for task_type in task_types
                for name in (*IMPORTS[task_type], COMMANDS[task_type][0])
            ]
        )
        forkserver.ensure_running()  # it starts importing immediately

    def get_eligible_capacity(
        self, supported_task_types: set[TaskType], **_: Any
    ) -> tuple[set[TaskType], set[str]]:
        """Request tasks of this executor's types."""
        return supported_task_types & {*self.task_types}, set()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process of a task."""
        if spec.task_type not in self.task_types:
            return LaunchResult.failed(f"tasks of type {spec.task_type} are not run here")
        arguments = [
            TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[spec.task_type], spec.runtime_api_address,
            "--token", spec.token, "--parent-pid", str(os.getpid()),
        ]  # fmt: skip
        if spec.insecure:
            arguments.append("--insecure")
        elif spec.root_certificates_path is not None:
            arguments += ["--root-certificates", spec.root_certificates_path]
        self.start(spec.task_type, arguments, spec.suppress_output)
        return LaunchResult.accepted()

    def start(self, task_type: TaskType, arguments: Sequence[str], quiet: bool) -> None:
        """Start a process that runs Flower's command for ``task_type``."""
        self.contexts.Process(target=run_task, args=(task_type, arguments, quiet)).start()


def hide_exception_texts() -> None:
    """Make Flower send a kind of fault where it would send the text of an exception.

    Errors within the app are reported by ``fl_app.client.words``. This is for errors around it, in
    checking a bundle or loading the app, whose texts would name folders of the node. Flower still
    logs them on the node.
    """
    from flwr.supernode.runtime import run_clientapp

    def error(code: int, reason: str) -> Error:
        raised = sys.exc_info()[1]  # Flower calls this where it has caught an exception
        known = noted(raised) if isinstance(raised, Exception) else None
        return Error(code=code, reason=(known or FaultError("unexpected")).said)

    run_clientapp.Error = error  # type: ignore[misc, assignment]


def run_task(task_type: TaskType, arguments: Sequence[str], quiet: bool) -> None:
    """Run Flower's command for ``task_type`` in this process.

    Parameters
    ----------
    task_type : TaskType
        The type of the task.
    arguments : sequence of str
        Those of the command.
    quiet : bool
        Discard standard output and error; Flower's log has the messages.
    """
    if quiet:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
    for name in IMPORTS[task_type]:
        importlib.import_module(name)
    if task_type == TaskType.CLIENT_APP:
        hide_exception_texts()
    module, function = COMMANDS[task_type]
    command = getattr(importlib.import_module(module), function)
    use_installed_app(task_type)
    sys.argv = [task_type.value, *arguments]
    command()


def use_installed_app(task_type: TaskType) -> None:
    """Make Flower's command, in this process, load the installed app and refuse other bundles.

    Raises
    ------
    RuntimeError
        If this version of Flower does not install bundles where this module expects it.
    """
    logging.getLogger("flwr").addFilter(MESSAGE_ONLY)

    def refuse(fab_file: bytes, **_: Any) -> Path:
        with during("bundle"):
            bundle.check(fab_file, OURS)
        return INSTALLED.parent

    replacements = {INSTALL: refuse, FIND: lambda *_: INSTALLED.parent}
    for module, name in INSTALLS[task_type]:
        place = importlib.import_module(module)
        if not hasattr(place, name):
            raise RuntimeError(f"this version of Flower has no {module}.{name}: see {__file__}")
        setattr(place, name, replacements[name])
