"""The live display: drawn on a terminal that is left clean, and nothing but lines elsewhere."""

import json
import os
import pty
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import pytest

from fl_app.client import shown
from fl_app.client.simulated import simulated_in_process
from fl_app.config import compose
from fl_app.progress.display import Picture, display
from fl_app.progress.events import PIPE, is_watched, say, send

HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"  # the cursor
COLOUR = re.compile(rb"\x1b\[[\d;]*[1-9]\d*m")
TURN = {"client": 4, "step": 12, "steps": 48, "loss": 0.4321, "left": 31.2}


class Terminal:
    """A terminal; `shown` is what has been written to it."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        os.set_blocking(self.master, False)
        self.out = os.fdopen(slave, "w")
        self.shown = b""

    @contextmanager
    def display(self) -> Iterator[None]:
        """Draw on it, as standard output."""
        with redirect_stdout(self.out):
            with display():
                yield
            assert sys.stdout is self.out

    def waits_for(self, text: bytes) -> bool:
        deadline = time.monotonic() + 20
        while text not in self.shown and time.monotonic() < deadline:
            try:
                self.shown += os.read(self.master, 2**16)
            except BlockingIOError:
                time.sleep(0.02)
        return text in self.shown


@pytest.fixture
def terminal(monkeypatch) -> Iterator[Terminal]:
    made = Terminal()
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    yield made
    made.out.close()
    os.close(made.master)


def draw(terminal: Terminal) -> None:
    """Draw a phase and a turn, print a line, and look that both are there."""
    say("round 1 of 2: client 4 trains", traffic="168 B down, 0 B up so far")
    send(**TURN)
    assert terminal.waits_for(b"client 4  step 12 of 48")
    print("    1  4             0.6899", flush=True)
    assert terminal.waits_for(b"    1  4             0.6899\r\n")


def test_a_phase_and_turns_are_drawn_and_lines_stand_above(terminal) -> None:
    with terminal.display():
        assert is_watched()
        draw(terminal)
        assert terminal.waits_for(b"round 1 of 2: client 4 trains (")
        assert terminal.waits_for(b"168 B down, 0 B up so far")
        assert terminal.waits_for(b"loss 0.4321  31 s left")
        assert terminal.waits_for("━".encode())
        send(replied=4, traffic="168 B down, 38.1 kB up so far")
        assert terminal.waits_for(b"38.1 kB up so far")
    assert terminal.waits_for(SHOW)
    assert terminal.shown.count(HIDE) == terminal.shown.count(SHOW) == 1
    assert not is_watched()


def fail(terminal: Terminal, error: type[BaseException]) -> None:
    with terminal.display():
        draw(terminal)
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_leaves_a_clean_terminal(terminal, error) -> None:
    with pytest.raises(error):
        fail(terminal, error)
    assert terminal.waits_for(SHOW)
    assert re.search(rb"(\x1b\[1A\x1b\[2K)+\n?$", terminal.shown.split(SHOW)[1])  # erased
    assert not is_watched()


def test_no_color_is_obeyed(terminal, monkeypatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with terminal.display():
        draw(terminal)
    assert terminal.waits_for(SHOW)
    assert not COLOUR.search(terminal.shown)


def test_a_dumb_terminal_gets_lines(terminal, monkeypatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with terminal.display():
        say("loading the model")
    assert terminal.waits_for(b"loading the model ...\r\n")
    assert b"\x1b" not in terminal.shown


@pytest.mark.parametrize("width", [20, 40, 60])
def test_on_a_narrow_terminal_no_line_is_wrapped(terminal, monkeypatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with terminal.display():
        say("round 1 of 2: " + "a long phase " * 9)
        send(**TURN)
        assert terminal.waits_for(b"client 4  step"[: width - 8])
    assert terminal.waits_for(SHOW)
    plain = re.sub(rb"\x1b\[[?\d;]*[A-Za-z]", b"", terminal.shown).decode()
    assert max(map(len, re.split(r"[\r\n]", plain))) <= width


def test_elsewhere_a_phase_is_a_line(capsys, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # which says nothing about a terminal
    with display():
        say("loading the model")
        send(**TURN)
        assert not is_watched()
    assert capsys.readouterr().out == "loading the model ...\n"


def test_a_display_that_nobody_reads_stops_nobody(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(PIPE, str(tmp_path / "gone"))
    send(**TURN)
    os.mkfifo(tmp_path / "gone")
    send(**TURN)  # no reader
    kept = os.open(tmp_path / "gone", os.O_RDWR | os.O_NONBLOCK)
    for _ in range(2000):  # more than it holds
        send(**TURN)
    *lines, rest = os.read(kept, 2**20).split(b"\n")
    os.close(kept)
    assert rest == b""  # whole lines
    assert all(json.loads(line) == TURN for line in lines)


def test_more_turns_than_rows_are_counted() -> None:
    picture = Picture()
    for client in range(11):
        picture.take({**TURN, "client": client})
    assert picture.__rich__().renderables[-1].plain == "  and 3 more"


PRIVATE = {
    "rows": "privacy=dp_sgd adapter=ffa_lora privacy.epsilon=8",
    "clients": "strategy=fedavg_dp_client",
    "sum": "strategy=secure_fedavg codec=modular clients_per_round=3",
}


@pytest.mark.parametrize("overrides", ["strategy=fedavg", *PRIVATE.values()])
def test_whoever_runs_a_simulation_sees_losses_only_where_nothing_is_private(
    tmp_path, monkeypatch, overrides: str
) -> None:
    monkeypatch.setenv(PIPE, str(tmp_path / "events"))
    os.mkfifo(tmp_path / "events")
    pipe = os.open(tmp_path / "events", os.O_RDWR | os.O_NONBLOCK)
    turn = shown.Shown()
    with simulated_in_process():
        turn.begin(4, 1, compose(overrides))
        turn.step(1, 2, 0.4321)
    told = json.loads(os.read(pipe, 2**16))
    os.close(pipe)
    assert (told["client"], told["step"], told["steps"]) == (4, 1, 2)
    assert told["loss"] == (None if overrides in PRIVATE.values() else 0.4321)


def test_few_of_many_steps_are_sent(tmp_path, monkeypatch) -> None:
    sent = []
    monkeypatch.setattr(shown, "send", lambda **event: sent.append(event["step"]))
    turn = shown.Shown()
    with simulated_in_process():
        turn.begin(4, 1, compose(""))
        for step in range(1, 1001):
            turn.step(step, 1000, 1.0)
    assert {1, 1000} <= {*sent}
    assert len(sent) < 20


def test_a_real_node_prints_the_first_step_of_a_long_turn_and_sends_nothing(
    tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(shown, "send", lambda **event: pytest.fail("a node has no display"))
    turn = shown.Shown()
    turn.begin(4, 1, compose(PRIVATE["sum"]))
    for step in range(1, 101):
        turn.step(step, 100, 0.4321)
    assert capsys.readouterr().out == "round 1, client 4: step 1 of 100, loss 0.4321, 0 s left\n"


def test_lines_that_are_no_events_are_passed_over(terminal) -> None:
    with terminal.display():
        with open(os.environ[PIPE], "wb", buffering=0) as pipe:  # noqa: PTH123
            pipe.write(b'5\nnull\n[1]\n{"client": 1}\n{"clients": 5}\n\xff\n{\n')
        say("the next one")
        assert terminal.waits_for(b"the next one")
