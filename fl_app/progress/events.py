"""Events of a run: lines of JSON in a named pipe, read by the display of ``thinwire run``.

An event has some of these keys:

- ``phase``: what the run does now. It ends the clients' turns.
- ``clients``: client -> name.
- ``traffic``: bytes sent so far, as text.
- ``replied``: a client whose reply has come.
- ``client``, ``step``, ``steps``, ``loss``, ``left``: a client's turn, the seconds left of its
  training, and the loss of the step or None.
"""

import json
import os
import select
from contextlib import suppress
from typing import Any

PIPE = "THINWIRE_PROGRESS"  # environment variable: the pipe, of a run that has a display


def is_watched() -> bool:
    """Tell whether the run of this process has a display."""
    return PIPE in os.environ


def send(**event: Any) -> None:
    """Send an event to the display; without one, or if it is not read or too long, drop it."""
    if PIPE not in os.environ:
        return
    line = f"{json.dumps(event)}\n".encode()
    if len(line) > select.PIPE_BUF:  # it could be written in pieces, between those of others
        return
    with suppress(OSError):  # training waits for no display
        pipe = os.open(os.environ[PIPE], os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(pipe, line)
        finally:
            os.close(pipe)


def say(phase: str, **more: Any) -> None:
    """Tell what the run does now: to the display, or without one in a line of output.

    Parameters
    ----------
    phase : str
        One line.
    **more
        Other keys of the event.
    """
    if is_watched():
        send(phase=phase, **more)
    else:
        print(f"{phase} ...", flush=True)
