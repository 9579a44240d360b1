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

from deploy.deployment import NODE_CONNECTED, Deployment, DeploymentError, deployment
from deploy.network import HOST, Namespace, NetworkError, namespaces
from deploy.process import Process
from fl_app.build import open_session
from fl_app.faults import FaultError
from fl_app.files import project_root
from fl_app.runs.text import size
from fl_app.server_app import Experiment
from fl_app.simulation.superlink import CONNECTION, free_port, script
from tests import flower_cli, foreign_app, modes, small
from tests.loopback import Loopback

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]  # of a machine that does more
NODES = 2
KIT = Path(__file__).resolve().parents[2] / "deploy"
ALL = f"{small.DATA} federation.clients={NODES} clients_per_round={NODES} local_epochs=1"
# Large enough for the bytes that Flower and the network add to be a small share; its messages have
# two parts, and its clients remember from round to round.
RUN = f"{ALL} strategy=scaffold adapter=full codec=int8 rounds=2"
SPLIT = (
    f"{ALL} strategy=sfprompt adapter=peft adapter.method=PROMPT_TUNING codec=fp32 rounds=2 "
    "adapter.args.num_virtual_tokens=4 adapter.args.modules_to_save=[final_layer_norm] batch_size=1"
)
# The strict policy allows 1000 rounds; where more are allowed, the loss diverges.
FAILS = (
    f"{ALL} strategy=fedavg codec=fp32 rounds=1001 clients_per_round=1 logger=none local_epochs=3 "
    "optimizer.lr=1e30 federation.node_timeout=10"
)
SECONDS = 240
REFUSED = "Failed to activate SuperNode"
SAME = ("round", "partition", "direction", "kind", "codec", "scalars", "payload_bytes",
        "frame_bytes")  # fmt: skip


@dataclass
class Deployed:
    """What the runs of a deployment have left."""

    here: Deployment
    run: Path
    policies: list[Path]  # the strict one, of node-0, and one that allows more rounds, of node-1
    entry: dict
    link: int | None  # bytes of all nodes' interfaces; None on loopback
    failed: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("deployment")
    policies = [KIT / "policy.yaml", tmp_path_factory.mktemp("policy") / "policy.yaml"]
    policies[1].write_text(policies[0].read_text().replace("rounds: 1000", "rounds: 2000"))
    os.umask(0o022)  # under which others may read what a process makes
    with ExitStack() as started:
        spaces: list[Namespace] = []
        try:
            spaces = started.enter_context(namespaces(NODES))
        except NetworkError as error:
            print(f"on loopback: {error}")
        host = HOST if spaces else "127.0.0.1"
        started.enter_context(flower_cli.without_processes())
        here = started.enter_context(
            deployment(folder, nodes=0, host=host, database=True, environment=flower_cli.PATIENT)
        )
        _start_nodes(here, spaces, policies)
        before = sum(space.counted() for space in spaces)
        run = here.submit(f"{RUN} output.dir={folder}/runs output.name=run")
        assert here.wait(run, SECONDS) == "finished:completed", here.log(run)
        entry = here.entry(run)
        link = sum(space.counted() for space in spaces) - before if spaces else None
        failed = subprocess.run(
            [sys.executable, "-m", "deploy.submit",
             *FAILS.split(), f"output.dir={folder}/runs", "output.name=failed"],
            cwd=project_root(), env=here.cli, capture_output=True, text=True, timeout=SECONDS,
            check=False,
        )  # fmt: skip
        yield Deployed(here, folder / "runs" / "run", policies, entry, link, failed)


def _start_nodes(here: Deployment, spaces: list[Namespace], policies: list[Path]) -> None:
    own = open_session(ALL)
    for k in range(NODES):
        disk = here.folder / f"disk-{k}.parquet"
        own.documents(k).to_parquet(disk)
        here.register(f"node-{k}")
        here.start_node(
            f"node-{k}", k, NODES,
            config={"data-path": str(disk)} | ({"policy": str(policies[k])} if k else {}),
            namespace=spaces[k].name if spaces else None,
        )  # fmt: skip
    here.wait_for_nodes()


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run, whose nodes cut their partitions out of the same data."""
    folder = tmp_path_factory.mktemp("in-process")
    overrides = f"{RUN} output.dir={folder} output.name=run"
    Experiment(
        open_session(overrides), Loopback(overrides, NODES), overrides, setup_seconds=0.0
    ).start()
    return folder / "run"


def _ledger(run: Path) -> list[dict[str, str]]:
    with (run / "ledger.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_model_and_every_score_are_those_of_a_simulation(deployed, in_process) -> None:
    run = deployed.run
    assert (run / "metrics.csv").read_text() == (in_process / "metrics.csv").read_text()
    weights = sorted(path.name for path in (run / "adapter").glob("*.safetensors"))
    assert weights
    assert filecmp.cmpfiles(run / "adapter", in_process / "adapter", weights, shallow=False) == (
        weights, [], [],
    )  # fmt: skip


def test_every_transfer_is_that_of_a_simulation(deployed, in_process) -> None:
    ours, theirs = _ledger(deployed.run), _ledger(in_process)
    assert [[row[c] for c in SAME] for row in ours] == [[row[c] for c in SAME] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert abs(int(one["message_bytes"]) - int(other["message_bytes"])) <= 16  # ids, clocks


def test_flower_counts_what_the_ledger_does_and_a_little_more_a_message(deployed) -> None:
    rows = _ledger(deployed.run)
    ledger = sum(int(row["message_bytes"]) for row in rows)
    flower = deployed.entry["network-traffic"]["total-bytes"]
    assert 0 < flower - ledger < 2500 * len(rows)  # names of objects, in Flower's own questions
    assert flower < 1.02 * ledger


def test_the_links_carry_what_the_ledger_says_and_little_more(deployed) -> None:
    if deployed.link is None:
        pytest.skip("no network namespaces here: loopback counts other traffic, too")
    ledger = sum(int(row["message_bytes"]) for row in _ledger(deployed.run))
    # A tenth more on an idle machine; nodes poll as long as a busy one takes.
    assert ledger < deployed.link < 1.25 * ledger


def test_a_node_reads_its_own_disk_and_the_server_hears_no_path_of_it(deployed) -> None:
    disks = sorted(deployed.here.folder.glob("disk-*.parquet"))
    assert len(disks) == NODES
    for path in deployed.run.rglob("*"):
        if path.is_file():
            assert b"disk-" not in path.read_bytes(), path
    assert "disk-" not in deployed.failed.stdout + deployed.failed.stderr


def test_a_node_refuses_by_its_policy_and_nodes_log_every_message_of_every_run(deployed) -> None:
    said = deployed.failed.stdout + deployed.failed.stderr
    assert "the node's policy forbids rounds, by its rule run.rounds: at most 1000" in said
    assert "at most 2000" not in said
    for k, policy in enumerate(deployed.policies):
        path = deployed.here.folder / f"node-{k}" / "state" / "audit.jsonl"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        logged = [(line["message"], line["decision"]) for line in lines]
        assert logged.count(("train", "accepted")) == 2 + k  # of two rounds; and of the one more
        assert logged[0] == ("query", "accepted")
        assert logged[-1] == (("train", "failed") if k else ("query", "refused"))
        digest = hashlib.sha256(policy.read_bytes()).hexdigest()
        assert {line.get("policy", digest) for line in lines} == {digest}
        assert len({line["run"] for line in lines}) == 2


def test_a_node_that_fails_says_a_kind_and_its_own_log_has_the_rest(deployed) -> None:
    said = deployed.failed.stdout + deployed.failed.stderr
    assert deployed.failed.returncode == 1, said
    assert all(line.isprintable() for line in said.splitlines()), said
    found = re.search(
        rf"client 1: {re.escape(FaultError('diverged').said)} "
        r"\(fault ([0-9a-f]{8}) in the node's log\)",
        said,
    )
    assert found, said
    node = deployed.here.nodes["node-1"]
    assert f"fault {found[1]}: fl_app.training.loop.DivergedError: the loss became" in node.text()
    assert node.log.stat().st_mode & 0o777 == 0o600
    assert "DivergedError" not in said


def test_the_console_of_a_node_shows_its_turns(deployed) -> None:
    for k in range(NODES):
        said = deployed.here.nodes[f"node-{k}"].text()
        rows = [row for row in _ledger(deployed.run) if row["partition"] == str(k)]
        for number in ("1", "2"):
            found = re.search(
                rf"^round {number}, client {k}: (\d+) steps, [\d.]+ m?s, loss \d+\.\d{{4}}, "
                r"(\S+ \S+) down, (\S+ \S+) up$",
                said, re.MULTILINE,
            )  # fmt: skip
            assert found, said
            assert int(found[1]) > 0
            assert found.group(2, 3) == tuple(
                size(int(row["message_bytes"]))
                for row in rows
                if (row["round"], row["kind"]) == (number, "train")
            )


def test_unknown_and_revoked_keys_and_plain_text_are_refused(deployed, tmp_path: Path) -> None:
    here = deployed.here
    here.register("revoked")
    here.unregister("revoked")
    ca = str(here.certificates / "ca.crt")
    refused = {
        name: _node_alone(
            here, name,
            "--root-certificates", ca, "--auth-supernode-private-key", str(here.key(name)),
        )
        for name in ("stranger", "revoked")
    }  # fmt: skip
    plain = _node_alone(here, "plain", "--insecure")
    try:
        for node in refused.values():
            with pytest.raises(TimeoutError, match=REFUSED):
                node.wait_for(NODE_CONNECTED, SECONDS)
            assert node.poll() == 1
        plain.wait_for("Connection attempt failed", SECONDS)
        assert NODE_CONNECTED not in plain.text()
    finally:
        for node in (*refused.values(), plain):
            node.kill()
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f'address = "{here.address}"\ninsecure = true\n'
    )
    listed = flower_cli.invoke("list", CONNECTION, environment={**here.cli, "FLWR_HOME": str(home)})
    assert listed.returncode != 0
    assert "Connection to the SuperLink is unavailable" in listed.stdout + listed.stderr


def _node_alone(here: Deployment, name: str, *options: str) -> Process:
    """Start a SuperNode without the executor of its tasks, which it will not have."""
    return Process(
        name,
        [
            script("flower-supernode"), "--superlink", here.address, *options,
            "--node-config", f"partition-id=0 num-partitions={NODES}",
            "--port", str(free_port()), "--isolation", "process",
        ],
        {**here.cli, "FLWR_HOME": str(here.folder / name)},
        here.folder / "logs" / f"{name}.log",
    )  # fmt: skip


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


def _executors(process: Process) -> list[psutil.Process]:
    return [one for one in process.family() if "fl_app.simulation.superexec" in one.cmdline()]


def test_a_server_brings_no_code_either(deployed, tmp_path) -> None:
    """Its operator runs another app; every node says why it does not."""
    here = deployed.here
    (ours,) = _executors(here.superlink)
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


@pytest.mark.methods
def test_several_exchanges_a_round_are_those_of_a_simulation(deployed, tmp_path) -> None:
    """A VT5 that is cut: what the nodes keep between exchanges is theirs alone."""
    folder = deployed.run.parent
    run = deployed.here.submit(f"{SPLIT} output.dir={folder} output.name=split")
    assert deployed.here.wait(run, SECONDS) == "finished:completed", deployed.here.log(run)
    words = f"{SPLIT} output.dir={tmp_path} output.name=split"
    Experiment(open_session(words), Loopback(words, NODES), words, setup_seconds=0.0).start()
    real, simulated = _ledger(folder / "split"), _ledger(tmp_path / "split")
    assert {row["kind"] for row in real} == {"setup", "train", "split"}
    for one, other in zip(real, simulated, strict=True):
        assert [one[name] for name in SAME] == [other[name] for name in SAME]
    one, other = ((at / "split" / "metrics.csv").read_text() for at in (folder, tmp_path))
    assert one == other


def test_it_ends_with_its_executors_and_nothing_is_left(deployed) -> None:
    """Where an executor is killed, what it serves says so and ends; the others are stopped."""
    here = deployed.here
    processes = [here.superlink, *here.nodes.values()]
    family = [member for process in processes for member in process.family()]
    assert len(family) > 2 * len(processes)  # each with its executor and what that forks
    for process, script_name in (
        (here.nodes["node-1"], "supernode.sh"), (here.superlink, "superlink.sh"),
    ):  # fmt: skip
        (executor,) = _executors(process)
        executor.kill()
        process.popen.wait(SECONDS)
        assert f"{script_name}: the executor ended with status 137" in process.text()
        assert "Killed" not in process.text()
    with pytest.raises(DeploymentError, match=r"the SuperLink has ended: superlink\.sh: the exec"):
        here.flwr("list")
    here.stop()
    assert [process.poll() is not None for process in processes] == [True] * (NODES + 1)
    assert not [m for m in family if m.is_running() and m.status() != psutil.STATUS_ZOMBIE]
    assert os.getpid() not in [m.pid for m in family]
