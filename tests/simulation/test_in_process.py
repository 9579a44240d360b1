"""A run in this process: how it ends, and that it goes on as if it had not been interrupted."""

import json
import logging
import os
import random
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import transformers

import fl_app
from fl_app.build import PARALLEL_TOKENIZERS
from fl_app.config import ConfigError
from fl_app.files import RESULTS
from fl_app.runs import answers, console
from fl_app.runs.configurations import digest
from tests import architectures, small

WORDS = [
    *small.RUN.split(), *small.VT5.split(), "codec=top_k", "strategy=fedavg", "logger=none",
    "clients_per_round=2", "model.max_answer_length=4",
]  # fmt: skip


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch) -> Path:
    """Return where results go, which is below the current folder."""
    monkeypatch.delenv(RESULTS, raising=False)
    monkeypatch.delenv(PARALLEL_TOKENIZERS, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def state() -> dict[str, Any]:
    """Return what a run sets for its whole process."""
    return {
        "random": random.getstate(),
        "numpy": comparable(np.random.get_state(legacy=False)),
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "environment": dict(os.environ),
        "bars": datasets.are_progress_bars_disabled(),
        "transformers' bars": transformers.logging.is_progress_bar_enabled(),
        "level": logging.getLogger("flwr").level,
    }


def comparable(value: Any) -> str:
    return repr({**value, "state": {k: np.asarray(v).tolist() for k, v in value["state"].items()}})


def test_an_interrupted_run_is_resumed_with_what_its_clients_remember(results, monkeypatch) -> None:
    whole = fl_app.run_experiment([*WORDS, "output.name=whole"])
    line = console.round_line

    def interrupt(run, server_round: int) -> None:
        line(run, server_round)
        if server_round == 1:
            raise KeyboardInterrupt

    datasets.enable_progress_bars()
    transformers.logging.enable_progress_bar()
    before, mask = state(), os.umask(0o22)
    with monkeypatch.context() as patched:
        patched.setattr(console, "round_line", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fl_app.run_experiment([*WORDS, "output.name=part"])
    assert json.loads((results / "part/summary.json").read_text())["status"] == "interrupted"
    assert os.umask(mask) == 0o22
    assert state() == before
    run = fl_app.run_experiment("resume=runs/part")
    assert run.status == whole.status == "completed"
    assert run.metrics == whole.metrics
    assert run.summary["theta0_digest"] == whole.summary["theta0_digest"]
    assert (results / "part").stat().st_mode & 0o77 == 0
    assert [one.name for one in fl_app.find_runs("runs")] == ["part", "whole"]


def test_what_is_wrong_is_refused_before_anything_is_written(results) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'optimizer\.lr'"):
        fl_app.run_experiment(["optimizer.lrr=3"])
    with pytest.raises(TypeError, match="a list of strings"):
        fl_app.run_experiment({"rounds": 3})  # type: ignore[arg-type]
    assert not results.exists()
    Path("file").touch()
    with pytest.raises(ConfigError, match=r"file is a file; choose another output\.dir"):
        fl_app.run_experiment("output.dir=file/runs")
    (results / "taken").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="choose another"):
        fl_app.run_experiment("output.name=taken")


def test_a_run_that_fails_raises_and_keeps_its_results(results) -> None:
    words = ["optimizer.lr=1e30", "optimizer.max_grad_norm=1e30", "local_epochs=30"]
    with pytest.raises(RuntimeError, match="every client of round 1 failed"):
        fl_app.run_experiment([*WORDS, *words, "output.name=failed"])
    assert fl_app.runs_table(fl_app.find_runs(results))["status"].tolist() == ["failed"]


def test_ten_words_are_a_whole_run(results, capsys) -> None:
    """A model, a task, a file, and the column that says whose rows they are."""
    architectures.model("bert", num_labels=2).save_pretrained("bert")
    architectures.tokenizer("<s> $A").save_pretrained("bert")
    rows = [
        {"id": n, "note": f"a cough {n}", "label": ("ill", "well")[n % 2], "ward": "ens"[n % 3]}
        for n in range(45)
    ]
    datasets.Dataset.from_list(rows).to_csv("notes.csv", index=False)
    ten = ["model=./bert", "task=sequence_classification", "data=notes.csv", "data.client=ward"]
    few = ["rounds=1", "local_epochs=1", "logger=none"]
    run = fl_app.run_experiment([*ten, *few, "output.name=ten"])
    said = capsys.readouterr().out
    assert "inferred: 3 clients: e, n, s" in said
    assert run.summary["clients"]["names"] == {"0": "e", "1": "n", "2": "s"}
    (scored,) = answers.read(run.path)["clients"]["last"].values()
    assert {*scored} == {"e", "n", "s"}
    whole = sum(one["rows"] * one["accuracy"] for one in scored.values())
    assert whole / sum(one["rows"] for one in scored.values()) == pytest.approx(
        run.final("test")["accuracy"], abs=1e-6
    )
    assert "clients, test" in said
    assert run.config["task"]["labels"] == ["ill", "well"]
    overrides = (run.path / "overrides.txt").read_text()
    assert "notes.csv" in overrides
    assert not any(word in overrides.split() for word in ten if "/" in word or ".csv" in word)
    assert digest(fl_app.compose(overrides)) == digest(run.config)
