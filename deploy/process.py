"""A command of a deployment on this machine: its process, its descendants and its log."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from fl_app.files import OTHERS
from fl_app.simulation.processes import is_alive

STOP_SECONDS = 20
GRACE_SECONDS = 5  # time for descendants to end after the command itself


class Process:
    """A running command in its own session, by which all that it starts can be found.

    Parameters
    ----------
    name : str
        Its name in messages.
    command : sequence of str
        The program and its arguments.
    environment : mapping
        The whole environment.
    log : Path
        The file that standard output and error are appended to. It contains complete error
        messages, so that only its owner can read it.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as output:
            self.popen = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=OTHERS,
            )

    @property
    def pid(self) -> int:
        """Return the process id of the command itself."""
        return self.popen.pid

    def poll(self) -> int | None:
        """Return the exit status of the command; None while it runs."""
        return self.popen.poll()

    def text(self) -> str:
        """Return its log so far."""
        return self.log.read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """Return the living processes of the command's session."""
        members = []
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
                if os.getsid(process.pid) == self.pid and is_alive(process):
                    members.append(process)
        return members

    def stop(self) -> int:
        """End the command with SIGTERM, as an operator would, then its descendants.

        Return its exit status.
        """
        if self.poll() is None:
            self.popen.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(STOP_SECONDS)
        deadline = time.monotonic() + GRACE_SECONDS
        while self.family() and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.kill()

    def kill(self) -> int:
        """Kill the command and its descendants with SIGKILL, like a power failure.

        Return its exit status.
        """
        deadline = time.monotonic() + STOP_SECONDS
        while (family := self.family()) and time.monotonic() < deadline:
            for process in family:
                with suppress(ProcessLookupError, psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            self.popen.poll()  # otherwise it would remain a zombie
            time.sleep(0.05)
        return self.popen.wait(STOP_SECONDS)

    def wait_for(self, text: str, seconds: float) -> None:
        """Wait until the log contains ``text``.

        Raises
        ------
        TimeoutError
            If the command ended, or the text did not appear in time; the message contains the end
            of the log.
        """
        deadline = time.monotonic() + seconds
        while text not in self.text():
            if self.poll() is not None or time.monotonic() > deadline:
                state = f"ended with {self.poll()}" if self.poll() is not None else "still runs"
                raise TimeoutError(
                    f"{self.name} did not log {text!r}; it {state}:\n{self.text()[-3000:]}"
                )
            time.sleep(0.1)
