"""A run in this process: how it ends, and that it goes on as if it had not been interrupted."""

import json
import logging
import os
from pathlib import Path

import pytest
import torch

import fl_app
from fl_app.config import ConfigError
from fl_app.files import RESULTS
from fl_app.runs import console
from tests import small

WORDS = [
    *small.RUN.split(), *small.VT5.split(), "codec=top_k", "strategy=fedavg", "logger=none",
    "clients_per_round=2", "model.max_answer_length=4",
]  # fmt: skip


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv(RESULTS, str(tmp_path))
    return tmp_path / "runs"


def test_an_interrupted_run_is_resumed_with_what_its_clients_remember(results, monkeypatch) -> None:
    whole = fl_app.run_experiment([*WORDS, "output.name=whole"])
    line = console.round_line

    def interrupt(run, server_round: int) -> None:
        line(run, server_round)
        if server_round == 1:
            raise KeyboardInterrupt

    threads, mask, level = torch.get_num_threads(), os.umask(0o22), logging.getLogger("flwr").level
    with monkeypatch.context() as patched:
        patched.setattr(console, "round_line", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fl_app.run_experiment([*WORDS, "output.name=part"])
    assert json.loads((results / "part/summary.json").read_text())["status"] == "interrupted"
    assert (torch.get_num_threads(), os.umask(mask)) == (threads, 0o22)
    assert logging.getLogger("flwr").level == level
    run = fl_app.run_experiment("resume=runs/part")
    assert run.status == whole.status == "completed"
    assert run.metrics == whole.metrics
    assert run.summary["theta0_digest"] == whole.summary["theta0_digest"]
    assert (results / "part").stat().st_mode & 0o77 == 0


def test_what_is_wrong_is_refused_before_anything_is_written(results) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'optimizer\.lr'"):
        fl_app.run_experiment(["optimizer.lrr=3"])
    with pytest.raises(TypeError, match="a list of strings"):
        fl_app.run_experiment({"rounds": 3})  # type: ignore[arg-type]
    assert not results.exists()
    (results / "taken").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="choose another"):
        fl_app.run_experiment("output.name=taken")


def test_a_run_that_fails_raises_and_keeps_its_results(results) -> None:
    words = ["optimizer.lr=1e30", "optimizer.max_grad_norm=1e30", "local_epochs=30"]
    with pytest.raises(RuntimeError, match="every client of round 1 failed"):
        fl_app.run_experiment([*WORDS, *words, "output.name=failed"])
    assert fl_app.runs_table(fl_app.find_runs(results))["status"].tolist() == ["failed"]
