"""A deployment out of real processes: what it computes and sends is what a simulation does."""

import csv
import filecmp
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

from deploy.deployment import Deployment, deployment
from deploy.network import HOST, Namespace, NetworkError, namespaces
from fl_app.server_app import Run
from fl_app.session import session
from tests import small
from tests.loopback import Loopback

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]  # of a machine that does more
NODES = 3
ALL = f"{small.DATA} strategy=fedavg clients_per_round={NODES} local_epochs=1"
# The first one is large enough for the bytes that Flower and the network add to be a small share;
# the second one's clients remember from round to round.
RUNS = {
    "full": f"{ALL} adapter=full codec=fp32 rounds=1",
    "remembers": f"{ALL} codec=thin rounds=2",
}
SECONDS = 240
SAME = ("round", "partition", "direction", "kind", "codec", "scalars", "payload_bytes",
        "frame_bytes")  # fmt: skip


@dataclass
class Deployed:
    """What the runs of a deployment have left."""

    here: Deployment
    runs: Path
    entries: dict[str, dict]
    links: dict[str, int]  # bytes of all nodes' interfaces; empty on loopback


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("deployment")
    with ExitStack() as started:
        spaces: list[Namespace] = []
        try:
            spaces = started.enter_context(namespaces(NODES))
        except NetworkError as error:
            print(f"on loopback: {error}")
        host = HOST if spaces else "127.0.0.1"
        here = started.enter_context(deployment(folder, nodes=0, host=host))
        _start_nodes(here, spaces)
        result = Deployed(here, folder / "runs", {}, {})
        for name, overrides in RUNS.items():
            before = sum(space.counted() for space in spaces)
            run = here.submit(f"{overrides} output.dir={result.runs} output.name={name}")
            assert here.wait(run, SECONDS) == "finished:completed", here.log(run)
            result.entries[name] = here.entry(run)
            if spaces:
                result.links[name] = sum(space.counted() for space in spaces) - before
        yield result


def _start_nodes(here: Deployment, spaces: list[Namespace]) -> None:
    own = session(small.RUN)
    for k in range(NODES):
        disk = here.folder / f"disk-{k}.parquet"
        own.documents(k).to_parquet(disk)
        here.register(f"node-{k}")
        here.start_node(
            f"node-{k}", k, NODES,
            config={"data-path": str(disk)},
            namespace=spaces[k].name if spaces else None,
        )  # fmt: skip
    here.wait_for_nodes()


@pytest.fixture(scope="module", params=RUNS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def in_process(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run, whose nodes cut their partitions out of the same data."""
    folder = tmp_path_factory.mktemp("in-process")
    overrides = f"{RUNS[name]} output.dir={folder} output.name={name}"
    Run(session(overrides), Loopback(overrides, NODES), overrides, setup_seconds=0.0).start()
    return folder / name


def _ledger(run: Path) -> list[dict[str, str]]:
    with (run / "ledger.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_model_and_every_score_are_those_of_a_simulation(deployed, in_process, name) -> None:
    run = deployed.runs / name
    assert (run / "metrics.csv").read_text() == (in_process / "metrics.csv").read_text()
    weights = sorted(path.name for path in (run / "adapter").glob("*.safetensors"))
    assert weights
    assert filecmp.cmpfiles(run / "adapter", in_process / "adapter", weights, shallow=False) == (
        weights, [], [],
    )  # fmt: skip


def test_every_transfer_is_that_of_a_simulation(deployed, in_process, name) -> None:
    ours, theirs = _ledger(deployed.runs / name), _ledger(in_process)
    assert [[row[c] for c in SAME] for row in ours] == [[row[c] for c in SAME] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert abs(int(one["message_bytes"]) - int(other["message_bytes"])) <= 16  # ids, clocks


def test_flower_counts_what_the_ledger_does_and_a_little_more_a_message(deployed, name) -> None:
    rows = _ledger(deployed.runs / name)
    ledger = sum(int(row["message_bytes"]) for row in rows)
    flower = deployed.entries[name]["network-traffic"]["total-bytes"]
    assert 0 < flower - ledger < 2500 * len(rows)  # names of objects, in Flower's own questions
    if name == "full":
        assert flower < 1.02 * ledger


def test_the_links_carry_what_the_ledger_says_and_at_most_a_tenth_more(deployed) -> None:
    if not deployed.links:
        pytest.skip("no network namespaces here: loopback counts other traffic, too")
    ledger = sum(int(row["message_bytes"]) for row in _ledger(deployed.runs / "full"))
    assert ledger < deployed.links["full"] < 1.1 * ledger


def test_a_node_reads_its_own_disk_and_the_server_hears_no_path_of_it(deployed) -> None:
    disks = sorted(deployed.here.folder.glob("disk-*.parquet"))
    assert len(disks) == NODES
    for run in deployed.runs.iterdir():
        for path in run.rglob("*"):
            if path.is_file():
                assert b"disk-" not in path.read_bytes(), path


def test_a_task_cannot_be_taken_without_the_executors_secret(deployed) -> None:
    certificate = (deployed.here.certificates / "ca.crt").read_bytes()
    client = RuntimeHttpClient.from_server_address(
        server_address=deployed.here.address,
        insecure=False,
        root_certificates=certificate,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec")],
    )
    question = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        client.AcquireTask(question)


def test_nothing_is_left_when_it_ends(deployed) -> None:
    here = deployed.here
    processes = [here.superlink, *here.nodes.values()]
    family = [member for process in processes for member in process.family()]
    assert len(family) > 2 * len(processes)  # each with its executor and what that forks
    here.stop()
    assert [process.poll() is not None for process in processes] == [True] * (NODES + 1)
    assert not [m for m in family if m.is_running() and m.status() != psutil.STATUS_ZOMBIE]
    assert os.getpid() not in [m.pid for m in family]
