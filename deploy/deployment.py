"""A deployment on this machine in separate processes: TLS, node authentication, real nodes.

It starts what an operator starts, with the scripts of this folder: ``superlink.sh`` and
``supernode.sh``. Everything is in one folder: ``certificates/``, ``keys/``, ``logs/NAME.log`` of
each process, ``database`` and Flower's own files.

    with deployment(folder, nodes=3) as d:               # node-0 .. node-2, partition k of 3 each
        run = d.submit("rounds=2 federation.clients=3 output.dir=/tmp/x output.name=y")
        assert d.wait(run, 120) == "finished:completed"
        d.log(run)                                       # the output of the ServerApp
        d.entry(run)["network-traffic"]                  # as in `flwr list --run-id`
        d.nodes["node-1"].kill()                         # SIGKILL, also of its apps; or .stop()
        d.start_node("node-1", 1, 3)                     # again, with the same key
        d.superlink.kill(); d.start_superlink()          # database=True: it knows runs and nodes

With ``nodes=0`` no node is registered or started. ``d.register("late")`` makes and registers a key,
``d.start_node("late", 2, 3, config={"data-path": "/srv/rows.jsonl"})`` starts a node with it, and
``d.unregister("late")`` revokes it. A node without a policy in ``config`` or ``POLICY`` has the
strict one. On exit, also by an exception or a signal, all processes are ended.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.process import Process
from fl_app.files import atomic_file
from fl_app.simulation import bundle
from fl_app.simulation.processes import handled_by, interrupt
from fl_app.simulation.proxies import loopback_direct
from fl_app.simulation.superlink import CONNECTION, flwr, free_port, script

HERE = Path(__file__).resolve().parent
START_SECONDS = 60
NODE_CONNECTED = "SuperNode ID:"


class DeploymentError(RuntimeError):
    """A part of the deployment did not start, or Flower refused something."""


class Deployment:
    """The processes of a deployment; see the module for its use.

    Parameters
    ----------
    folder : Path
        The folder for all files; it may exist.
    host : str
        Address of the SuperLink on this machine.
    database : bool
        Whether the SuperLink keeps its state on disk.
    environment : mapping
        Added to this process's environment for all processes.

    Attributes
    ----------
    superlink : Process or None
        The SuperLink.
    nodes : dict
        Name -> Process of each SuperNode.
    node_ids : dict
        Name -> Flower's id of each registered node.
    """

    def __init__(
        self,
        folder: Path,
        host: str = "127.0.0.1",
        database: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.host = host
        self.port = free_port()
        self.database = database
        self.certificates = folder / "certificates"
        self.added = dict(environment or {})
        self.superlink: Process | None = None
        self.nodes: dict[str, Process] = {}
        self.node_ids: dict[str, int] = {}
        for path in (folder, folder / "logs", folder / "keys"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _script("certificates.sh", str(self.certificates), host)
        self.cli = self._environment(FLWR_HOME=str(folder / "cli"))
        _script("connect.sh", self.address, str(self.certificates / "ca.crt"), **self.cli)
        self.app = bundle.make(folder)

    @property
    def address(self) -> str:
        """Return HOST:PORT of the SuperLink."""
        return f"{self.host}:{self.port}"

    def _environment(self, **more: str) -> dict[str, str]:
        return {
            **loopback_direct(os.environ),
            "BIN": str(Path(sys.executable).parent),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            **self.added,
            **more,
        }

    # ---- processes --------------------------------------------------------------------------

    def start_superlink(self, **environment: str) -> Process:
        """Start the SuperLink, or start it again on its port and with its database.

        Raises
        ------
        DeploymentError
            If it does not start; the message contains its log.
        """
        own = {
            "CERTIFICATES": str(self.certificates),
            "HOST": self.host,
            "PORT": str(self.port),
            "FLWR_HOME": str(self.folder / "superlink"),
            "DATABASE": str(self.folder / "database") if self.database else "",
        }
        log = self.folder / "logs" / "superlink.log"
        before = len(log.read_text()) if log.exists() else 0
        self.superlink = Process(
            "superlink", [str(HERE / "superlink.sh")], self._environment(**own, **environment), log
        )
        deadline = time.monotonic() + START_SECONDS
        while "Application startup complete" not in self.superlink.text()[before:]:
            if self.superlink.poll() is not None or time.monotonic() > deadline:
                raise DeploymentError(
                    f"the SuperLink did not start:\n{self.superlink.text()[before:]}"
                )
            time.sleep(0.1)
        return self.superlink

    def start_node(
        self,
        name: str,
        partition: int,
        partitions: int,
        config: Mapping[str, Any] | None = None,
        key: str | None = None,
        tls: bool = True,
        environment: Mapping[str, str] | None = None,
        namespace: str | None = None,
    ) -> Process:
        """Start a SuperNode that serves ``partition`` of ``partitions``; do not wait for it.

        Parameters
        ----------
        name : str
            Its name.
        partition, partitions : int
            Its partition, and their number.
        config : mapping or None
            Additions to its node config.
        key : str or None
            The node whose key it uses; None: its own.
        tls : bool
            Whether it uses TLS and a key, or neither.
        environment : mapping or None
            Additions to its environment.
        namespace : str or None
            The network namespace that it runs in; None: that of this process.
        """
        served: dict[str, Any] = {"partition-id": partition, "num-partitions": partitions}
        served |= config or {}
        own = {
            "SUPERLINK": self.address,
            "CA": str(self.certificates / "ca.crt"),
            "KEY": str(self.key(key or name)),
            "NODE_CONFIG": " ".join(f"{k}={json.dumps(v)}" for k, v in served.items()),
            "RUNTIME_PORT": str(free_port()),
            "FLWR_HOME": str(self.folder / name),
            **(environment or {}),
        }
        command = [str(HERE / "supernode.sh")]
        if not tls:
            command = [
                script("flower-supernode"), "--insecure", "--superlink", self.address,
                "--node-config", own["NODE_CONFIG"], "--port", own["RUNTIME_PORT"],
                "--isolation", "process",
            ]  # fmt: skip
        if namespace is not None:
            command = ["ip", "netns", "exec", namespace, *command]
        log = self.folder / "logs" / f"{name}.log"
        log.unlink(missing_ok=True)
        self.nodes[name] = Process(name, command, self._environment(**own), log)
        return self.nodes[name]

    def wait_for_nodes(self, *names: str, seconds: float = START_SECONDS) -> None:
        """Wait until the named nodes, by default all, have connected.

        Raises
        ------
        TimeoutError
            If one ended, or did not connect in time; the message contains the end of its log.
        """
        for name in names or self.nodes:
            self.nodes[name].wait_for(NODE_CONNECTED, seconds)

    # ---- keys -------------------------------------------------------------------------------

    def key(self, name: str) -> Path:
        """Return the path of a node's private key; make the key if it is missing."""
        path = self.folder / "keys" / name
        if not path.exists():
            _script("node_key.sh", str(path))
        return path

    def register(self, name: str) -> int:
        """Register a node's key, which is made if it is missing; return the node's id."""
        answer = self.flwr("supernode", "register", f"{self.key(name)}.pub", "--name", name)
        self.node_ids[name] = int(answer["node-id"])
        return self.node_ids[name]

    def unregister(self, name: str) -> None:
        """Revoke a node's key."""
        self.flwr("supernode", "unregister", str(self.node_ids.pop(name)))

    # ---- runs -------------------------------------------------------------------------------

    def submit(self, overrides: str) -> int:
        """Submit a run over TLS; return its id without waiting for its end."""
        run_config = self.folder / "run.toml"
        atomic_file(run_config, f"overrides = {json.dumps(overrides)}\n".encode())
        return int(self.flwr("run", str(self.app), run_config=str(run_config))["run-id"])

    def entry(self, run: int) -> dict[str, Any]:
        """Return the entry of ``flwr list``: status, status-details, network-traffic and more."""
        return dict(self.flwr("list", run_id=str(run))["runs"][0])

    def status(self, run: int) -> str:
        """Return a run's status, such as "running" or "finished:completed"."""
        return str(self.entry(run)["status"])

    def wait(self, run: int, seconds: float) -> str:
        """Wait for a run; return its final status, or its status after ``seconds``."""
        deadline = time.monotonic() + seconds
        while True:
            # Follow its log: asking for the status again and again would start many processes.
            self.log(run, max(0.0, deadline - time.monotonic()))
            status = self.status(run)
            if status.startswith("finished") or time.monotonic() > deadline:
                return status

    def log(self, run: int, seconds: float | None = None) -> str:
        """Return the output of a run's ServerApp so far.

        Parameters
        ----------
        run : int
            The run's id.
        seconds : float or None
            Wait so long for the end of the run; then, if it goes on, return "".
        """
        if seconds is None:
            return flwr("log", str(run), CONNECTION, "--show", environment=self.cli)
        follow = ("log", str(run), CONNECTION, "--stream")
        return flwr(*follow, environment=self.cli, seconds=seconds)

    def stop_run(self, run: int) -> None:
        """Ask Flower to stop a run."""
        self.flwr("stop", str(run))

    def flwr(self, *command: str, **options: str) -> dict[str, Any]:
        """Return the answer of Flower's CLI.

        Parameters
        ----------
        command : str
            The command and its arguments.
        options : str
            Options and their values.

        Raises
        ------
        DeploymentError
            If the SuperLink has ended, the command failed, or its answer cannot be read.
        """
        if self.superlink and self.superlink.poll() is not None:
            log = self.superlink.text()
            why = [line for line in log.splitlines() if line.startswith("superlink.sh: ")]
            raise DeploymentError(f"the SuperLink has ended: {why[-1] if why else log[-3000:]}")
        words = [
            w for k, v in options.items() for w in (f"--{k.replace('_', '-')}", v)
        ]  # fmt: skip
        # The connection must be the last positional argument; options may follow it.
        arguments, named = list(command), []
        if "--name" in arguments:
            at = arguments.index("--name")
            arguments, named = arguments[:at], arguments[at:]
        said = flwr(
            *arguments, CONNECTION, *named, *words, "--format", "json", environment=self.cli
        )
        try:
            answer = json.loads(said)
        except ValueError:
            answer = {"success": False, "error-message": said}
        if not answer.get("success", False):
            raise DeploymentError(f"flwr {' '.join(command)}: {answer.get('error-message', said)}")
        return dict(answer)

    # ---- end --------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop all runs, then the nodes and the SuperLink with all that they started."""
        if self.superlink and self.superlink.poll() is None:
            try:
                for run in self.flwr("list")["runs"]:
                    if not str(run["status"]).startswith("finished"):
                        self.stop_run(int(run["run-id"]))
                        self.wait(int(run["run-id"]), 10)
            except DeploymentError:
                pass  # it does not answer any more; it is stopped below
        processes = [*self.nodes.values(), *([self.superlink] if self.superlink else [])]
        with ThreadPoolExecutor() as at_once:
            list(at_once.map(Process.stop, processes))


@contextmanager
def deployment(
    folder: Path,
    nodes: int = 3,
    host: str = "127.0.0.1",
    database: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Deployment]:
    """Start a SuperLink and ``nodes`` registered SuperNodes, node-K with partition K of ``nodes``.

    Parameters
    ----------
    folder, host, database, environment
        See `Deployment`.
    nodes : int
        The number of nodes.

    Raises
    ------
    DeploymentError, TimeoutError
        If a part of it did not start; the message contains the end of its log.
    """
    with handled_by(interrupt):
        here = Deployment(folder, host, database, environment)
        try:
            here.start_superlink()
            for k in range(nodes):
                here.register(f"node-{k}")
                here.start_node(f"node-{k}", k, nodes)
            here.wait_for_nodes()
            yield here
        finally:
            here.stop()


def _script(name: str, *arguments: str, **environment: str) -> None:
    done = subprocess.run(
        [str(HERE / name), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DeploymentError(f"{name}: {done.stderr or done.stdout}")
