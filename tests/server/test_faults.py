"""Faults of a deployment, with its real processes: what the user sees, what is kept, the status.

One SuperLink and two SuperNodes serve both tests, in their order. ``node-1`` is hostile where a
test has it so, see ``tests/hostile``. What does not need processes is shown in ``test_coded``,
``test_nodes``, ``test_pulling`` and ``runs/test_full_disk``.
"""

import csv
import json
import signal
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
from tests import flower_cli, small
from tests.loopback import Loopback
from tests.outcome import result

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PATIENCE = 240  # seconds; what is waited for takes a few on a quiet machine
HUGE = 200_000_000  # bytes
HOSTILE = Path(__file__).parents[1] / "hostile"
NODES = 2
WORDS = (
    f"{small.DATA} federation.clients={NODES} clients_per_round={NODES} strategy=fedavg "
    "local_epochs=1 logger=none federation.node_timeout=60"
)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``node-1`` does, by round."""
    path = tmp_path_factory.mktemp("hostile") / "plan.json"
    path.write_text("{}")
    return path


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, plan: Path) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("deployment")
    with (
        flower_cli.without_processes(),
        deployment(folder, nodes=0, database=True, environment=flower_cli.PATIENT) as started,
    ):
        start_nodes(started, plan)
        yield started


def start_nodes(here: Deployment, plan: Path) -> None:
    for k in range(NODES):
        here.register(f"node-{k}")
        hostile = {"PYTHONPATH": str(HOSTILE), "HOSTILE": str(plan), "HUGE": str(HUGE)}
        here.start_node(f"node-{k}", k, NODES, environment=hostile if k else None)
    here.wait_for_nodes()


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


def test_a_run_is_resumed_after_its_superlink_and_then_all_its_nodes_were_killed(
    here: Deployment, plan: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    codec = f"{WORDS} codec=sign rounds=3 output.dir={tmp_path}"  # it remembers, on nodes' disks
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
    for node in here.nodes.values():
        node.kill()
    log = ended(here, run)
    assert log.startswith("finished:failed"), log
    assert "every client of round 3 failed:" in log
    assert f"resume={folder}" in log
    assert 'File "' not in log
    assert summary(folder)["status"] == "failed"
    none = here.submit(f"{WORDS} output.dir={tmp_path} output.name=none federation.node_timeout=3")
    log = ended(here, none)
    assert log.startswith("finished:failed"), log
    assert "no node answered within 3 s: start SuperNodes, or raise federation.node_timeout" in log

    for name in here.nodes:  # with new keys: Flower lets the old ones in again when it misses them
        here.unregister(name)
        key = here.key(name)
        key.unlink()
        key.with_suffix(".pub").unlink()
    start_nodes(here, plan)
    log = ended(here, here.submit(f"{words} resume={folder}"))
    assert log.startswith("finished:completed"), log
    assert summary(folder)["resumed"] == [1, 2]
    undisturbed = f"{codec} output.name=undisturbed"
    Experiment(
        open_session(undisturbed), Loopback(undisturbed, NODES), undisturbed, setup_seconds=0.0
    ).start()
    assert result(folder) == result(tmp_path / "undisturbed")
    assert here.wait(killed, PATIENCE) == "finished:failed"  # once Flower has missed its heartbeat
    assert here.entry(killed)["status-details"] == "No heartbeat received from the task"


ATTACKS = {  # by round: what node-1 sends, and what the server says of that
    1: ("nan", "the values hold NaN or Inf"),
    2: ("empty", "the message holds no record '' with its head"),
    3: ("huge", "the reply has more than the"),
}
LATE, BACK, DEAD, MISSED = 4, 5, 6, 8  # rounds


def test_hostile_late_and_missing_replies_cost_no_round(
    here: Deployment, plan: Path, tmp_path: Path
) -> None:
    atomic_file(plan, json.dumps({str(n): attack for n, (attack, _) in ATTACKS.items()}).encode())
    folder, node = tmp_path / "run", here.nodes["node-1"]
    with Peaks(here) as peaks:
        run = here.submit(
            f"{WORDS} codec=fp32 rounds={MISSED} output.dir={tmp_path} output.name=run "
            "federation.reply_timeout=25"
        )
        until(scored(folder, 2))
        before = dict(peaks.of)
        until(scored(folder, 3))
        after = dict(peaks.of)
    stopped = node.family()
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    until(scored(folder, LATE))
    for process in stopped:
        process.send_signal(signal.SIGCONT)
    until(scored(folder, BACK))
    node.kill()
    log = ended(here, run)
    assert log.startswith("finished:completed"), log
    assert summary(folder)["rounds"] == MISSED

    for number, (_, reason) in ATTACKS.items():
        line = only_left_out(log, number)
        assert reason in line
        sent = rows(folder, round=number, direction="up", kind="train")
        assert [row["partition"] for row in sent] == ["0", "1"]
        assert all(int(row["message_bytes"]) > 0 for row in sent)
        assert int(sent[0]["payload_bytes"]) > 0
    grown = {pid: after[pid] - before[pid] for pid in before}
    assert len(grown) > 2  # the SuperLink, its executor, the ServerApp
    assert grown.pop(here.superlink.pid) < HUGE  # it stores what nodes push
    assert max(grown.values()) < HUGE / 2, grown  # the huge frame was never in memory

    assert "it did not reply in time" in only_left_out(log, LATE)
    assert f"round {LATE}: the reply of client 1 came after the deadline and is dropped" in log
    late = rows(folder, round=LATE, partition=1, direction="up", kind="train")
    assert [int(row["payload_bytes"]) for row in late] == [0]
    assert int(late[0]["message_bytes"]) > 100_000
    assert f"round {BACK}, left out" not in log
    assert "did not reply in time" in only_left_out(log, DEAD)
    assert "Error: Node Unavailable" in only_left_out(log, MISSED)


def only_left_out(log: str, number: int) -> str:
    """Return the line that says why client 1, and no other, is left out of a round."""
    (line,) = [x for x in log.splitlines() if x.startswith(f"round {number}, left out: ")]
    assert line.startswith(f"round {number}, left out: client 1: ")
    return line


class Peaks(threading.Thread):
    """Follows the memory of the SuperLink's processes.

    Attributes
    ----------
    of : dict
        Process id -> the most bytes so far.
    """

    def __init__(self, here: Deployment) -> None:
        super().__init__(daemon=True)
        self.here, self.of, self.over = here, {}, threading.Event()

    def __enter__(self) -> "Peaks":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        while not self.over.wait(0.3):
            for process in self.here.superlink.family():
                with suppress(psutil.NoSuchProcess):
                    now = process.memory_info().rss
                    self.of = {**self.of, process.pid: max(self.of.get(process.pid, 0), now)}
