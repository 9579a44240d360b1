"""A command of a deployment on this machine: its process, all that it starts, and its log."""

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
GRACE_SECONDS = 5  # for what the command started, once it has ended itself


class Process:
    """A running command in a session of its own, so that nothing it starts can be lost.

    Parameters
    ----------
    name : str
        What messages call it.
    command : sequence of str
        The program and its arguments.
    environment : mapping
        The whole environment.
    log : Path
        Gets standard output and error, after what is there: whole errors, so it is the owner's.
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
        """Return the exit status of the command, None while it runs."""
        return self.popen.poll()

    def text(self) -> str:
        """Return its log so far."""
        return self.log.read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """Return what is alive of the command and all that it started."""
        members = []
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
                if os.getsid(process.pid) == self.pid and is_alive(process):
                    members.append(process)
        return members

    def stop(self) -> int:
        """End the command as an operator would (SIGTERM), and what it left; return its status."""
        if self.poll() is None:
            self.popen.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(STOP_SECONDS)
        deadline = time.monotonic() + GRACE_SECONDS
        while self.family() and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.kill()

    def kill(self) -> int:
        """End the command and all that it started at once (SIGKILL), as a power cut would."""
        deadline = time.monotonic() + STOP_SECONDS
        while (family := self.family()) and time.monotonic() < deadline:
            for process in family:
                with suppress(ProcessLookupError, psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            self.popen.poll()  # or it would stay as a zombie
            time.sleep(0.05)
        return self.popen.wait(STOP_SECONDS)

    def wait_for(self, text: str, seconds: float) -> None:
        """Wait until its log holds ``text``.

        Raises
        ------
        TimeoutError
            If it ended, or did not say so in time; the message holds the end of its log.
        """
        deadline = time.monotonic() + seconds
        while text not in self.text():
            if self.poll() is not None or time.monotonic() > deadline:
                ended = f"ended with {self.poll()}" if self.poll() is not None else "still runs"
                raise TimeoutError(
                    f"{self.name} did not say {text!r}; it {ended}:\n{self.text()[-3000:]}"
                )
            time.sleep(0.1)
