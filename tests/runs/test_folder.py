"""A run's folder and its report, from a whole run in one process."""

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fl_app.build import forget_session, open_session
from fl_app.config import compose
from fl_app.report import page as report
from fl_app.runs import checkpoint, console
from fl_app.runs.folder import RunFolder
from fl_app.runs.submission import communication_log
from fl_app.runs.summary import target
from fl_app.runs.text import duration, score, size
from fl_app.server_app import Experiment
from fl_app.tree import digest
from tests import finished_runs, modes, small
from tests.loopback import Loopback


def start(folder: Path, words: str = "", tamper=None) -> Experiment:
    overrides = f"{small.RUN} output.dir={folder.parent} output.name={folder.name} {words}"
    run = Experiment(
        open_session(overrides), Loopback(overrides, 3, tamper), overrides, setup_seconds=0.5
    )
    run.start()
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("runs") / "one"
    return start(folder, "target.value=0.0 strategy=fedavg clients_per_round=2")


def summary(run: Experiment) -> dict:
    return json.loads((run.folder.path / "summary.json").read_text())


def test_the_summary_agrees_with_the_ledger(finished: Experiment) -> None:
    found, ledger = summary(finished), finished.folder.ledger
    train = [r for r in ledger.rows if r.kind == "train"]
    assert found["bytes"]["message_up"] == sum(
        r.message_bytes for r in train if r.direction == "up"
    )
    scalars = found["trainable_scalars"]
    assert found["bits_per_scalar_up"] == pytest.approx(
        8 * sum(r.payload_bytes for r in train if r.direction == "up") / (4 * scalars)
    )
    assert 4.5 <= found["bits_per_scalar_up"] < 4.6
    assert found["theta0_digest"] == digest(finished.session.theta0)
    saved = found["bytes"]["message_down"] - found["bytes"]["message_down_seed_only"]
    assert saved == 0  # with a codec of changes, it did


def test_validation_is_scored_every_round_and_changes_nothing_else(tmp_path: Path, capsys) -> None:
    """The ledger, the test scores and the model have the same bits as without."""
    without, run = start(tmp_path / "a"), start(tmp_path / "b", "data.validation_documents=3")
    metrics = [row for row in run.folder.metrics if row[1] == "validation"]
    assert sorted({number for number, *_ in metrics}) == [0, 1, 2]
    assert [row for row in run.folder.metrics if row not in metrics] == without.folder.metrics
    assert digest(run.latest) == digest(without.latest)
    assert [row.message_bytes for row in run.folder.ledger.rows] == [
        row.message_bytes for row in without.folder.ledger.rows
    ]
    found = summary(run)
    assert found["final_validation"] == {m: v for r, _, m, v in metrics if r == 2}
    assert found["best"]["selected_on"] == found["target"]["selected_on"] == "validation"
    assert summary(without)["best"]["selected_on"] == "test"
    printed = capsys.readouterr().out
    assert "on test, which selected it" in printed
    value = score("anls", found["best"]["value"])
    assert f"{value} on validation, which selected it; ANLS" in printed


@pytest.mark.parametrize(("value", "server_round"), [(0.0, 0), (2.0, None), ("null", None)])
def test_the_target_counts_bytes_until_it_was_met(tmp_path: Path, value, server_round) -> None:
    run = start(tmp_path / "run", f"target.value={value}")
    found = summary(run)["target"]
    assert found["round"] == server_round
    assert (found["bytes"] is None) == (server_round is None)


def test_the_target_includes_set_up_and_both_directions(tmp_path: Path) -> None:
    run = start(tmp_path / "run", "target.value=0.5")
    folder = run.folder
    folder.metrics = [(0, "test", "anls", 0.1), (1, "test", "anls", 0.6)]
    rows = [r for r in folder.ledger.rows if r.round <= 1]
    assert {r.kind for r in rows} == {"setup", "train"}
    assert target(folder.cfg, folder.ledger, folder.metrics)["bytes"] == sum(
        r.message_bytes for r in rows
    )


def test_the_totals_have_the_set_up_in_them(tmp_path: Path) -> None:
    forget_session()
    words = "adapter=lora_sb adapter.r=4 strategy=fed_sb clients_per_round=2 codec=fp32"
    run = start(tmp_path / "run", words)
    rows, found = run.folder.ledger.rows, summary(run)
    assert found["bytes"]["total"] == sum(r.message_bytes for r in rows)
    assert found["bytes"]["setup"] > found["bytes"]["message_down"]
    assert found["log"]["bytes"] == sum(r.payload_bytes for r in rows)
    logged = communication_log(run.folder.path, "sent")
    assert sum(row["amount_of_bytes"] for row in logged) == found["log"]["bytes"]


def test_the_last_checkpoint_is_the_model(finished: Experiment) -> None:
    (checkpoint,) = (finished.folder.path / "checkpoints").iterdir()
    kept = load_file(checkpoint)
    ordered = {name: kept[name] for name in finished.session.theta0}
    assert digest(ordered) == digest(finished.latest)


def test_a_run_is_its_owners_alone(tmp_path: Path) -> None:
    """Also where the umask would let others read: it shuts the folder, and whole files."""
    before = os.umask(0o022)
    try:
        finished_run = finished_runs.finished(tmp_path / "run")
        checkpoint.save(finished_run / "checkpoints", 1, {"x": np.zeros(2, np.float32)}, {})
    finally:
        os.umask(before)
    assert modes.of(finished_run) == 0o700
    for name in ("summary.json", "checkpoints/round-0001.safetensors"):
        assert modes.of(finished_run / name) == 0o600


def test_metrics_have_the_documented_columns(finished: Experiment) -> None:
    with (finished.folder.path / "metrics.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["round", "split", "metric", "value"]


def test_the_config_file_composes_the_same_run(finished: Experiment) -> None:
    text = (finished.folder.path / "config.yaml").read_text()
    assert "experiment: custom" in text
    assert "${" not in text


def test_a_name_is_used_once(tmp_path: Path) -> None:
    cfg = compose(f"output.dir={tmp_path} output.name=taken")
    RunFolder(cfg)
    with pytest.raises(FileExistsError, match=r"output\.name"):
        RunFolder(cfg)


def test_runs_without_a_name_never_collide(tmp_path: Path) -> None:
    cfg = compose(f"output.dir={tmp_path}")
    assert len({RunFolder(cfg).path for _ in range(3)}) == 3


def test_a_failed_run_keeps_what_it_has_and_says_so(tmp_path: Path) -> None:
    rounds = iter(range(99))

    def second_time(reply):
        return reply if next(rounds) == 0 else None

    with pytest.raises(RuntimeError, match="every client"):
        start(
            tmp_path / "run",
            "rounds=3 federation.reply_timeout=1",
            dict.fromkeys(range(3), second_time),
        )
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (found["status"], found["rounds"]) == ("failed", 1)
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "run" / "checkpoints" / "round-0001.safetensors").is_file()


def test_a_privacy_that_cannot_be_ends_the_run_before_a_round(tmp_path: Path) -> None:
    forget_session()
    with pytest.raises(ValueError, match=r"privacy\.delta=0\.5 should be below 1/"):
        start(tmp_path / "run", "privacy=dp_sgd privacy.delta=0.5")
    found = json.loads((tmp_path / "run/summary.json").read_text())
    assert (found["status"], found["privacy"]) == ("failed", None)


def test_a_client_whose_rows_allow_no_privacy_is_left_out_alone(tmp_path: Path, caplog) -> None:
    """A node that says that it has a million rows would end the run for all."""
    forget_session()
    words = f"{small.RUN} output.dir={tmp_path} output.name=run"
    overrides = f"{words} privacy=dp_sgd privacy.delta=1e-5"
    run = Experiment(open_session(overrides), Loopback(overrides, 3), overrides, setup_seconds=0.0)
    run.strategy.clients.find(run.grid)
    run.strategy.clients.rows[1] = 10**6
    run._check_privacy()
    assert sorted(run.strategy.clients.nodes) == sorted(run.strategy.clients.rows) == [0, 2]
    assert "left out: client 1: privacy.delta=1e-05 should be below 1/1000000" in caplog.text


@pytest.mark.parametrize("noise", ["secret", "seeded"])
def test_what_privacy_was_spent_is_said_wherever_a_run_is_told_of(
    tmp_path: Path, capsys, noise: str
) -> None:
    """And with seeded noise that it protects nobody, in words."""
    forget_session()
    words = (
        "adapter=lora_sb adapter.r=4 adapter.init=random privacy=dp_sgd privacy.epsilon=8 "
        f"privacy.noise={noise}"
    )
    run = start(tmp_path / "run", words)
    spent = summary(run)["privacy"]
    assert 0 < spent["epsilon"] <= 8
    assert spent["unit"] == "row"
    sizes = [len(run.session.documents(k)) for k in range(3)]
    assert spent["delta"] < 1 / max(sizes)
    assert spent["rehearsal"] == (noise == "seeded")
    console = capsys.readouterr().out
    files = ("report.html", "adapter/README.md")
    for text in (console, *((tmp_path / "run" / name).read_text() for name in files)):
        assert f"epsilon {spent['epsilon']:.3g}" in text
        assert ("a rehearsal, which protects nobody" in text) == spent["rehearsal"]
    assert ("protects nobody" in "".join(console.splitlines()[:3])) == spent["rehearsal"]


def test_a_run_ends_once(tmp_path: Path) -> None:
    def stop(reply):
        run.finish("interrupted")  # as Flower's exit handler does, in the middle of a round
        return reply

    overrides = f"{small.RUN} output.dir={tmp_path} output.name=run rounds=3"
    grid = Loopback(overrides, 3, dict.fromkeys(range(3), stop))
    run = Experiment(open_session(overrides), grid, overrides, setup_seconds=0.5)
    with pytest.raises(InterruptedError):
        run.start()
    assert (summary(run)["status"], summary(run)["rounds"]) == ("interrupted", 0)
    assert {m[0] for m in run.folder.metrics} == {0}
    assert (tmp_path / "run" / "report.html").is_file()


def test_the_report_is_one_self_contained_page(finished: Experiment) -> None:
    page = (finished.folder.path / "report.html").read_text()
    assert page.count("<script") == 3
    outside = re.findall(r'(?:src|href)\s*=\s*"(?!#|data:)([^"]*)"', page.partition("<script")[0])
    assert not outside
    for text in ("ANLS on docvqa_mini", "accuracy, test", "seed: 0", "flwr 1."):
        assert text in page


def test_report_and_console_agree_and_speak_in_words(finished: Experiment, capsys) -> None:
    page = (finished.folder.path / "report.html").read_text()
    assert f"<b>{size(finished.folder.ledger.sent())}</b>" in page
    assert not re.findall(r"<th[^>]*>\w*_\w*</th>", page)
    console.final(summary(finished), finished.folder.path)
    printed = capsys.readouterr().out
    assert re.search(r"encoding [1-9]\d* ms, decoding [1-9]\d* ms", printed)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (0.0579, "58 ms"), (1.25, "1.2 s"), (170.04, "170.0 s")]
)
def test_a_short_time_is_in_milliseconds(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_report_can_be_made_again_from_the_files(finished: Experiment) -> None:
    before = (finished.folder.path / "report.html").read_bytes()
    report.write(finished.folder.path)
    assert (finished.folder.path / "report.html").read_bytes() == before


def test_a_report_of_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        report.write(tmp_path)
