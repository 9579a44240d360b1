"""The launcher's own conduct when it is interrupted, without Flower."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_app import run, superlink


class DisturbedError(Exception):
    """A signal came through."""


@pytest.fixture
def disturbing() -> Iterator[None]:
    def disturb(signum: int, frame: object) -> None:
        raise DisturbedError(signum)

    before = {ending: signal.signal(ending, disturb) for ending in superlink.ENDINGS}
    yield
    for ending, handler in before.items():
        signal.signal(ending, handler)


def test_nothing_disturbs_the_stopping(disturbing, monkeypatch) -> None:
    def insist(pid: int) -> list:
        for ending in superlink.ENDINGS:
            os.kill(os.getpid(), ending)
        return []

    monkeypatch.setattr(superlink, "_descendants", insist)
    process = subprocess.Popen(["sleep", "60"])
    superlink.stop([process], {})
    assert process.poll() is not None
    with pytest.raises(DisturbedError):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("ending", superlink.ENDINGS)
def test_the_first_signal_is_answered_at_once_and_further_ones_ignored(
    disturbing, ending, capfd
) -> None:
    signal.signal(ending, superlink.interrupt)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), ending)
    assert "stopping" in capfd.readouterr().err
    for again in superlink.ENDINGS:
        os.kill(os.getpid(), again)


def test_a_flower_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch) -> None:
    script = tmp_path / "flwr"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(superlink, "script", lambda name: str(script))
    monkeypatch.setattr(superlink, "FLWR_SECONDS", 0.2)
    assert superlink._flwr("list", environment=dict(os.environ)) == ""
    assert superlink.status(dict(os.environ), patience=0.1) == ("unknown", "")


def test_a_name_that_is_taken_is_refused_before_anything_starts(tmp_path: Path, capsys) -> None:
    (tmp_path / "taken").mkdir()
    assert run.main([f"output.dir={tmp_path}", "output.name=taken"]) == 2
    assert "choose another output.name" in capsys.readouterr().err
