"""Faults of a deployment, with its real processes: what the user sees, what is kept, the status.

One SuperLink and three SuperNodes serve all tests, in their order. ``node-2`` is hostile where a
test has it so, see ``tests/hostile``.
"""

import csv
import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from deploy.deployment import Deployment, deployment
from fl_app.build import open_session
from fl_app.files import atomic_file
from fl_app.server_app import Experiment
from fl_app.simulation.superlink import CONNECTION, script
from tests import small
from tests.loopback import Loopback
from tests.outcome import result

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

REFUSED = "Failed to activate SuperNode"
PATIENCE = 240  # seconds; what is waited for takes a few on a quiet machine
HOSTILE = Path(__file__).parents[1] / "hostile"
WORDS = (
    f"{small.DATA} strategy=fedavg codec=fp32 clients_per_round=3 local_epochs=1 logger=none "
    "federation.node_timeout=60"
)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the hostile node does, by round."""
    path = tmp_path_factory.mktemp("hostile") / "plan.json"
    put(path, {})
    return path


def put(plan: Path, what: dict[str, object]) -> None:
    atomic_file(plan, json.dumps(what).encode())  # the node may be reading


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, plan: Path) -> Iterator[Deployment]:
    with deployment(tmp_path_factory.mktemp("deployment"), nodes=0, database=True) as started:
        for k in range(3):
            started.register(f"node-{k}")
            start(started, k, plan)
        started.wait_for_nodes()
        yield started


def start(here: Deployment, k: int, plan: Path) -> None:
    hostile = {"PYTHONPATH": str(HOSTILE), "HOSTILE": str(plan), "HUGE": str(10**9)}
    here.start_node(f"node-{k}", k, 3, environment=hostile if k == 2 else None)


def start_again(here: Deployment, k: int, plan: Path) -> float:
    """Start a node that was killed; return after how many seconds Flower lets it in."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        start(here, k, plan)
        try:
            here.wait_for_nodes(f"node-{k}")
        except TimeoutError as error:  # to the SuperLink it is still online
            if REFUSED not in str(error):
                raise
        else:
            return time.monotonic() - began
    raise TimeoutError(here.nodes[f"node-{k}"].text())


def until(there: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing came of it in {seconds:.0f} s")
        time.sleep(0.1)


def scored(folder: Path, number: int) -> Callable[[], bool]:
    """Tell whether a round is over, by the checkpoint."""
    kept = folder / "checkpoints"
    return lambda: any(int(path.stem[6:]) >= number for path in kept.glob("round-*.safetensors"))


def rows(folder: Path, **equal: object) -> list[dict[str, str]]:
    with (folder / "ledger.csv").open(newline="") as file:
        return [
            row
            for row in csv.DictReader(file)
            if all(row[name] == str(value) for name, value in equal.items())
        ]


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def ended(here: Deployment, run: int) -> str:
    """Return status, its details and the whole log of a run, once it has ended."""
    status, logs = here.wait(run, PATIENCE), [""]

    def complete() -> bool:  # Flower's log is a little behind
        logs.append(here.log(run))
        return "\nreport " in logs[-1]

    with suppress(TimeoutError):
        until(complete, seconds=30)
    return f"{status}: {here.entry(run)['status-details']}\n{logs[-1]}"


def test_what_a_hostile_node_sends_costs_its_own_reply_alone(
    here: Deployment, plan: Path, tmp_path: Path
) -> None:
    attacks = ("garbage", "damaged", "theta0", "nan", "weight", "loss", "empty", "huge")
    put(plan, {str(number): attack for number, attack in enumerate(attacks, 1)})
    peak, over = {}, threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            for process in here.superlink.family():
                try:
                    peak[process.pid] = max(peak.get(process.pid, 0), process.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue

    threading.Thread(target=watch, daemon=True).start()
    folder = tmp_path / "run"
    run = here.submit(
        f"{WORDS} rounds={len(attacks)} output.dir={tmp_path} output.name=run "
        "federation.min_replies=2 federation.max_failures=0.34"
    )
    log = ended(here, run)
    over.set()
    put(plan, {})
    assert log.startswith("finished:completed"), log
    for number, reason in enumerate(
        (
            "not a Thinwire frame: it does not start with 'TWIR'",
            "damaged: the CRC-32 does not match",
            "theta0 or the trained tensors differ (manifest 0000000000000000",
            "the values hold NaN or Inf",
            "num-examples=1000000000000000 should be a whole number in 1..",
            "loss=nan should be a number in",
            "the reply has metrics [], expected",
            "the reply has more than the",
        ),
        1,
    ):
        (line,) = [x for x in log.splitlines() if x.startswith(f"round {number}, left out")]
        assert line.startswith(f"round {number}, left out: client 2: ")
        assert reason in line
        sent = rows(folder, round=number, direction="up", kind="train")
        assert [row["partition"] for row in sent] == ["0", "1", "2"]
        assert all(int(row["message_bytes"]) > 0 for row in sent)
        assert [int(row["payload_bytes"]) > 0 for row in sent[:2]] == [True, True]
    assert summary(folder)["rounds"] == len(attacks)
    print(f"the server's peak: {max(peak.values()):,} bytes")
    assert max(peak.values()) < 2**30  # the frame of 1 GB was never in memory


def test_one_node_cannot_take_every_client(here: Deployment, plan: Path, tmp_path: Path) -> None:
    put(plan, {"serves": {"partition-id": 0, "num-partitions": 1}})
    run = here.submit(
        f"{WORDS} rounds=1 output.dir={tmp_path} output.name=run clients_per_round=2 "
        "federation.node_timeout=30"
    )
    log = ended(here, run)
    put(plan, {})
    assert f"node {here.node_ids['node-2']} is left out" in log
    assert "partition-id=0 of 1 is a claim to 3 clients, it may have 1" in log
    assert "clients without a node: [2]" in log
    assert log.startswith("finished:completed"), log
    assert {row["partition"] for row in rows(tmp_path / "run", kind="train")} == {"0", "1"}


def test_a_late_reply_is_dropped_and_counted_and_a_dead_node_costs_no_round(
    here: Deployment, plan: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run = here.submit(
        f"{WORDS} rounds=6 output.dir={tmp_path} output.name=run federation.reply_timeout=25 "
    )
    until(scored(folder, 1))
    stopped = here.nodes["node-1"].family()
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    until(scored(folder, 2))
    for process in stopped:
        process.send_signal(signal.SIGCONT)
    until(scored(folder, 3))
    here.nodes["node-0"].kill()
    killed = time.monotonic()
    until(scored(folder, 4))
    noticed = time.monotonic() - killed
    log = ended(here, run)
    assert log.startswith("finished:completed"), log
    assert "round 2, left out: client 1: it did not reply in time" in log
    assert "round 2: the reply of client 1 came after the deadline and is dropped" in log
    late = rows(folder, round=2, partition=1, direction="up", kind="train")
    assert [int(row["payload_bytes"]) for row in late] == [0]
    assert int(late[0]["message_bytes"]) > 100_000
    assert "left out: client 0: " in log
    assert noticed < 25 + 60
    assert "did not reply in time" in log.partition("round 4, left out: client 0: ")[2]
    assert "round 6, left out: client 0: Error: Node Unavailable" in log
    start_again(here, 0, plan)


def test_too_few_replies_end_a_run_that_is_resumed_when_nodes_are_back(
    here: Deployment, plan: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    codec = (
        f"{WORDS} codec=sign rounds=3 output.dir={tmp_path}"  # it remembers, on the nodes' disks
    )
    words = f"{codec} output.name=run"
    run = here.submit(f"{words} federation.reply_timeout=20 federation.max_failures=0.5")
    until(scored(folder, 1))
    for k in range(3):
        here.nodes[f"node-{k}"].kill()
    log = ended(here, run)
    assert log.startswith("finished:failed"), log
    assert "every client of round 2 failed:" in log
    assert f"resume={folder}" in log
    assert 'File "' not in log
    assert summary(folder)["status"] == "failed"
    none = here.submit(f"{WORDS} output.dir={tmp_path} output.name=none federation.node_timeout=3")
    log = ended(here, none)
    assert log.startswith("finished:failed"), log
    assert "no node answered within 3 s: start SuperNodes, or raise federation.node_timeout" in log
    for k in range(3):  # with new keys: Flower lets the old ones in again when it misses them
        here.unregister(f"node-{k}")
        key = here.key(f"node-{k}")
        key.unlink()
        key.with_suffix(".pub").unlink()
        here.register(f"node-{k}")
        start(here, k, plan)
    here.wait_for_nodes()
    log = ended(here, here.submit(f"{words} resume={folder}"))
    assert log.startswith("finished:completed"), log
    assert summary(folder)["resumed"] == [1]
    undisturbed = f"{codec} output.name=undisturbed"
    Experiment(
        open_session(undisturbed), Loopback(undisturbed, 3), undisturbed, setup_seconds=0.0
    ).start()
    assert result(folder) == result(tmp_path / "undisturbed")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_keeps_the_last_round_and_the_run_goes_on_after_making_room(
    here: Deployment, small_disk: Path
) -> None:
    folder = small_disk / "run"
    words = f"{WORDS} rounds=3 output.dir={small_disk} output.name=run"
    run = here.submit(words)
    until(scored(folder, 1))
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    log = ended(here, run)
    assert log.startswith("finished:failed"), log
    assert "No space left on device" in log
    kept = [path.name for path in (folder / "checkpoints").glob("round-*.safetensors")]
    assert len(kept) == 1
    assert 'File "' not in log
    filler.unlink()
    log = ended(here, here.submit(f"{words} resume={folder}"))
    assert log.startswith("finished:completed"), log
    assert summary(folder)["status"] == "completed"
    assert [len(rows(folder, round=n, kind="train")) for n in (1, 2, 3)] == [6, 6, 6]


def test_a_superlink_that_was_killed_knows_its_nodes_and_the_run_is_resumed(
    here: Deployment, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = f"{WORDS} rounds=3 output.dir={tmp_path} output.name=run"
    run = here.submit(words)
    until(scored(folder, 1))
    here.superlink.kill()
    here.start_superlink()
    assert all(node.poll() is None for node in here.nodes.values())
    log = ended(here, here.submit(f"{words} resume={folder}"))
    until(lambda: here.status(run) == "finished:failed")  # once Flower has missed its heartbeat
    assert here.entry(run)["status-details"] == "No heartbeat received from the task"
    assert log.startswith("finished:completed"), log
    assert summary(folder)["resumed"] == [1]
    assert [len(rows(folder, round=n, kind="train")) for n in (1, 2, 3)] == [6, 6, 6]


def test_unknown_and_revoked_keys_and_plain_text_are_refused(
    here: Deployment, tmp_path: Path
) -> None:
    here.key("stranger")
    node = here.start_node("stranger", 0, 3)
    with pytest.raises(TimeoutError, match=REFUSED):
        here.wait_for_nodes("stranger")
    assert node.poll() == 1
    here.register("revoked")
    here.unregister("revoked")
    here.start_node("revoked", 0, 3)
    with pytest.raises(TimeoutError, match=REFUSED):
        here.wait_for_nodes("revoked")
    plain = here.start_node("plain", 0, 3, tls=False)
    plain.wait_for("Connection attempt failed", PATIENCE)
    assert "SuperNode ID:" not in plain.text()
    plain.kill()
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f'address = "{here.address}"\ninsecure = true\n'
    )
    listed = subprocess.run(
        [script("flwr"), "list", CONNECTION], env={**here.cli, "FLWR_HOME": str(home)},
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert listed.returncode != 0
    assert "Connection to the SuperLink is unavailable" in listed.stdout + listed.stderr
