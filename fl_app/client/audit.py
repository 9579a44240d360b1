"""A node's audit log: who asked for what and when, and whether it was allowed. It holds no rows.

``STATE/audit.jsonl``, one JSON object a line, only ever appended to, of mode 600. It is opened for
every line, so that the operator may move it away at any time; nothing here removes it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flwr.app import ConfigRecord, Context, Message

from fl_app.client import disk
from fl_app.client.policy import RefusedError
from fl_app.config.aliases import OVERRIDES, given
from fl_app.wire.envelope import whom
from fl_app.wire.messages import CONFIG
from fl_app.wire.readers import PARTITION, ROUND

FILE = "audit.jsonl"
MOST = 2000  # characters of overrides
ACCEPTED, REFUSED, FAILED = "accepted", "refused", "failed"


def entry(message: Message, context: Context) -> dict[str, Any]:
    """Return who sent which message of which run."""
    aliases = [f"{key}={value}" for key, value in given(context.run_config).items()]
    overrides = " ".join([str(context.run_config.get(OVERRIDES, "")), *aliases]).strip()
    said: Mapping[str, Any] = whom(message)
    if not said and message.has_content():
        said = message.content.config_records.get(CONFIG, ConfigRecord())
    metadata = message.metadata
    return {
        "run": str(context.run_id),  # beyond what JSON's readers take for a whole number
        "server": str(metadata.src_node_id),
        "node": str(context.node_id),
        "message": metadata.message_type[:100],
        **{
            name: said[key]
            for name, key in (("client", PARTITION), ("round", ROUND))
            if isinstance(said.get(key), int)
        },
        "overrides_sha256": hashlib.sha256(overrides.encode()).hexdigest(),
        "overrides": overrides[:MOST],
    }


def append(
    context: Context, said: dict[str, Any], decision: str, error: Exception | None = None
) -> None:
    """Add a line: an `entry`, what was decided, and of a refusal the rule.

    Raises
    ------
    OSError
        If it cannot be written: then nothing may be done.
    """
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "decision": decision}
    if isinstance(error, RefusedError):
        line |= {"rule": error.rule, "key": error.key[:200]}
    elif error is not None:
        line |= {"error": type(error).__name__}
    folder = disk.state_dir(context)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(folder / FILE, flags, 0o600)
    try:
        os.write(descriptor, f"{json.dumps(line | said)}\n".encode())  # at once: lines stay whole
    finally:
        os.close(descriptor)
