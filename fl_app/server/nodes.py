"""Which node serves which client.

A client is a partition of the data. Flower's node ids are random, so every node is asked for its
``partition-id`` and ``num-partitions``; it claims the clients k with
k mod num-partitions = partition-id.

A node may lie. How many clients it may have is not its own say: one in a deployment, unless
``federation.clients_per_node`` lists more; a claim to more is refused as a whole. The first claim
to a client holds, so a node that comes later cannot take over the clients of others; that an
earlier one takes the place of an honest one, with its own, is stopped by naming who serves whom in
``federation.clients_per_node``.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.superlink.grid import InMemoryGrid

from fl_app.codecs import WireError
from fl_app.faults.printable import printable
from fl_app.server.mailbox import batches, pause
from fl_app.server.replies import check_kept, reason
from fl_app.wire import readers
from fl_app.wire.envelope import read_claim
from fl_app.wire.ledger import Transfer
from fl_app.wire.messages import CONTINUES, NODE, PARTITION, PARTITIONS, ROWS
from fl_app.wire.records import message_bytes

logger = logging.getLogger("thinwire")

MAX_PARTITIONS = 1_000_000
MAX_ROWS = 1_000_000_000

PerNode = int | Mapping[Any, Any] | None  # federation.clients_per_node


@dataclass
class Found:
    """Who serves whom.

    Attributes
    ----------
    nodes : dict
        Client to node id.
    rows : dict
        Client to how many rows it has; empty unless the nodes say so, which they do where rows are
        private.
    transfers : list of Transfer
        The set-up messages.
    """

    nodes: dict[int, int] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    transfers: list[Transfer] = field(default_factory=list)


class Limits:
    """How many clients a node may serve, and which.

    Parameters
    ----------
    clients : int
        Clients of the run, 0 to clients - 1.
    per_node : PerNode
        The most that any node may have; or, by node id, the most or the list of those that this
        node has and no other; None for one each.
    """

    def __init__(self, clients: int, per_node: PerNode = None) -> None:
        self.clients = clients
        self.most = per_node if isinstance(per_node, int) else 1
        listed = per_node if isinstance(per_node, Mapping) else {}
        self.numbers = {int(n): int(x) for n, x in listed.items() if isinstance(x, int)}
        self.pinned = {
            int(n): sorted(map(int, x)) for n, x in listed.items() if not isinstance(x, int)
        }
        self.owner = {client: node for node, those in self.pinned.items() for client in those}

    def check(self, node: int, part: int, parts: int) -> range:
        """Return the clients that a node claims.

        Raises
        ------
        WireError
            If it may not have them.
        """
        claimed, said = range(part, self.clients, parts), f"{PARTITION}={part} of {parts}"
        if node in self.pinned and list(claimed) != self.pinned[node]:
            raise WireError(
                f"{said}, federation.clients_per_node lists clients {self.pinned[node]} for it"
            )
        most = len(self.pinned[node]) if node in self.pinned else self.numbers.get(node, self.most)
        if len(claimed) > most:
            raise WireError(
                f"{said} is a claim to {len(claimed)} clients, it may have {most}: see "
                "federation.clients_per_node, or start one SuperNode per client"
            )
        for client in claimed:
            if self.owner.get(client, node) != node:
                raise WireError(
                    f"{said}, federation.clients_per_node lists client {client} for node "
                    f"{self.owner[client]}"
                )
        return claimed


def find_clients(
    grid: Grid,
    clients: int,
    timeout: float,
    continues: Sequence[str] = (),
    per_node: PerNode = None,
    private: bool = False,
) -> Found:
    """Ask the connected nodes what they serve, until every client has a node.

    Parameters
    ----------
    grid : Grid
        Flower's connection to the nodes.
    clients : int
        Clients 0 to clients - 1 are looked for.
    timeout : float
        Seconds to wait for nodes to connect and answer.
    continues : sequence of str
        What nodes are told of the runs that this one continues, see ``fl_app.client.disk``.
    per_node : PerNode
        See `Limits`; None for one client each, and in a simulation for as many as it takes.
    private : bool
        Whether nodes have to say how many rows they have.

    Returns
    -------
    found : Found
        Clients without a node are missing, and a warning says so.

    Raises
    ------
    TimeoutError
        If no node can be used.
    """
    if per_node is None and isinstance(grid, InMemoryGrid):  # a simulation: nobody else's nodes
        per_node = clients
    limits, found, refused = Limits(clients, per_node), Found(), 0
    for node, question, answer in _answers(grid, timeout, continues, found, clients):
        try:
            part, claimed, rows = _claim(answer, limits, node, private)
            for client in claimed:
                if client in found.nodes:
                    raise WireError(
                        f"{PARTITION}={part}, client {client} is node {found.nodes[client]}'s"
                    )
        except WireError as error:
            logger.warning(
                "node %d is left out, for what it says it serves: %s", node, printable(error)
            )
            refused += 1
            continue
        found.nodes |= dict.fromkeys(claimed, node)
        found.rows |= rows
        down, up = message_bytes(question), message_bytes(answer)
        found.transfers.append(Transfer(0, part, "down", "setup", message_bytes=down))
        found.transfers.append(Transfer(0, part, "up", "setup", message_bytes=up))
    if not found.nodes:
        raise TimeoutError(
            f"no node serves a client: {refused} were left out, for the reasons above; where they "
            f"had no time to start, raise federation.node_timeout={timeout:g} seconds"
            if refused
            else f"no node answered within {timeout:.0f} s: start SuperNodes, or raise "
            "federation.node_timeout"
        )
    if len(found.nodes) < clients:
        missing = sorted(set(range(clients)) - set(found.nodes))
        logger.warning(
            "clients without a node: %s, after federation.node_timeout=%g seconds", missing, timeout
        )
    found.transfers.sort(key=lambda t: (t.partition, t.direction))
    return found


def _answers(
    grid: Grid, timeout: float, continues: Sequence[str], found: Found, clients: int
) -> Iterator[tuple[int, Message, Message]]:
    """Ask every node as it connects; yield node, question and answer, of each node once.

    Nobody waits for a node that is silent, once all clients are found; but in a simulation all
    nodes answer, and all their messages are in the ledger.
    """
    everyone = isinstance(grid, InMemoryGrid)
    began = time.monotonic()
    asked: set[int] = set()
    waiting: dict[str, tuple[int, Message]] = {}
    while True:
        new = [_question(node, continues) for node in sorted(set(grid.get_node_ids()) - asked)]
        for few in batches(new):
            grid.push_messages(few)
        for question in new:
            asked.add(question.metadata.dst_node_id)
            waiting[question.metadata.message_id] = question.metadata.dst_node_id, question
        arrived = [reply for few in batches([*waiting]) for reply in grid.pull_messages(few)]
        for reply in arrived:
            check_kept(grid, reply)
            # Whose it is says the question: a reply may name any node as its sender.
            if (pair := waiting.pop(reply.metadata.reply_to_message_id, None)) is not None:
                yield *pair, reply
        waited = time.monotonic() - began
        if waited >= timeout or (len(found.nodes) == clients and not (everyone and waiting)):
            return
        if not arrived:
            time.sleep(min(pause(waited), timeout - waited))


def _question(node: int, continues: Sequence[str]) -> Message:
    content = RecordDict()
    if continues:
        content["config"] = ConfigRecord({CONTINUES: [*continues]})
    return Message(content, node, MessageType.QUERY)


def _claim(
    answer: Message, limits: Limits, node: int, private: bool
) -> tuple[int, range, dict[int, int]]:
    """Return a node's partition-id, the clients that it may have for it, and their rows.

    Raises
    ------
    WireError
        If it gave none that can be, or claims what it may not have.
    """
    if answer.has_error():
        raise WireError(reason(answer))
    said = read_claim(answer.metadata.group_id)
    parts = readers.integer(said, PARTITIONS, 1, MAX_PARTITIONS)
    part = readers.integer(said, PARTITION, 0, parts - 1)
    claimed = limits.check(node, part, parts)
    if not private:
        return part, claimed, {}
    rows = readers.integers(readers.record(answer, NODE), ROWS, 1, MAX_ROWS, len(claimed))
    return part, claimed, dict(zip(claimed, rows, strict=True))
