"""Which node serves which client.

A client is a partition of the data. Flower's node ids are random, so every node is asked for its
``partition-id`` and ``num-partitions``; partition k is served by the node with
partition-id = k mod num-partitions, and with as many nodes as clients that is one each.
"""

import logging
import time

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fl_app.ledger import Transfer
from fl_app.records import message_bytes

logger = logging.getLogger("thinwire")


def find_clients(grid: Grid, clients: int, timeout: float) -> tuple[dict[int, int], list[Transfer]]:
    """Ask the connected nodes what they serve, until every partition has a node.

    Parameters
    ----------
    grid : Grid
        Flower's connection to the nodes.
    clients : int
        Partitions 0 to clients - 1 are looked for.
    timeout : float
        Seconds to wait for nodes to connect and answer.

    Returns
    -------
    nodes : dict
        Partition to node id; partitions without a node are missing, and a warning says so.
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
    transfers: list[Transfer] = []
    parts = 1
    while len(node_of) < parts and time.monotonic() < deadline:
        new = sorted(set(grid.get_node_ids()) - asked)
        if not new:
            time.sleep(0.2)
            continue
        asked |= set(new)
        questions = [Message(RecordDict(), node, MessageType.QUERY) for node in new]
        answers = grid.send_and_receive(questions, timeout=deadline - time.monotonic())
        for answer in answers:
            try:
                part, parts = _served(answer)
            except ValueError as error:
                logger.warning("a node did not say what it serves: %s", error)
                continue
            node_of[part] = answer.metadata.src_node_id
            transfers.append(
                Transfer(0, part, "down", "setup", message_bytes=message_bytes(questions[0]))
            )
            transfers.append(Transfer(0, part, "up", "setup", message_bytes=message_bytes(answer)))
    if not node_of:
        raise TimeoutError(
            f"no node answered within {timeout:.0f} s: start SuperNodes, or raise "
            "federation.node_timeout"
        )
    nodes = {k: node_of[k % parts] for k in range(clients) if k % parts in node_of}
    if len(nodes) < clients:
        logger.warning("clients without a node: %s", sorted(set(range(clients)) - set(nodes)))
    transfers.sort(key=lambda t: (t.partition, t.direction))
    return nodes, transfers


def _served(answer: Message) -> tuple[int, int]:
    """Return a node's partition-id and num-partitions; ValueError if it gave none that can be."""
    if answer.has_error():
        raise ValueError(answer.error.reason)
    record = answer.content.config_records.get("node", ConfigRecord())
    part, parts = record.get("partition-id"), record.get("num-partitions")
    if not isinstance(part, int) or not isinstance(parts, int) or not 0 <= part < parts:
        raise ValueError(f"partition-id={part!r}, num-partitions={parts!r}")
    return part, parts
