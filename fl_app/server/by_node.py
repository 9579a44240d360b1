"""Nodes where nobody is asked before round 1: ``federation.sampling=nodes``.

A node's id stands for its client until its first reply says which that is.
"""

import time

from flwr.serverapp import Grid

from fl_app.codecs import WireError
from fl_app.server.mailbox import pause
from fl_app.wire import readers
from fl_app.wire.messages import PARTITION


def connected(grid: Grid, least: int, timeout: float) -> list[int]:
    """Return the ids of the connected nodes, in order, once there are ``least`` or time is up.

    Raises
    ------
    TimeoutError
        If there is none by then.
    """
    began = time.monotonic()
    while True:
        nodes = sorted(grid.get_node_ids())
        waited = time.monotonic() - began
        if len(nodes) >= least or (nodes and waited >= timeout):
            return nodes
        if waited >= timeout:
            raise TimeoutError(
                f"no node connected within {timeout:.0f} s: start SuperNodes, or raise "
                "federation.node_timeout"
            )
        time.sleep(min(pause(waited), timeout - waited))


class Claims:
    """Which client each node says it is, where nobody was asked beforehand.

    Parameters
    ----------
    clients : int
        Clients of the run, 0 to clients - 1.
    """

    def __init__(self, clients: int) -> None:
        self.clients = clients
        self._client_of: dict[int, int] = {}
        self._node_of: dict[int, int] = {}

    def get(self, node: int) -> int:
        """Return the client that a node has said it is; its own id if it has said none."""
        return self._client_of.get(node, node)

    def check(self, node: int, said: readers.Said) -> int:
        """Return the client that a reply says its node is, and keep it.

        Raises
        ------
        WireError
            If it is none of the run, the node was another before, or another node was it.
        """
        client = readers.integer(said, PARTITION, 0, self.clients - 1)
        if (before := self._client_of.setdefault(node, client)) != client:
            raise WireError(f"{PARTITION}={client}, and it was {before} before")
        if (owner := self._node_of.setdefault(client, node)) != node:
            del self._client_of[node]
            raise WireError(f"{PARTITION}={client}, which is node {owner}'s")
        return client
