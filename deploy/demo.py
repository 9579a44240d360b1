"""``python -m deploy.demo``: a real deployment on this machine, and its bytes counted three ways.

It has TLS, node authentication, a SuperLink and three SuperNodes. Each node has its rows on its own
disk and, if this machine allows it, a network namespace with an address. There are three runs: the
default experiment with less data, with a set-up and without, and one that sends the whole model in
fp32. The table compares the ledger's count of their messages with Flower's and with that of the
nodes' interfaces.
"""

import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import datasets
import pandas as pd

from deploy.deployment import Deployment, DeploymentError, deployment
from deploy.network import HOST, Namespace, NetworkError, interface_bytes, namespaces
from fl_app import data
from fl_app.config import compose
from fl_app.files import keep_private, project_root
from fl_app.simulation import bundle

NODES = 3
DATA = (
    f"federation.clients={NODES} data.providers_per_client=4 data.test_documents=12 "
    "data.validation_documents=0 data.unseen_providers=3"
)
RUNS = {
    "the default experiment": "rounds=3 local_epochs=2",
    "without set-up": "rounds=3 local_epochs=2 federation.sampling=nodes",
    "the whole model in fp32": "experiment=fedavg_full rounds=3 local_epochs=1 "
    f"clients_per_round={NODES}",
}
IDLE_SECONDS = 15
RUN_SECONDS = 600


@dataclass
class Counted:
    """The bytes of one run by counter, and its duration.

    Attributes
    ----------
    name : str
        What the table calls the run.
    ledger, flower, interfaces : int
        Bytes counted by the run's ledger, by Flower and by the nodes' interfaces.
    polling : int
        Bytes that idle nodes would have sent in the same time.
    bundle : int
        Bytes of the app's bundle to all nodes.
    seconds : float
        Duration.
    """

    name: str
    ledger: int
    flower: int
    interfaces: int
    polling: int
    bundle: int
    seconds: float


def main() -> int:
    """Start everything, do the runs, print the counts, and stop everything.

    Return the exit status.
    """
    keep_private()
    with ExitStack() as started:
        spaces: list[Namespace] = []
        try:
            spaces = started.enter_context(namespaces(NODES))
            print(f"{NODES} network namespaces on a bridge; the SuperLink is {HOST}")
        except NetworkError as error:
            print(f"on loopback, whose counter includes each node's internal traffic: {error}")
        folder = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="thinwire-demo-")))
        host = HOST if spaces else "127.0.0.1"
        here = started.enter_context(deployment(folder, nodes=0, host=host))
        _start_nodes(here, spaces)
        idle = _idle_rate(spaces)
        print(f"idle: {idle / NODES:.0f} bytes/s per node, for asking for work and heartbeats")
        counted = [_run(here, spaces, name, words, idle) for name, words in RUNS.items()]
        pids = [process.pid for process in (here.superlink, *here.nodes.values()) if process]
    _table(counted)
    print(f"stopped by pid: {', '.join(map(str, pids))}")
    return 0


def _start_nodes(here: Deployment, spaces: list[Namespace]) -> None:
    datasets.disable_progress_bars()
    cfg = compose(DATA)
    rows = data.load(cfg.data, cfg.seed)["train"]
    for k in range(NODES):
        name = f"node-{k}"
        disk = here.folder / name / "disk"
        disk.mkdir(parents=True)
        own = data.client_split(rows, cfg.data.partitioner, k, NODES, cfg.data.seed)
        own.to_parquet(disk / "rows.parquet")
        here.register(name)
        here.start_node(
            name, k, NODES,
            config={"data-path": str(disk / "rows.parquet")},
            namespace=spaces[k].name if spaces else None,
        )  # fmt: skip
        where = f" at {spaces[k].address}" if spaces else ""
        print(f"{name}{where}: {len(own)} documents in {disk}/rows.parquet")
    here.wait_for_nodes()


def _counter(spaces: list[Namespace]) -> int:
    """Return the bytes of all nodes' links; half of loopback's, which counts both ends."""
    return sum(s.counted() for s in spaces) if spaces else interface_bytes("lo") // 2


def _idle_rate(spaces: list[Namespace]) -> float:
    before = _counter(spaces)
    time.sleep(IDLE_SECONDS)
    return (_counter(spaces) - before) / IDLE_SECONDS


def _run(here: Deployment, spaces: list[Namespace], name: str, words: str, idle: float) -> Counted:
    folder = f"deploy-demo-{time.strftime('%Y%m%d-%H%M%S')}"
    before, began = _counter(spaces), time.monotonic()
    run = here.submit(f"{DATA} {words} output.name={folder}")
    status = here.wait(run, RUN_SECONDS)
    seconds = time.monotonic() - began
    print(f"\n== {name}: {words}\n{here.log(run)}")
    if status != "finished:completed":
        raise DeploymentError(f"the run ended as {status}: {here.entry(run)['status-details']}")
    entry = here.entry(run)
    ledger = pd.read_csv(project_root() / "runs" / folder / "ledger.csv")
    return Counted(
        name=name,
        ledger=int(ledger.message_bytes.sum()),
        flower=int(entry["network-traffic"]["total-bytes"]),
        interfaces=_counter(spaces) - before,
        polling=int(idle * seconds),
        bundle=bundle.size(here.app) * NODES,
        seconds=seconds,
    )


def _table(counted: list[Counted]) -> None:
    lines: list[tuple[str, list[str]]] = [("", [c.name for c in counted])]
    for label, count in (
        ("ledger, messages", lambda c: c.ledger),
        ("Flower, network-traffic", lambda c: c.flower),
        ("interfaces of the nodes", lambda c: c.interfaces),
    ):
        shares = [f"{count(c):,} ({count(c) / c.ledger - 1:+.1%})" for c in counted]
        lines.append((label, shares))
    lines.append(("  of which the app bundle", [f"{c.bundle:,}" for c in counted]))
    lines.append(("  of which asking for work", [f"{c.polling:,}" for c in counted]))
    rest = [c.interfaces - c.flower - c.bundle - c.polling for c in counted]
    lines.append(
        (
            "  the rest: TLS, HTTP, TCP and IP",
            [
                f"{r:,} ({r / c.flower:+.1%} of Flower's)"
                for r, c in zip(rest, counted, strict=True)
            ],
        )
    )
    lines.append(("seconds", [f"{c.seconds:.0f}" for c in counted]))
    print("\nbytes, all nodes and both directions together")
    for label, values in lines:
        print(f"{label:36}" + "".join(f"{value:>34}" for value in values))


if __name__ == "__main__":
    sys.exit(main())
