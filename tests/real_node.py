"""A node with a policy, not marked as simulated, that answers messages; and the files it opens."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl_app.client_app import app
from tests import small
from tests.loopback import over_the_wire

NODES = 3
PLAIN = (
    "federation.clients=3 strategy=fedavg codec=fp32 clients_per_round=3 "
    "evaluate_clients_per_round=3 rounds=1 local_epochs=1"
)
WORDS = f"{small.DATA} {PLAIN}"
MARKER = "never-named-by-a-run"
_opened: list[str] | None = None


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event in ("open", "os.listdir", "os.scandir"):
        _opened.append(str(arguments[0]))


sys.addaudithook(_hook)


@contextmanager
def opened() -> Iterator[list[str]]:
    """Collect the name of every file and folder that this process opens."""
    global _opened
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


class Node:
    """One node with a policy, whose state on disk outlives its processes.

    Parameters
    ----------
    folder : Path
        For its policy and state.
    overrides : str
        Those of the run.
    policy
        The content of its policy file.
    """

    def __init__(self, folder: Path, overrides: str = WORDS, **policy: object) -> None:
        folder.mkdir(exist_ok=True)
        path = folder / "policy.yaml"
        path.write_text(yaml.safe_dump(policy))
        path.chmod(0o600)
        self.state, self.overrides = folder / "state", overrides
        self.config = {
            "partition-id": 0, "num-partitions": NODES, "policy": str(path),
            "state-dir": str(self.state),
        }  # fmt: skip

    def answer(self, message: Message, run: int = 7) -> Message:
        """Answer with a new Flower Context, as a new process would."""
        context = Context(run, 5, dict(self.config), RecordDict(), {"overrides": self.overrides})
        return over_the_wire(app(over_the_wire(message), context))

    def refusal(self, message: Message, run: int = 7) -> str:
        """Return why the message was refused, without the fault's number; "" if it was accepted."""
        reply = self.answer(message, run)
        return reply.error.reason.partition(" (fault")[0] if reply.has_error() else ""

    def audit(self) -> list[dict]:
        """Return the entries of the audit log."""
        return [json.loads(line) for line in (self.state / "audit.jsonl").read_text().splitlines()]


def question(kind: str = MessageType.QUERY, **config: object) -> Message:
    """Return a message of the server with this config."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    message = Message(RecordDict({"config": ConfigRecord(config)}), 5, kind)
    message.metadata.__dict__["_message_id"] = "m"
    return message
