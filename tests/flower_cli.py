"""Flower's command line in this process: its own process would import Flower for over a second."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO

import pytest
from flwr.cli.app import app
from flwr.supercore.logger import console_handler

from deploy import deployment

# Environment of a deployment whose executors ask for tasks less often, which costs its SuperLink a
# tenth of a processor otherwise.
PATIENT = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5"}
LOOK_EVERY = 1.5  # seconds between two looks whether a run has ended


def invoke(*arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run ``flwr ARGUMENTS`` as if in a process of its own."""
    said, complained, status = StringIO(), StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        for name, stream in (("stdout", said), ("stderr", complained)):
            patch.setattr(sys, name, stream)
            patch.setattr(sys, f"__{name}__", stream)  # Flower writes to either
        patch.setattr(console_handler, "stream", complained)
        patch.setattr(sys, "argv", ["flwr", *arguments])
        try:
            app([*arguments])
        except SystemExit as ended:
            status = int(ended.code or 0)
    return subprocess.CompletedProcess(arguments, status, said.getvalue(), complained.getvalue())


def flwr(*arguments: str, environment: Mapping[str, str], seconds: float | None = None) -> str:
    """Stand in for ``fl_app.simulation.superlink.flwr``, without a process.

    A log that is followed would not be left after ``seconds``: instead it returns at once, and a
    deployment asks for the status again.
    """
    if "--stream" in arguments:
        time.sleep(LOOK_EVERY if seconds is None else min(LOOK_EVERY, seconds))
        return ""
    return invoke(*arguments, environment=environment).stdout


@contextmanager
def without_processes() -> Iterator[None]:
    """Let deployments ask Flower through ``invoke``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deployment, "flwr", flwr)
        yield
