"""Faults of a deployment, with its real processes: what the user sees, what is kept, the status.

One SuperLink and three SuperNodes serve all tests, in their order. ``node-1`` and ``node-2`` are
hostile where a test has it so, see ``tests/hostile``.
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
HUGE = 500_000_000  # bytes
HOSTILE = Path(__file__).parents[1] / "hostile"
WORDS = (
    f"{small.DATA} strategy=fedavg codec=fp32 clients_per_round=3 local_epochs=1 logger=none "
    "federation.node_timeout=60"
)


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """What the hostile nodes do, by round."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = {k: folder / f"plan-{k}.json" for k in (1, 2)}
    for path in paths.values():
        put(path, {})
    return paths


def put(plan: Path, what: dict[str, object]) -> None:
    atomic_file(plan, json.dumps(what).encode())  # the node may be reading


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, plans: dict[int, Path]) -> Iterator[Deployment]:
    with deployment(tmp_path_factory.mktemp("deployment"), nodes=0, database=True) as started:
        for k in range(3):
            started.register(f"node-{k}")
            start(started, k, plans)
        started.wait_for_nodes()
        yield started


def start(here: Deployment, k: int, plans: dict[int, Path]) -> None:
    environment = None
    if k in plans:
        environment = {"PYTHONPATH": str(HOSTILE), "HOSTILE": str(plans[k]), "HUGE": str(HUGE)}
    here.start_node(f"node-{k}", k, 3, environment=environment)


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
    status, logs = here.wait(run, PATIENCE), [here.log(run)]

    def complete() -> bool:  # Flower's log is a little behind
        if "\nreport " not in logs[-1]:
            logs.append(here.log(run))
        return "\nreport " in logs[-1]

    with suppress(TimeoutError):
        until(complete, seconds=5)
    return f"{status}: {here.entry(run)['status-details']}\n{logs[-1]}"


ATTACKS = {  # by round, of node-1 and of node-2: what it sends, and what the server says of that
    1: {
        "garbage": "not a Thinwire frame: it does not start with 'TWIR'",
        "damaged": "damaged: the CRC-32 does not match",
    },
    2: {
        "theta0": "theta0 or the trained tensors differ (manifest 0000000000000000",
        "nan": "the values hold NaN or Inf",
    },
    3: {
        "weight": "num-examples=1000000000000000 should be a whole number in 1..",
        "loss": "loss=nan should be a number in",
    },
    4: {
        "empty": "the reply has metrics [], expected",
        "huge": "the reply has more than the",
    },
}


def test_what_a_hostile_node_sends_costs_its_own_reply_alone(
    here: Deployment, plans: dict[int, Path], tmp_path: Path
) -> None:
    for k, plan in enumerate(plans.values()):
        put(plan, {str(number): [*attacks][k] for number, attacks in ATTACKS.items()})
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
        f"{WORDS} rounds={len(ATTACKS)} output.dir={tmp_path} output.name=run "
        "federation.min_replies=1 federation.max_failures=0.67"
    )
    log = ended(here, run)
    over.set()
    for plan in plans.values():
        put(plan, {})
    assert log.startswith("finished:completed"), log
    for number, attacks in ATTACKS.items():
        for k, reason in zip(plans, attacks.values(), strict=True):
            start_of_line = f"round {number}, left out: client {k}: "
            (line,) = [x for x in log.splitlines() if x.startswith(start_of_line)]
            assert reason in line
        assert log.count(f"round {number}, left out") == len(plans)
        sent = rows(folder, round=number, direction="up", kind="train")
        assert [row["partition"] for row in sent] == ["0", "1", "2"]
        assert all(int(row["message_bytes"]) > 0 for row in sent)
        assert int(sent[0]["payload_bytes"]) > 0
    assert summary(folder)["rounds"] == len(ATTACKS)
    print(f"the server's peak: {max(peak.values()):,} bytes")
    assert max(peak.values()) < 2**30  # the huge frame was never in memory


def test_one_node_cannot_take_every_client(
    here: Deployment, plans: dict[int, Path], tmp_path: Path
) -> None:
    put(plans[2], {"serves": {"partition-id": 0, "num-partitions": 1}})
    run = here.submit(
        f"{WORDS} rounds=1 output.dir={tmp_path} output.name=run clients_per_round=2 "
        "federation.node_timeout=10"
    )
    log = ended(here, run)
    put(plans[2], {})
    assert f"node {here.node_ids['node-2']} is left out" in log
    assert "partition-id=0 of 1 is a claim to 3 clients, it may have 1" in log
    assert "clients without a node: [2]" in log
    assert log.startswith("finished:completed"), log
    assert {row["partition"] for row in rows(tmp_path / "run", kind="train")} == {"0", "1"}


def test_a_run_is_resumed_after_its_superlink_and_then_all_its_nodes_were_killed(
    here: Deployment, plans: dict[int, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    of_two = f"{WORDS} clients_per_round=2 output.dir={tmp_path}"
    codec = f"{of_two} codec=sign rounds=4"  # it remembers, on the nodes' disks
    words = f"{codec} output.name=run"
    killed = here.submit(words)
    until(scored(folder, 1))
    here.superlink.kill()
    here.start_superlink()
    assert all(node.poll() is None for node in here.nodes.values())

    run = here.submit(
        f"{words} resume={folder} federation.reply_timeout=20 federation.max_failures=0.5"
    )
    until(scored(folder, 2))
    for k in range(3):
        here.nodes[f"node-{k}"].kill()
    log = ended(here, run)
    assert log.startswith("finished:failed"), log
    assert "every client of round 3 failed:" in log
    assert f"resume={folder}" in log
    assert 'File "' not in log
    assert summary(folder)["status"] == "failed"
    none = here.submit(f"{of_two} output.name=none federation.node_timeout=3")
    log = ended(here, none)
    assert log.startswith("finished:failed"), log
    assert "no node answered within 3 s: start SuperNodes, or raise federation.node_timeout" in log

    for k in range(3):  # with new keys: Flower lets the old ones in again when it misses them
        here.unregister(f"node-{k}")
        key = here.key(f"node-{k}")
        key.unlink()
        key.with_suffix(".pub").unlink()
        here.register(f"node-{k}")
        start(here, k, plans)
    here.wait_for_nodes()
    log = ended(here, here.submit(f"{words} resume={folder}"))
    assert log.startswith("finished:completed"), log
    assert summary(folder)["resumed"] == [1, 2]
    undisturbed = f"{codec} output.name=undisturbed"
    Experiment(
        open_session(undisturbed), Loopback(undisturbed, 3), undisturbed, setup_seconds=0.0
    ).start()
    assert result(folder) == result(tmp_path / "undisturbed")
    assert here.wait(killed, PATIENCE) == "finished:failed"  # once Flower has missed its heartbeat
    assert here.entry(killed)["status-details"] == "No heartbeat received from the task"


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
    words = f"{WORDS} clients_per_round=2 rounds=2 output.dir={small_disk} output.name=run"
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
    assert [len(rows(folder, round=n, kind="train")) for n in (1, 2)] == [4, 4]


def test_a_late_reply_is_dropped_and_counted_and_a_dead_node_costs_no_round(
    here: Deployment, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run = here.submit(
        f"{WORDS} rounds=6 output.dir={tmp_path} output.name=run federation.reply_timeout=25"
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
    log = ended(here, run)
    assert log.startswith("finished:completed"), log
    assert "round 2, left out: client 1: it did not reply in time" in log
    assert "round 2: the reply of client 1 came after the deadline and is dropped" in log
    late = rows(folder, round=2, partition=1, direction="up", kind="train")
    assert [int(row["payload_bytes"]) for row in late] == [0]
    assert int(late[0]["message_bytes"]) > 100_000
    assert "left out: client 0: " in log
    assert "did not reply in time" in log.partition("round 4, left out: client 0: ")[2]
    assert "round 6, left out: client 0: Error: Node Unavailable" in log
    here.start_node("node-0", 0, 3)  # Flower has missed it, and lets it in again
    here.wait_for_nodes("node-0")


def test_unknown_and_revoked_keys_and_plain_text_are_refused(
    here: Deployment, tmp_path: Path
) -> None:
    here.key("stranger")
    node = here.start_node("stranger", 0, 3)
    with pytest.raises(TimeoutError, match=REFUSED):
        here.wait_for_nodes("stranger")
    assert node.poll() == 1
    node.kill()  # its executor, which would import for some seconds more
    here.register("revoked")
    here.unregister("revoked")
    node = here.start_node("revoked", 0, 3)
    with pytest.raises(TimeoutError, match=REFUSED):
        here.wait_for_nodes("revoked")
    node.kill()
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
