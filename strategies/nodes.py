"""Which node serves which client.

A client is a partition of the data. Flower's node ids are random, so every node is asked for its
``partition-id`` and ``num-partitions``; partition k is served by the node with
partition-id = k mod num-partitions, and with as many nodes as clients that is one each.

A node may lie. The first claim to a partition and the first num-partitions hold, so a node that
comes later cannot take over the clients of others.
"""

import logging
import time
from collections.abc import Sequence
from typing import cast

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fl_app.ledger import Transfer
from fl_app.node_data import PARTITION, PARTITIONS, ROWS
from fl_app.node_disk import CONTINUES
from fl_app.records import message_bytes
from fl_app.text import printable
from strategies.replies import reason

logger = logging.getLogger("thinwire")

MAX_PARTITIONS = 1_000_000
MAX_ROWS = 1_000_000_000


def find_clients(
    grid: Grid, clients: int, timeout: float, continues: Sequence[str] = ()
) -> tuple[dict[int, int], dict[int, int], list[Transfer]]:
    """Ask the connected nodes what they serve, until every partition has a node.

    Parameters
    ----------
    grid : Grid
        Flower's connection to the nodes.
    clients : int
        Partitions 0 to clients - 1 are looked for.
    timeout : float
        Seconds to wait for nodes to connect and answer.
    continues : sequence of str
        What nodes are told of the runs that this one continues, see ``fl_app.node_disk``.

    Returns
    -------
    nodes : dict
        Partition to node id; partitions without a node are missing, and a warning says so.
    rows : dict
        Partition to how many rows it has; empty unless the nodes say so, which they do where
        rows are private.
    transfers : list of Transfer
        The set-up messages.

    Raises
    ------
    TimeoutError
        If no node at all answered.
    """
    deadline = time.monotonic() + timeout
    node_of: dict[int, int] = {}  # partition-id -> node
    asked: set[int] = set()
    rows: dict[int, int] = {}
    transfers: list[Transfer] = []
    parts: int | None = None
    while (parts is None or len(node_of) < parts) and time.monotonic() < deadline:
        new = sorted(set(grid.get_node_ids()) - asked)
        if not new:
            time.sleep(0.2)
            continue
        asked |= set(new)
        questions = [_question(node, continues) for node in new]
        answers = grid.send_and_receive(questions, timeout=deadline - time.monotonic())
        for answer in answers:
            node = answer.metadata.src_node_id
            try:
                part, total = _served(answer)
                if parts not in (None, total):
                    raise ValueError(f"num-partitions={total}, where others have {parts}")
                if part in node_of:
                    raise ValueError(f"partition-id={part}, which node {node_of[part]} has")
                rows |= _rows(answer, range(part, clients, total))
            except ValueError as error:
                logger.warning(
                    "node %d is left out, for what it says it serves: %s", node, printable(error)
                )
                continue
            parts, node_of[part] = total, node
            transfers.append(
                Transfer(0, part, "down", "setup", message_bytes=message_bytes(questions[0]))
            )
            transfers.append(Transfer(0, part, "up", "setup", message_bytes=message_bytes(answer)))
    if parts is None:
        raise TimeoutError(
            f"no node answered within {timeout:.0f} s: start SuperNodes, or raise "
            "federation.node_timeout"
        )
    nodes = {k: node_of[k % parts] for k in range(clients) if k % parts in node_of}
    if len(nodes) < clients:
        logger.warning("clients without a node: %s", sorted(set(range(clients)) - set(nodes)))
    transfers.sort(key=lambda t: (t.partition, t.direction))
    return nodes, rows, transfers


def _question(node: int, continues: Sequence[str]) -> Message:
    content = RecordDict()
    if continues:
        content["config"] = ConfigRecord({CONTINUES: [*continues]})
    return Message(content, node, MessageType.QUERY)


def _served(answer: Message) -> tuple[int, int]:
    """Return a node's partition-id and num-partitions; ValueError if it gave none that can be."""
    if answer.has_error():
        raise ValueError(reason(answer))
    record = answer.content.config_records.get("node", ConfigRecord())
    part, parts = record.get(PARTITION), record.get(PARTITIONS)
    if not isinstance(part, int) or not isinstance(parts, int):
        raise ValueError(f"partition-id={part!r}, num-partitions={parts!r} are no integers")
    if not 0 <= part < parts <= MAX_PARTITIONS:
        raise ValueError(f"partition-id={part}, num-partitions={parts} are out of range")
    return part, parts


def _rows(answer: Message, partitions: range) -> dict[int, int]:
    """Return how many rows each of a node's partitions has; ValueError if that cannot be."""
    said = answer.content.config_records["node"].get(ROWS)
    if said is None:
        return {}
    if (
        not isinstance(said, list)
        or len(said) != len(partitions)
        or not all(isinstance(n, int) and 0 <= n <= MAX_ROWS for n in said)
    ):
        raise ValueError(f"rows={said!r} are not a number for each of {len(partitions)} partitions")
    return dict(zip(partitions, cast(list[int], said), strict=True))
