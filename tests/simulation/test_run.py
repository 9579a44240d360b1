"""Runs: real `flwr run`, SuperLink, Ray actors and files; every experiment, shrunk."""

import csv
import io
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest
from peft import PeftModel
from safetensors.numpy import load_file

from benchmarks.leaderboard import PUBLISHED
from fl_app import models, run
from fl_app.config import ConfigError, compose
from fl_app.data.pfl_docvqa_convert import convert
from fl_app.files import project_root
from fl_app.models.vt5 import VT5ForConditionalGeneration
from fl_app.runs import submission
from fl_app.runs.summary import PACKAGES
from fl_app.server.round import RoundFailedError
from fl_app.simulation import ray_workers, superlink
from fl_app.simulation.superlink import APP
from fl_app.wire.envelope import LARGE
from tests import foreign_app, pfl_docvqa, small
from tests.disturbed import in_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]  # of a machine that does more

LEDGER = (
    "round,partition,direction,kind,codec,scalars,payload_bytes,frame_bytes,message_bytes,"
    "encode_s,decode_s,competition_bytes,outcome,reason,received_bytes"
)


TARGET = "target.metric=anls target.value=0.0"


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
    "flasc": ("entropy(nonzero(fp32)) change:entropy(nonzero(fp32))", 2),
    "fedzip": ("fp32 delta+fedzip", 2),
    "lq_lora": ("fp32", 2),
    **dict.fromkeys(("ia3", "lokr", "vera"), ("delta+nf4", 1)),
}
# One goes through Flower's processes, with a set-up. Of the others only the configuration differs.
THROUGH_FLOWER = "fed_sb"
MORE_THROUGH_FLOWER = ("nf4_single", "fedavg_full")
ELSEWHERE = {
    *("fedit", "ffa_lora", "flora", "fedex_lora", "flex_lora"),  # in test_baselines
    *("dgc", "fl_tac", "onebit_adam", "safari", "rate_control"),  # in tests/strategies
    "ligo",  # in tests/adapters
    "quecc",  # in tests/models
    "thinnest",  # in test_quantization_aware
    "forgetting",  # in tests/tasks
    *("fed_sb_bert_snli", "fed_sb_gemma2_9b_math", "fed_sb_llama32_3b_commonsense"),
    "fed_sb_mistral7b_gsm8k",  # these in test_any_model
    *("scallion", "scafcom", "aquila"),  # each in the file of its name in tests/strategies
    *("fedep", "fedkseed", "feedsign", "rm_lora", "sfprompt", "sign_mask"),  # so are these
}


def test_every_experiment_is_tested() -> None:
    assert {p.stem for p in (project_root() / "conf/experiment").glob("*.yaml")} == {
        *EXPERIMENTS, *ELSEWHERE, *PUBLISHED,  # the latter in test_leaderboard
    }  # fmt: skip


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_leaves_the_documented_files(request, tmp_path, experiment, capfd) -> None:
    if experiment == THROUGH_FLOWER:
        watched = request.getfixturevalue("watched")
        check_files(watched.folder, experiment, watched.printed)
        return
    folder = tmp_path / experiment
    in_process(overrides(folder, f"experiment={experiment}", TARGET))
    check_files(folder, experiment, capfd.readouterr().out)


@pytest.mark.methods
@pytest.mark.parametrize("experiment", MORE_THROUGH_FLOWER)
def test_it_leaves_them_through_flower(flower, tmp_path, experiment, capfd) -> None:
    folder = tmp_path / experiment
    words = overrides(folder, f"experiment={experiment}", TARGET)
    assert run.submit(words, flower, wait=False) == 0
    check_files(folder, experiment, capfd.readouterr().out)


@pytest.mark.methods
def test_rounds_of_several_exchanges_are_those_of_one_process(flower, tmp_path) -> None:
    """What a client keeps between the exchanges of a round goes through Flower."""
    split = (
        "experiment=sfprompt rounds=2 federation.clients=2 data.providers_per_client=1 "
        "data.problems_per_provider=8 data.test_problems=2 data.validation_problems=0 "
        "data.unseen_providers=1 data.unseen_problems_per_provider=1 model.max_answer_length=8 "
        f"batch_size=2 logger=none output.dir={tmp_path}"
    )
    assert run.submit(f"{split} output.name=flower", flower, wait=False) == 0
    in_process(f"{split} output.name=one")
    first, second = tmp_path / "flower", tmp_path / "one"
    assert untimed(first) == untimed(second)
    assert [row["kind"] for row in read(first / "ledger.csv")].count("split") == 2 * 2 * 2 * 2 * 2
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()


def check_files(folder: Path, experiment: str, printed: str) -> None:
    """Look at what a run of two rounds has left and printed."""
    codec, clients = EXPERIMENTS[experiment]
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml", "ledger.csv", "metrics.csv", "summary.json", "adapter", "checkpoints",
        "report.html", "tensorboard", "overrides.txt", "answers.json",
    }  # fmt: skip
    ledger = read(folder / "ledger.csv")
    assert (folder / "ledger.csv").read_text().splitlines()[0] == LEDGER
    # Of the first download each client needs none: the change since theta0 is zero.
    first = [r for r in ledger if (r["round"], r["direction"], r["kind"]) == ("1", "down", "train")]
    assert {r["codec"] for r in ledger if r["kind"] == "train" and r not in first} == {
        *codec.split()  # down and up, where they differ
    }
    assert all(r["codec"] == "none" and int(r["message_bytes"]) <= 170 for r in first)
    for number in ("1", "2"):
        rows = [r for r in ledger if r["round"] == number and r["kind"] != "setup"]
        assert [r["direction"] for r in rows] == ["down", "up"] * clients
    for row in ledger:
        payload, message = int(row["payload_bytes"]), int(row["message_bytes"])
        id_of_question = 68 if row["direction"] == "up" else 0
        if row["kind"] == "train" and int(row["frame_bytes"]) < LARGE:
            assert message - int(row["frame_bytes"]) - id_of_question <= 345
            assert message - id_of_question <= 1.01 * payload + 400
        assert message <= payload + 1200
    question, answer = ledger[:2]  # which clients a node serves
    assert {question["kind"], answer["kind"]} == {"setup"}
    assert int(question["message_bytes"]) + int(answer["message_bytes"]) <= 490

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
    assert summary["bytes"]["message_down_seed_only"] <= summary["bytes"]["message_down"]
    assert {*PACKAGES, "python"} == {*summary["versions"]}
    assert summary["target"]["round"] == 0
    assert {"total", "setup", "train", "encode", "decode", "evaluate"} == {*summary["seconds"]}
    assert summary["seconds"]["train"] > 0

    base, _ = models.load_vt5(compose("").model, 0)
    if experiment.endswith("_full"):
        VT5ForConditionalGeneration.from_pretrained(folder / "adapter")
    else:
        PeftModel.from_pretrained(base, folder / "adapter")

    assert printed.count("ANLS") >= 2
    assert "    2  " in printed


def test_first_gradients_and_factors_go_through_flower(watched) -> None:
    """Signs up, then B, R and A down: every message of a set-up is a real one."""
    ledger = read(watched.folder / "ledger.csv")
    setup = [r for r in ledger if r["kind"] == "setup" and int(r["scalars"])]
    assert [r["partition"] for r in setup if r["codec"] == "sign"] == ["0", "1", "2"]
    trained = {r["partition"] for r in ledger if r["kind"] == "train"}
    assert {r["partition"] for r in setup if r["codec"] == "delta+nf4"} == trained
    summary = json.loads((watched.folder / "summary.json").read_text())
    assert summary["bytes"]["setup"] > sum(int(r["payload_bytes"]) for r in setup) > 0


@pytest.mark.methods
def test_patches_go_through_flower(flower, tmp_path) -> None:
    folder = tmp_path / "stack"
    words = "strategy=flora codec=nf4 clients_per_round=2 adapter.r=4"
    assert run.submit(overrides(folder, words), flower, wait=False) == 0
    scalars = {
        int(r["scalars"])
        for r in read(folder / "ledger.csv")
        if (r["round"], r["direction"], r["kind"]) == ("2", "down", "train")
    }
    assert {2 * min(scalars)} == scalars - {min(scalars)}  # the factors of two clients


def test_the_winning_entry_on_published_data_up_to_its_submission(tmp_path) -> None:
    pfl_docvqa.write(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "data")
    folder = tmp_path / "run"
    words = (
        f"experiment=nf4_lora {small.VT5} data.path={tmp_path}/data rounds=2 local_epochs=1 "
        f"model.max_answer_length=4 output.dir={tmp_path} output.name=run"
    )
    in_process(words)
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


def test_the_same_run_in_one_process_gives_the_same_ledger_and_metrics(watched, tmp_path) -> None:
    first, second = watched.folder, tmp_path / "second"
    in_process(overrides(second, WATCHED))
    assert untimed(first) == untimed(second)
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()
    one, other = (load_file(f / "checkpoints/round-0002.safetensors") for f in (first, second))
    assert {name: x.tobytes() for name, x in one.items()} == {
        name: x.tobytes() for name, x in other.items()
    }


def test_a_run_whose_clients_all_fail_fails_and_keeps_what_it_has(tmp_path) -> None:
    """In one process: through Flower, a job of ``test_sweep_commands`` does the same."""
    folder = tmp_path / "diverges"
    words = overrides(
        folder, "optimizer.lr=1e30 optimizer.max_grad_norm=1e30 rounds=2 local_epochs=30"
    )
    with pytest.raises(
        RoundFailedError, match=r"every client of round 1 failed(.|\n)*optimizer.lr"
    ):
        in_process(words)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert [r["kind"] for r in read(folder / "ledger.csv")].count("train") == 2
    assert {m["round"] for m in read(folder / "metrics.csv")} == {"0"}


def test_missing_weights_are_one_clear_error(tmp_path) -> None:
    """In one process: through Flower, ``test_killed`` has a run that fails."""
    words = overrides(tmp_path / "missing", f"model.path={tmp_path}/nothing model.sha256=null")
    with pytest.raises(ConfigError, match=r"model\.path") as caught:
        in_process(words)
    assert len(str(caught.value).splitlines()) == 1


def test_a_simulation_runs_no_code_that_a_bundle_brings(flower, tmp_path, capfd) -> None:
    environment = {**flower, APP: str(foreign_app.write(tmp_path))}
    assert run.submit(overrides(tmp_path / "run"), environment) == 1
    assert "runs bring no code" in capfd.readouterr().err
    assert foreign_app.ran(tmp_path) == set()
    assert not (Path(flower["FLWR_HOME"]) / "apps").exists()


def _listening(family: list[psutil.Process]) -> dict[str, set[tuple[str, int]]]:
    """Return on which addresses and ports the processes listen, by the start of their names."""
    found: dict[str, set[tuple[str, int]]] = {}
    for process in family:
        with suppress(psutil.NoSuchProcess):
            words = process.cmdline() or [process.name()]
            known = (*PROCESSES, WORKERS)
            name = next((n for n in known if n in " ".join(words[:3])), process.name())
            for one in process.net_connections("inet"):
                if one.status == psutil.CONN_LISTEN:
                    found.setdefault(name, set()).add(one.laddr)
    return found


PROCESSES = ("private_superlink", "gcs_server", "raylet", "ClientAppActor", "RuntimeEnvAgent")
WORKERS = "ray::IDLE"  # which wait for the next run


@dataclass
class Watched:
    """A run through Flower, and its processes while it ran."""

    folder: Path
    printed: str
    listening: dict[str, set[tuple[str, int]]]
    said: set[str]  # all words of the command lines


WATCHED = (
    f"experiment={THROUGH_FLOWER} adapter.r=4 adapter.init=client_mean adapter.setup=download "
    f"{TARGET}"
)


@pytest.fixture(scope="module")
def watched(flower, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """Do a run, and look every now and then where its processes listen."""
    folder = tmp_path_factory.mktemp("watched") / "run"
    printed, seen = io.StringIO(), Watched(folder, "", {}, set())
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            run.submit, overrides(folder, WATCHED), flower, out=printed, wait=False
        )
        while not running.done():
            family = psutil.Process().children(recursive=True)
            for name, addresses in _listening(family).items():
                seen.listening.setdefault(name, set()).update(addresses)
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    seen.said.update(process.cmdline())
            time.sleep(1)
    assert running.result() == 0, printed.getvalue()
    seen.printed = printed.getvalue()
    return seen


def test_another_user_can_neither_reach_a_simulation_nor_read_it(
    watched, flower, monkeypatch
) -> None:
    """It listens on loopback alone, and who connects has to be its user, or know the token."""
    home = Path(flower["FLWR_HOME"])
    listening, said = watched.listening, watched.said
    assert {*PROCESSES} <= {*listening}
    assert {ip.removeprefix("::ffff:") for all_ in listening.values() for ip, _ in all_} == {
        "127.0.0.1"
    }
    token = (home / superlink.RAY_TOKEN).read_text()
    assert not [word for word in said if token in word]

    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", flower["RAY_AUTH_TOKEN_PATH"])
    if WORKERS not in _listening(psutil.Process().children(recursive=True)):
        for _, port in listening["raylet"]:  # one is for orders, one for objects
            with suppress(grpc.RpcError):
                ray_workers.prestart_workers(f"127.0.0.1:{port}", 1)
    deadline = time.monotonic() + 120
    while WORKERS not in (now := _listening(psutil.Process().children(recursive=True))):
        assert time.monotonic() < deadline, now
        time.sleep(0.5)
    (superlink_port,), (gcs,), (agent,) = (
        [port for _, port in now.pop(name)]
        for name in ("private_superlink", "gcs_server", "RuntimeEnvAgent")
    )
    may_end = {port for name in (WORKERS, "ClientAppActor") for _, port in now.get(name, ())}
    others = [port for addresses in now.values() for _, port in addresses]
    assert len(others) >= 4  # of orders and of objects, of the driver, of workers
    ports = {"superlink": superlink_port, "gcs": gcs, "agent": agent, "ray": [gcs, *others]}
    gone: set[str] = set()
    for user, environment in (("-", flower), ("65534", {**os.environ, "RAY_AUTH_MODE": "token"})):
        environment = {k: v for k, v in environment.items() if user == "-" or "RAY" not in k}
        done = subprocess.run(
            [sys.executable, "-m", "tests.other_user", user, str(home), json.dumps(ports)],
            env=environment, cwd=project_root(), capture_output=True, text=True, check=True,
        )  # fmt: skip
        ended = json.loads(done.stdout.splitlines()[-1])
        if user == "-":
            # Ray ends workers, an actor's or idle ones: then nobody listens where they were.
            gone = {attempt for attempt, error in ended.items() if "UNAVAILABLE" in error}
            assert {error for attempt, error in ended.items() if attempt not in gone} == {"did"}
            assert gone <= {f"call Ray at {port}" for port in may_end}
            assert len(others) - len(gone) >= 3  # of orders and of objects, of the driver
            continue
        for attempt, error in ended.items():
            assert error != "did", attempt
            assert "ModuleNotFound" not in error, (attempt, error)
        assert "AuthenticationError" in ended["attach to Ray"]
        for attempt in {f"call Ray at {port}" for port in ports["ray"]} - gone:
            assert "{'UNAUTHENTICATED'}" in ended[attempt]
    assert "a connection of user 65534 was closed" in (home / "superlink.log").read_text()
