"""Flower's task processes, each forked from one that has imported what it needs.

Flower starts a process for every message to a node, and for every run: importing torch and
transformers there takes longer than a short local training. A task itself is Flower's, unchanged.

The app is imported before the task brings its bundle, so what runs is the code that is installed
here: whoever submits a run chooses a configuration of it, and brings no code.
"""

import importlib
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext

import torch
from flwr.app import Error
from flwr.supercore.constant import TASK_TYPE_TO_APPIO_API_ADDRESS_ARG, TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult, SubprocessExecutor

from fl_app.faults import FaultError

WARM = "fl_app.warm_imports"
# Where the commands are that Flower starts for a task.
COMMANDS: Mapping[TaskType, tuple[str, str]] = {
    TaskType.SERVER_APP: ("flwr.superlink.cli.flwr_serverapp", "flwr_serverapp"),
    TaskType.CLIENT_APP: ("flwr.supernode.cli.flwr_clientapp", "flwr_clientapp"),
    TaskType.SIMULATION: ("flwr.simulation.app", "flwr_simulation"),
}
IMPORTS: Mapping[TaskType, tuple[str, ...]] = {
    TaskType.SERVER_APP: (WARM,),
    TaskType.CLIENT_APP: (WARM,),
    TaskType.SIMULATION: (WARM, "ray"),
}


class WarmExecutor(SubprocessExecutor):
    """Starts Flower's processes; those of ``task_types`` are warm.

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

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process that ``spec`` describes."""
        if spec.task_type not in self.task_types:
            return super().launch(spec)
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
    unpacking a bundle, loading the app; such a text names folders of the node. Flower logs it.
    """
    from flwr.supernode.runtime import run_clientapp

    def error(code: int, reason: str) -> Error:
        return Error(code=code, reason=FaultError("unexpected").said)

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
    sys.argv = [task_type.value, *arguments]
    getattr(importlib.import_module(module), function)()
