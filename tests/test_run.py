"""End to end: real `flwr run`, SuperLink, Ray actors and files; every experiment, shrunk."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from peft import PeftModel

from benchmarks.leaderboard import PUBLISHED
from fl_app import models, run, submission
from fl_app.config import compose
from fl_app.data.pfl_docvqa_convert import convert
from fl_app.models.vt5 import VT5ForConditionalGeneration
from fl_app.results import PACKAGES
from tests import pfl_docvqa, small

pytestmark = pytest.mark.e2e

LEDGER = (
    "round,partition,direction,kind,codec,scalars,payload_bytes,frame_bytes,message_bytes,"
    "encode_s,decode_s,competition_bytes"
)


@pytest.fixture(scope="module")
def flower() -> Iterator[dict[str, str]]:
    with run.superlink() as environment:
        yield environment


def overrides(folder: Path, *more: str) -> str:
    return " ".join([small.RUN, f"output.dir={folder.parent}", f"output.name={folder.name}", *more])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


EXPERIMENTS = {
    "nf4_single": ("delta+nf4", 1),
    "thin": ("entropy(delta+uniform)", 1),
    "fedavg_lora": ("fp32", 2),
    "fedavg_nf4": ("delta+nf4", 2),
    "fedavg_full": ("fp32", 2),
    "shampoo_full": ("fp32", 2),
    "shampoo_lora": ("fp32", 2),
}


def test_every_experiment_is_tested() -> None:
    assert {p.stem for p in (run.project_root() / "conf/experiment").glob("*.yaml")} == {
        *EXPERIMENTS, *PUBLISHED,  # the latter in test_leaderboard
    }  # fmt: skip


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_leaves_the_documented_files(flower, tmp_path, experiment, capfd) -> None:
    codec, clients = EXPERIMENTS[experiment]
    folder = tmp_path / experiment
    words = overrides(folder, f"experiment={experiment}", "target.metric=anls target.value=0.0")
    assert run.submit(words, flower) == 0

    assert {p.name for p in folder.iterdir()} == {
        "config.yaml", "ledger.csv", "metrics.csv", "summary.json", "adapter", "checkpoints",
        "report.html",
    }  # fmt: skip
    ledger = read(folder / "ledger.csv")
    assert (folder / "ledger.csv").read_text().splitlines()[0] == LEDGER
    assert {r["codec"] for r in ledger if r["kind"] == "train"} == {codec}
    for number in ("1", "2"):
        rows = [r for r in ledger if r["round"] == number]
        assert [r["direction"] for r in rows] == ["down", "up"] * clients
    for row in ledger:
        payload, message = int(row["payload_bytes"]), int(row["message_bytes"])
        assert message <= payload + 1200

    metrics = read(folder / "metrics.csv")
    assert {(m["round"], m["split"]) for m in metrics} == {
        ("0", "test"), ("1", "test"), ("2", "test"), ("2", "unseen"),
    }  # fmt: skip

    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["experiment"], summary["status"], summary["rounds"]) == (
        experiment, "completed", 2,
    )  # fmt: skip
    for direction in ("up", "down"):
        for size in ("payload", "message"):
            assert summary["bytes"][f"{size}_{direction}"] == sum(
                int(r[f"{size}_bytes"])
                for r in ledger
                if r["direction"] == direction and r["kind"] == "train"
            )
    assert summary["bytes"]["message_down_seed_only"] < summary["bytes"]["message_down"]
    assert {*PACKAGES, "python"} == {*summary["versions"]}
    assert summary["target"]["round"] == 0
    assert {"total", "setup", "train", "encode", "decode", "evaluate"} == {*summary["seconds"]}
    assert summary["seconds"]["train"] > 0

    base, _ = models.load_vt5(compose("").model, 0)
    if experiment.endswith("_full"):
        VT5ForConditionalGeneration.from_pretrained(folder / "adapter")
    else:
        PeftModel.from_pretrained(base, folder / "adapter")

    printed = capfd.readouterr().out
    assert printed.count("ANLS") >= 2
    assert "    2  " in printed


def test_the_winning_entry_on_published_data_up_to_its_submission(flower, tmp_path) -> None:
    pfl_docvqa.write(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "data")
    folder = tmp_path / "run"
    words = (
        f"experiment=nf4_lora {small.VT5} data.path={tmp_path}/data rounds=2 local_epochs=1 "
        f"model.max_answer_length=4 output.dir={tmp_path} output.name=run"
    )
    assert run.submit(words, flower) == 0
    assert {(m["round"], m["split"], m["metric"]) for m in read(folder / "metrics.csv")} == {
        (number, "test", metric) for number in "012" for metric in ("anls", "accuracy")
    }
    assert submission.main([str(folder), "--out", str(tmp_path / "submission")]) == 0
    log = read(tmp_path / "submission/communication_log.csv")
    assert [row["federated_round"] for row in log] == ["1", "1", "2", "2"]
    assert [row["sender"] == "-1" for row in log] == [True, False, True, False]
    summary = json.loads((folder / "summary.json").read_text())
    assert sum(int(row["amount_of_bytes"]) for row in log) == summary["log"]["bytes"]


def untimed(folder: Path) -> list[list[str]]:
    return [list(row.values())[:9] for row in read(folder / "ledger.csv")]


def test_the_same_run_twice_gives_the_same_ledger_and_metrics(flower, tmp_path) -> None:
    words = "experiment=nf4_single adapter.dropout=0.1"
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        assert run.submit(overrides(folder, words), flower) == 0
    assert untimed(first) == untimed(second)
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()
    checkpoint = "checkpoints/round-0002.safetensors"
    assert (first / checkpoint).read_bytes() == (second / checkpoint).read_bytes()


def test_a_run_whose_clients_all_fail_fails_and_keeps_what_it_has(flower, tmp_path, capfd) -> None:
    folder = tmp_path / "diverges"
    words = overrides(
        folder, "optimizer.lr=1e30 optimizer.max_grad_norm=1e30 rounds=2 local_epochs=30"
    )
    assert run.submit(words, flower) == 1
    captured = capfd.readouterr()
    assert "every client of round 1 failed" in captured.out
    assert "optimizer.lr" in captured.out
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert [r["kind"] for r in read(folder / "ledger.csv")].count("train") == 2
    assert {m["round"] for m in read(folder / "metrics.csv")} == {"0"}


def test_missing_weights_are_one_clear_error(flower, tmp_path, capfd) -> None:
    words = overrides(tmp_path / "missing", f"model.path={tmp_path}/nothing model.sha256=null")
    assert run.submit(words, flower) == 1
    assert "model.path" in capfd.readouterr().err.splitlines()[-1]


# ---- the commands themselves -----------------------------------------------------------------


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "fl_app.run", *words]


def test_a_wrong_override_exits_2_before_anything_starts() -> None:
    done = subprocess.run(
        command("strategy=nope"), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert "single_client" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_ctrl_c_keeps_the_rounds_done_and_leaves_no_process(tmp_path) -> None:
    folder = tmp_path / "stopped"
    process = subprocess.Popen(
        command(overrides(folder, "rounds=1000")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    family: set[psutil.Process] = set()
    assert process.stdout is not None
    assert process.stdout.readline().startswith("nf4_single: seed 0")  # nothing of Flower's
    for line in process.stdout:
        if line.startswith("    3  "):
            family = set(psutil.Process(process.pid).children(recursive=True))
            process.send_signal(signal.SIGINT)
            break
    assert len(family) > 4  # SuperLink, simulation, Ray's own
    assert process.stderr is not None
    assert process.stderr.readline().startswith("stopping")
    process.send_signal(signal.SIGTERM)  # changes nothing
    process.stdout.read()
    assert process.wait(timeout=90) == 130
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    rounds = {int(r["round"]) for r in read(folder / "ledger.csv")}
    assert {0, 1, 2, 3} <= rounds
    assert list((folder / "checkpoints").glob("*.safetensors"))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    measured = {int(m["round"]) for m in read(folder / "metrics.csv")}
    assert measured == set(range(summary["rounds"] + 1))
    assert (folder / "report.html").is_file()


def test_flwr_run_works_by_itself(tmp_path) -> None:
    """Two nodes by default, Flower's own local SuperLink, no setting but a home of its own."""
    folder, home = tmp_path / "plain", tmp_path / "home"
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(str(probe.getsockname()[1]))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": ports[0],
        "FLWR_LOCAL_CONTROL_API_PORT": ports[1],
        "FLWR_TELEMETRY_ENABLED": "0",
    }
    words = json.dumps(overrides(folder, "strategy=fedavg codec=fp32 clients_per_round=3"))
    try:
        done = subprocess.run(
            ["flwr", "run", str(run.project_root()), "--stream", "--run-config",
             f"overrides={words}"],
            env=environment, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert (folder / "summary.json").is_file(), done.stdout + done.stderr
        assert json.loads((folder / "summary.json").read_text())["status"] == "completed"
        assert {r["partition"] for r in read(folder / "ledger.csv") if r["kind"] == "train"} == {
            "0", "1", "2",
        }  # fmt: skip
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if str(home) in " ".join(process.info["cmdline"] or []):
                family = [*process.children(recursive=True), process]
                process.terminate()
                _, alive = psutil.wait_procs(family, timeout=10)
                for left in alive:
                    left.kill()
        time.sleep(0.2)
