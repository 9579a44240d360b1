"""A run's submission: the model that it trained, and the log that its ledger adds up to."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
from peft import PeftModel

from fl_app import models
from fl_app.build import open_session
from fl_app.runs import submission
from fl_app.runs.submission import RunError, export
from fl_app.server_app import Experiment
from fl_app.tasks.anls import score
from fl_app.tasks.documents import Collator, predict
from fl_app.wire.conventions import COLUMNS
from tests import modes, small
from tests.loopback import Loopback

ADAPTERS = ("lora", "full")


@pytest.fixture(scope="module", params=ADAPTERS)
def run(request, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("runs") / request.param
    overrides = (
        f"{small.RUN} output.dir={folder.parent} output.name={folder.name} optimizer.lr=1e-2 "
        f"adapter={request.param} strategy=fedavg clients_per_round=2 evaluate_clients_per_round=1"
    )
    run = Experiment(open_session(overrides), Loopback(overrides, 3), overrides, setup_seconds=0.0)
    run.start()
    return run


@pytest.fixture
def copied(run: Experiment, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.folder.path, tmp_path / "run"))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_model_answers_as_the_run_did(run: Experiment, tmp_path: Path) -> None:
    export(run.folder.path, tmp_path / "out", "sent")
    cfg = run.session.cfg.copy()
    cfg._set_flag("readonly", False)
    cfg.model.path, cfg.model.sha256 = str(tmp_path / "out/model"), None
    model, tokenizer = models.load_vt5(cfg.model, seed=99)
    assert not isinstance(model, PeftModel)
    rows = run.session.data["test"].to_list()
    collator = Collator(tokenizer, model.config, cfg.model.max_length)
    answers = predict(model, tokenizer, collator, rows, cfg.model.max_answer_length)
    scores = score(answers, [accepted for row in rows for accepted in row["answers"]])
    final = json.loads((run.folder.path / "summary.json").read_text())["final"]
    assert scores == pytest.approx(final, abs=1e-6)
    start = run.session.evaluate(run.session.theta0, run.session.data["test"])
    assert start != pytest.approx(final, abs=1e-6)  # so that another model would be noticed


@pytest.mark.parametrize("convention", COLUMNS)
def test_the_log_is_the_ledgers_training(run: Experiment, tmp_path: Path, convention: str) -> None:
    arguments = [str(run.folder.path), "--out", str(tmp_path / "out"), "--convention", convention]
    assert submission.main(arguments) == 0
    path = tmp_path / "out/communication_log.csv"
    assert path.read_text().startswith("federated_round,sender,receiver,amount_of_bytes\n1,-1,")
    trained = [row for row in run.folder.ledger.rows if row.kind == "train"]
    log = read(path)
    assert len(log) == len(trained) == 2 * 2 * 2  # rounds, clients, directions
    for logged, row in zip(log, trained, strict=True):
        assert int(logged["federated_round"]) == row.round
        ends = (-1, row.partition) if row.direction == "down" else (row.partition, -1)
        assert (int(logged["sender"]), int(logged["receiver"])) == ends
        assert int(logged["amount_of_bytes"]) == getattr(row, COLUMNS[convention])


def test_the_conventions_differ_and_the_total_is_printed(run: Experiment, tmp_path, capsys) -> None:
    totals = {}
    for convention in COLUMNS:
        out = tmp_path / convention
        submission.main([str(run.folder.path), "--out", str(out), "--convention", convention])
        amounts = [int(row["amount_of_bytes"]) for row in read(out / "communication_log.csv")]
        totals[convention] = sum(amounts)
        assert f"{sum(amounts):,} bytes" in capsys.readouterr().out
    assert totals["competition"] > totals["sent"] > 0
    submission.main([str(run.folder.path), "--out", str(tmp_path / "as configured")])
    assert f"{totals[run.session.cfg.output.convention]:,} bytes" in capsys.readouterr().out


def test_the_same_run_gives_the_same_bytes_for_its_owner_alone(
    run: Experiment, tmp_path: Path
) -> None:
    before = os.umask(0o022)
    try:
        for name in ("one", "two"):
            assert submission.main([str(run.folder.path), "--out", str(tmp_path / name)]) == 0
    finally:
        os.umask(before)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert {"model/model.safetensors", "model/tokenizer.json"} <= {*map(str, files)}
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert modes.open_to_others(tmp_path / "one") == {}


def _without_a_column(run: Path) -> None:
    rows = [row.split(",") for row in (run / "ledger.csv").read_text().splitlines()]
    at = rows[0].index("competition_bytes")
    text = "\n".join(",".join(row[:at] + row[at + 1 :]) for row in rows)
    (run / "ledger.csv").write_text(text)


def _failed(run: Path) -> None:
    (run / "summary.json").write_text(json.dumps({"status": "failed"}))


def _without_weights(run: Path) -> None:
    for path in (run / "adapter").glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))  # what torch.load would read


SPOILS = {
    "column": (_without_a_column, "no column competition_bytes: .* run the experiment again"),
    "failed": (_failed, r"did not complete \(failed\)"),
    "running": (lambda run: (run / "summary.json").unlink(), "not the folder of a run that has"),
    "weights": (_without_weights, "neither adapter_model.safetensors nor model.safetensors"),
}


@pytest.mark.parametrize("name", SPOILS)
def test_what_cannot_be_submitted_is_refused(copied: Path, tmp_path: Path, name: str) -> None:
    spoil, says = SPOILS[name]
    spoil(copied)
    with pytest.raises(RunError, match=says):
        export(copied, tmp_path / "out", "competition")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_is_there_is_not_overwritten(run: Experiment, tmp_path: Path, capsys) -> None:
    (tmp_path / "out").mkdir()
    assert submission.main([str(run.folder.path), "--out", str(tmp_path / "out")]) == 1
    assert "exists" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
