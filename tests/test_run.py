"""Runs: real `flwr run`, SuperLink, Ray actors and files; every experiment, shrunk."""

import csv
import json
from pathlib import Path

import pytest
from peft import PeftModel
from safetensors.numpy import load_file

from benchmarks.leaderboard import PUBLISHED
from fl_app import models, run, server_app, submission
from fl_app.config import compose
from fl_app.data.pfl_docvqa_convert import convert
from fl_app.models.vt5 import VT5ForConditionalGeneration
from fl_app.results import PACKAGES
from fl_app.session import session
from tests import pfl_docvqa, small
from tests.loopback import Loopback

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]  # of a machine that does more

LEDGER = (
    "round,partition,direction,kind,codec,scalars,payload_bytes,frame_bytes,message_bytes,"
    "encode_s,decode_s,competition_bytes"
)


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
    "fed_sb": ("delta+nf4", 2),
}
# Of the others only the configuration differs, and no process needs to be started for that.
THROUGH_FLOWER = {"nf4_single", "fedavg_full", "fed_sb"}
ELSEWHERE = {
    *("fedit", "ffa_lora", "flora", "fedex_lora", "flex_lora"),  # in test_baselines
    *("fed_sb_bert_snli", "fed_sb_gemma2_9b_math", "fed_sb_llama32_3b_commonsense"),
    "fed_sb_mistral7b_gsm8k",  # these in test_any_model
}


def test_every_experiment_is_tested() -> None:
    assert {p.stem for p in (run.project_root() / "conf/experiment").glob("*.yaml")} == {
        *EXPERIMENTS, *ELSEWHERE, *PUBLISHED,  # the latter in test_leaderboard
    }  # fmt: skip


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_leaves_the_documented_files(request, tmp_path, experiment, capfd) -> None:
    codec, clients = EXPERIMENTS[experiment]
    folder = tmp_path / experiment
    words = overrides(folder, f"experiment={experiment}", "target.metric=anls target.value=0.0")
    if experiment in THROUGH_FLOWER:
        assert run.submit(words, request.getfixturevalue("flower"), wait=False) == 0
    else:
        server_app.Run(session(words), Loopback(words, nodes=3), words, setup_seconds=0.0).start()

    assert {p.name for p in folder.iterdir()} == {
        "config.yaml", "ledger.csv", "metrics.csv", "summary.json", "adapter", "checkpoints",
        "report.html", "tensorboard", "overrides.txt",
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


def test_first_gradients_factors_and_patches_go_through_flower(flower, tmp_path) -> None:
    """Signs up, B, R and A down, then a patch a round: every message of a set-up is a real one."""
    folder = tmp_path / "signs"
    words = overrides(
        folder, "experiment=fed_sb adapter.r=4 adapter.init=client_mean adapter.setup=download"
    )
    assert run.submit(words, flower, wait=False) == 0
    setup = [r for r in read(folder / "ledger.csv") if r["kind"] == "setup" and int(r["scalars"])]
    assert [r["partition"] for r in setup if r["codec"] == "sign"] == ["0", "1", "2"]
    trained = {r["partition"] for r in read(folder / "ledger.csv") if r["kind"] == "train"}
    assert {r["partition"] for r in setup if r["codec"] == "delta+nf4"} == trained
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["bytes"]["setup"] > sum(int(r["payload_bytes"]) for r in setup) > 0

    folder = tmp_path / "stack"
    words = "strategy=flora codec=nf4 clients_per_round=2 adapter.r=4"
    assert run.submit(overrides(folder, words), flower, wait=False) == 0
    scalars = {
        int(r["scalars"])
        for r in read(folder / "ledger.csv")
        if (r["round"], r["direction"], r["kind"]) == ("2", "down", "train")
    }
    assert {2 * min(scalars)} == scalars - {min(scalars)}  # the factors of two clients


def test_the_winning_entry_on_published_data_up_to_its_submission(flower, tmp_path) -> None:
    pfl_docvqa.write(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "data")
    folder = tmp_path / "run"
    words = (
        f"experiment=nf4_lora {small.VT5} data.path={tmp_path}/data rounds=2 local_epochs=1 "
        f"model.max_answer_length=4 output.dir={tmp_path} output.name=run"
    )
    assert run.submit(words, flower, wait=False) == 0
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
        assert run.submit(overrides(folder, words), flower, wait=False) == 0
    assert untimed(first) == untimed(second)
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()
    one, other = (load_file(f / "checkpoints/round-0002.safetensors") for f in (first, second))
    assert {name: x.tobytes() for name, x in one.items()} == {
        name: x.tobytes() for name, x in other.items()
    }


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
