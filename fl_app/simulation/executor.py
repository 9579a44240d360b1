"""Flower's task processes, each forked from one that has imported what it needs.

Flower starts a process for every message to a node, and for every run: importing torch and
transformers there takes longer than a short local training. A task itself is Flower's, unchanged.

What runs is the app that is installed here: a bundle that brings anything else is refused, and
none is put on disk. Whoever submits a run chooses a configuration, and brings no code. Tasks of
kinds that an executor is not for, such as Flower's agents, are not taken.
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

import torch
from flwr.app import Error
from flwr.supercore.constant import TASK_TYPE_TO_APPIO_API_ADDRESS_ARG, TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult, SubprocessExecutor

from fl_app.faults import FaultError, during, noted
from fl_app.faults.printable import WithoutTraceback
from fl_app.files import installed
from fl_app.simulation import bundle

WARM = "fl_app.simulation.preload"
# Where the commands are that Flower starts for a task.
COMMANDS: Mapping[TaskType, tuple[str, str]] = {
    TaskType.SERVER_APP: ("flwr.superlink.cli.flwr_serverapp", "flwr_serverapp"),
    TaskType.CLIENT_APP: ("flwr.supernode.cli.flwr_clientapp", "flwr_clientapp"),
    TaskType.SIMULATION: ("flwr.simulation.app", "flwr_simulation"),
}
IMPORTS: Mapping[TaskType, tuple[str, ...]] = {
    TaskType.SERVER_APP: (WARM, __name__),
    TaskType.CLIENT_APP: (WARM, __name__),
    TaskType.SIMULATION: (WARM, __name__, "ray"),
}
# Read when the code is, which an upgrade replaces no earlier.
INSTALLED = installed(bundle.DESCRIPTION)
OURS = bundle.described(INSTALLED.read_text())
SAID_IN_FULL = WithoutTraceback(bundle.BundleError)

# Where they look up what installs a bundle and what says where it was installed (Flower 1.41).
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


class WarmExecutor(SubprocessExecutor):
    """Starts Flower's processes for tasks of ``task_types``, and no others.

    On a machine with a GPU they import afresh, since CUDA does not survive a fork and some of the
    imports touch it.
    """

    def __init__(self, *task_types: TaskType) -> None:
        self.task_types = task_types
        self.contexts: ForkServerContext | SpawnContext
        if torch.cuda.is_available():
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
        forkserver.ensure_running()  # it imports at once

    def get_eligible_capacity(
        self, supported_task_types: set[TaskType], **_: Any
    ) -> tuple[set[TaskType], set[str]]:
        """Ask for tasks of the kinds that this executor is for."""
        return supported_task_types & {*self.task_types}, set()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process that ``spec`` describes."""
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
        """Start a process that is Flower's command for ``task_type``."""
        self.contexts.Process(target=run_task, args=(task_type, arguments, quiet)).start()


def keep_texts() -> None:
    """Have Flower send a kind of fault where it would send the text of an exception.

    What happens in the app is said by ``fl_app.client.words``. This is for what happens around it:
    looking at a bundle, loading the app; such a text names folders of the node. Flower logs it.
    """
    from flwr.supernode.runtime import run_clientapp

    def error(code: int, reason: str) -> Error:
        raised = sys.exc_info()[1]  # it calls this where it has caught something
        known = noted(raised) if isinstance(raised, Exception) else None
        return Error(code=code, reason=(known or FaultError("unexpected")).said)

    run_clientapp.Error = error  # type: ignore[misc, assignment]


def run_task(task_type: TaskType, arguments: Sequence[str], quiet: bool) -> None:
    """Be Flower's command for ``task_type``; ``quiet``: what it says goes through Flower's log."""
    if quiet:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
    for name in IMPORTS[task_type]:
        importlib.import_module(name)
    if task_type == TaskType.CLIENT_APP:
        keep_texts()
    module, function = COMMANDS[task_type]
    command = getattr(importlib.import_module(module), function)
    run_what_is_installed(task_type)
    sys.argv = [task_type.value, *arguments]
    command()


def run_what_is_installed(task_type: TaskType) -> None:
    """Have Flower's command, in this process, load the installed app and refuse other bundles.

    Raises
    ------
    RuntimeError
        If this version of Flower installs bundles in another place than is known here.
    """

    logging.getLogger("flwr").addFilter(SAID_IN_FULL)

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
