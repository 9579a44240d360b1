"""A deployment out of real processes: what it computes and sends is what a simulation does."""

import csv
import filecmp
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

import httpx
import psutil
import pytest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

from deploy.deployment import Deployment, deployment
from deploy.network import HOST, Namespace, NetworkError, namespaces
from deploy.process import Process
from fl_app.build import open_session
from fl_app.faults import FaultError
from fl_app.files import project_root
from fl_app.server_app import Experiment
from fl_app.simulation.superlink import script
from tests import foreign_app, modes, small
from tests.loopback import Loopback

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]  # of a machine that does more
NODES = 2
KIT = Path(__file__).resolve().parents[2] / "deploy"
ALL = f"{small.DATA} federation.clients={NODES} clients_per_round={NODES} local_epochs=1"
# The first one is large enough for the bytes that Flower and the network add to be a small share;
# the second one's messages have two parts, and its clients remember from round to round.
RUNS = {
    "full": f"{ALL} strategy=fedavg adapter=full codec=fp32 rounds=1",
    "remembers": f"{ALL} strategy=scaffold codec=uniform_entropy rounds=2",
}
REFUSED = f"{ALL} strategy=fedavg codec=fp32 rounds=1001"  # the strict policy allows 1000
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
    ended: tuple[str, str] = ("", "")  # status and log of the run that the nodes refuse


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("deployment")
    os.umask(0o022)  # under which others may read what a process makes
    with ExitStack() as started:
        spaces: list[Namespace] = []
        try:
            spaces = started.enter_context(namespaces(NODES))
        except NetworkError as error:
            print(f"on loopback: {error}")
        host = HOST if spaces else "127.0.0.1"
        here = started.enter_context(deployment(folder, nodes=0, host=host, database=True))
        _start_nodes(here, spaces)
        result = Deployed(here, folder / "runs", {}, {})
        for name, overrides in RUNS.items():
            before = sum(space.counted() for space in spaces)
            run = here.submit(f"{overrides} output.dir={result.runs} output.name={name}")
            assert here.wait(run, SECONDS) == "finished:completed", here.log(run)
            result.entries[name] = here.entry(run)
            if spaces:
                result.links[name] = sum(space.counted() for space in spaces) - before
        refused = here.submit(f"{REFUSED} output.dir={result.runs} federation.node_timeout=10")
        result.ended = here.wait(refused, SECONDS), here.log(refused)
        yield result


def _start_nodes(here: Deployment, spaces: list[Namespace]) -> None:
    own = open_session(ALL)
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
    Experiment(
        open_session(overrides), Loopback(overrides, NODES), overrides, setup_seconds=0.0
    ).start()
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


def test_nodes_refuse_by_the_kits_policy_and_log_every_message_of_every_run(deployed) -> None:
    status, log = deployed.ended
    assert status == "finished:failed"
    assert (
        log.count("the node's policy forbids rounds, by its rule run.rounds: at most 1000") >= NODES
    )
    digest = hashlib.sha256((KIT / "policy.yaml").read_bytes()).hexdigest()
    for k in range(NODES):
        path = deployed.here.folder / f"node-{k}" / "state" / "audit.jsonl"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        said = [(line["message"], line["decision"]) for line in lines]
        trainings = said.count(("train", "accepted"))
        assert trainings == 3  # of one round and of two
        assert said[0] == ("query", "accepted")
        assert said[-1] == ("query", "refused")
        assert {line.get("policy", digest) for line in lines} == {digest}
        assert len({line["run"] for line in lines}) == len(RUNS) + 1


def test_a_node_that_fails_says_a_kind_and_its_own_log_has_the_rest(deployed) -> None:
    here = deployed.here
    words = (
        f"{ALL} strategy=fedavg codec=fp32 rounds=1 logger=none local_epochs=3 "
        f"optimizer.lr=1e30 output.dir={here.folder}/failed output.name=run"
    )
    done = subprocess.run(
        [sys.executable, "-m", "deploy.submit", *words.split()],
        cwd=project_root(), env=here.cli, capture_output=True, text=True, timeout=SECONDS,
        check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert all(line.isprintable() for line in said.splitlines()), said
    for k in range(NODES):
        found = re.search(
            rf"client {k}: {re.escape(FaultError('diverged').said)} "
            r"\(fault ([0-9a-f]{8}) in the node's log\)",
            said,
        )
        assert found, said
        node = here.nodes[f"node-{k}"]
        assert (
            f"fault {found[1]}: fl_app.training.loop.DivergedError: the loss became" in node.text()
        )
        assert node.log.stat().st_mode & 0o777 == 0o600
    assert "DivergedError" not in said
    assert "disk-" not in said


def test_nothing_of_the_runtime_api_answers_without_a_secret_or_a_tasks_token(deployed) -> None:
    certificate = (deployed.here.certificates / "ca.crt").read_bytes()
    client = RuntimeHttpClient.from_server_address(
        server_address=deployed.here.address,
        insecure=False,
        root_certificates=certificate,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec")],
    )
    methods = [name for name in vars(RuntimeHttpClient) if name[0].isupper()]
    assert len(methods) > 15
    for name in methods:
        question = get_type_hints(getattr(RuntimeHttpClient, name))["request"]
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            getattr(client, name)(question())


def _submitted(here: Deployment, app: Path) -> tuple[str, str]:
    """Submit ``app`` as it is; return how the run ended and why."""
    run_config = app.with_suffix(".toml")
    run_config.write_text('overrides = ""\n')
    run = int(here.flwr("run", str(app), run_config=str(run_config))["run-id"])
    return here.wait(run, SECONDS), str(here.entry(run)["status-details"])


def test_a_submitter_brings_no_code(deployed, tmp_path) -> None:
    """Not even under this app's name: the server refuses the bundle before it is on its disk."""
    of_our_name = foreign_app.write(tmp_path, name="thinwire")
    ours = (project_root() / "pyproject.toml").read_text()
    (of_our_name / "pyproject.toml").write_text(ours.replace("fab-include", "# "))
    for app, why in (
        (foreign_app.write(tmp_path), "runs bring no code"),
        (of_our_name, "runs bring no code"),
    ):
        status, details = _submitted(deployed.here, app)
        assert status == "finished:failed"
        assert why in details
        assert "make run" in details
    assert foreign_app.ran(tmp_path) == set()
    assert not (deployed.here.folder / "superlink" / "apps").exists()


def test_a_server_brings_no_code_either(deployed, tmp_path) -> None:
    """Its operator runs another app; every node says why it does not."""
    here = deployed.here
    (ours,) = [
        process
        for process in here.superlink.family()
        if "fl_app.simulation.superexec" in process.cmdline()
    ]
    ours.suspend()
    home = here.folder / "superlink"
    flowers = Process(
        "executor",
        [
            script("flower-superexec"), "--runtime-api-address", here.address,
            "--root-certificates", str(here.certificates / "ca.crt"),
            "--superexec-auth-secret-file", str(home / "superexec.secret"),
        ],
        {**here.cli, "FLWR_HOME": str(home),
         "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1"},
        tmp_path / "log",
    )  # fmt: skip
    try:
        status, details = _submitted(here, foreign_app.write(tmp_path))
    finally:
        flowers.stop()
        ours.resume()
    assert status == "finished:failed"
    assert details.count("bundle: the run brings code") == NODES, details
    assert foreign_app.ran(tmp_path) == {"evilpkg", "evilpkg.server"}
    assert not list(here.folder.glob("node-*/apps"))


def test_what_a_deployment_keeps_is_its_users_alone(deployed) -> None:
    """Database, homes, logs, keys and results; what is public stays so."""
    here = deployed.here
    assert (here.folder / "database").is_file()
    assert (here.folder / "node-0" / "superexec.secret").is_file()
    found = modes.open_to_others(here.folder)
    assert {
        path for path in found if Path(path).suffix not in (".crt", ".pub", ".parquet")
    } == set()


def test_nothing_is_left_when_it_ends(deployed) -> None:
    here = deployed.here
    processes = [here.superlink, *here.nodes.values()]
    family = [member for process in processes for member in process.family()]
    assert len(family) > 2 * len(processes)  # each with its executor and what that forks
    here.stop()
    assert [process.poll() is not None for process in processes] == [True] * (NODES + 1)
    assert not [m for m in family if m.is_running() and m.status() != psutil.STATUS_ZOMBIE]
    assert os.getpid() not in [m.pid for m in family]
