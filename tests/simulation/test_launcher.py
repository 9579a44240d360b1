"""The launcher's own conduct when it is interrupted, without Flower."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_app import run
from fl_app.config import ConfigError, compose
from fl_app.simulation import private_superlink, superlink
from fl_app.simulation.processes import ENDINGS, interrupt


class DisturbedError(Exception):
    """A signal came through."""


@pytest.fixture
def disturbing() -> Iterator[None]:
    def disturb(signum: int, frame: object) -> None:
        raise DisturbedError(signum)

    before = {ending: signal.signal(ending, disturb) for ending in ENDINGS}
    yield
    for ending, handler in before.items():
        signal.signal(ending, handler)


def test_nothing_disturbs_the_stopping(disturbing, monkeypatch) -> None:
    def insist(pid: int) -> list:
        for ending in ENDINGS:
            os.kill(os.getpid(), ending)
        return []

    monkeypatch.setattr(superlink, "descendants", insist)
    process = subprocess.Popen(["sleep", "60"])
    superlink.stop([process], {})
    assert process.poll() is not None
    with pytest.raises(DisturbedError):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_first_signal_is_answered_at_once_and_further_ones_ignored(
    disturbing, ending, capfd
) -> None:
    signal.signal(ending, interrupt)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), ending)
    assert "stopping" in capfd.readouterr().err
    for again in ENDINGS:
        os.kill(os.getpid(), again)


def test_a_flower_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch) -> None:
    script = tmp_path / "flwr"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(superlink, "script", lambda name: str(script))
    monkeypatch.setattr(superlink, "FLWR_SECONDS", 0.2)
    assert superlink.flwr("list", environment=dict(os.environ)) == ""
    assert superlink.status(dict(os.environ), patience=0.1) == ("unknown", "")


def test_a_name_that_is_taken_is_refused_before_anything_starts(tmp_path: Path, capsys) -> None:
    (tmp_path / "taken").mkdir()
    assert run.main([f"output.dir={tmp_path}", "output.name=taken"]) == 2
    assert "choose another output.name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "cpus", "wanted"),
    [
        ("clients_per_round=1", 8, 8),  # one actor
        ("clients_per_round=2", 8, 4),
        ("clients_per_round=1 evaluate_clients_per_round=4", 8, 2),
        ("clients_per_round=10", 2, 1),  # as many as there are processors
        ("clients_per_round=10 federation.torch_threads=2", 8, 2),
    ],
)
def test_no_more_actors_than_clients_at_once(words: str, cpus: int, wanted: int) -> None:
    assert run.cpus_per_actor(compose(words), cpus) == wanted


def test_more_threads_than_processors_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"torch_threads=4.*2 processors"):
        run.cpus_per_actor(compose("federation.torch_threads=4"), 2)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who is at the other end")
def test_who_connects_is_known_and_who_has_gone_is_nobody(listener: socket.socket) -> None:
    """A request that is sent, and the connection closed at once, is not taken for root's."""
    with socket.create_connection(listener.getsockname()) as client:
        accepted, peer = listener.accept()
        assert private_superlink.user_at(peer, accepted.getsockname()) == os.getuid()
        client.sendall(b"POST / HTTP/1.1\r\n\r\n")
    assert private_superlink.user_at(peer, accepted.getsockname()) is None
    accepted.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who is at the other end")
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_told_from_this_one(listener: socket.socket) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        client = socket.create_connection(listener.getsockname())
        os.read(read, 1)
        client.close()
        os._exit(0)
    accepted, peer = listener.accept()
    assert private_superlink.user_at(peer, accepted.getsockname()) == 65534
    os.write(write, b"x")
    os.waitpid(child, 0)
    accepted.close()
