"""What a client's turn tells of itself while it lasts, see ``fl_app.progress``.

In a simulation it goes to the display of whoever runs it; a real node prints it on its own console.
Nothing of it goes to the server.
"""

import time
from contextvars import ContextVar

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from omegaconf import DictConfig

from fl_app.client.simulated import is_simulated
from fl_app.privacy import is_client_level, is_example_level
from fl_app.progress.events import send
from fl_app.runs.text import duration, size
from fl_app.secure_aggregation.settings import is_on
from fl_app.wire.records import message_bytes

SEND_SECONDS = 0.5  # between two events of a turn
PRINT_SECONDS = 60.0  # between two lines of a turn


class Shown:
    """A turn of a client, as far as it has come."""

    def __init__(self) -> None:
        self._began = self._training = time.monotonic()
        self._who = ""
        self._client = 0
        self._hides_loss = True
        self._steps = 0
        self._loss: float | None = None
        self._next = 0.0

    def begin(self, client: int, server_round: int, cfg: DictConfig) -> None:
        """Note whose training begins, and of which round."""
        self._client, self._who = client, f"round {server_round}, client {client}"
        # Whoever runs a simulation sees no loss that the server of such a run would not be told.
        hidden = is_example_level(cfg) or is_client_level(cfg) or is_on(cfg)
        self._hides_loss = is_simulated() and hidden
        self._training, self._next = time.monotonic(), 0.0

    def step(self, step: int, steps: int, loss: float | None) -> None:
        """Tell of a step, unless another one has been told of just before.

        Parameters
        ----------
        step, steps : int
            Its number from 1, and the number of steps.
        loss : float or None
            Its loss; None if it may not be known.
        """
        self._steps, self._loss = step, None if self._hides_loss else loss
        now = time.monotonic()
        if now < self._next and step < steps:
            return
        left = (now - self._training) / step * (steps - step)
        if is_simulated():
            self._next = now + SEND_SECONDS
            send(client=self._client, step=step, steps=steps, loss=self._loss, left=left)
        elif step < steps:  # `end` is told of the last one
            self._next = now + PRINT_SECONDS
            self._print(f"step {step} of {steps}{self._said_loss()}, {left:.0f} s left")

    def end(self, question: Message, reply: Message) -> None:
        """Say on a real node's console what the turn was, and what its two messages weigh."""
        if self._who and not is_simulated():
            took = duration(time.monotonic() - self._began)
            self._print(
                f"{self._steps} steps, {took}{self._said_loss()}, "
                f"{size(message_bytes(question))} down, {size(message_bytes(reply))} up"
            )

    def _said_loss(self) -> str:
        return "" if self._loss is None else f", loss {self._loss:.4f}"

    def _print(self, said: str) -> None:
        print(f"{self._who}: {said}", flush=True)


_current: ContextVar[Shown] = ContextVar("turn")


def current() -> Shown:
    """Return the turn of this process."""
    return _current.get(None) or Shown()


def shown(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Show a turn: a mod around all that changes its reply."""
    turn = Shown()
    token = _current.set(turn)
    try:
        reply = call_next(message, context)
    finally:
        _current.reset(token)
    turn.end(message, reply)
    return reply
