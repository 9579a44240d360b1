"""The server's half of patches: what is sent to a node once, before it trains.

The client's half is ``fl_app.client.patches``.
"""

import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from flwr.serverapp import Grid

from fl_app.server.ask import ask
from fl_app.server.replies import reason
from fl_app.server.round import RoundFailedError, left_out
from fl_app.session import Session
from fl_app.tree import Tree, scalars
from fl_app.wire import former
from fl_app.wire.ledger import Kind, Ledger, Transfer
from fl_app.wire.patch import encode_patch, patch_message, patch_name
from fl_app.wire.records import message_bytes


@runtime_checkable
class Patching(Protocol):
    """An inner strategy whose rounds change the frozen weights too."""

    def take_patch(self) -> Tree:
        """Return what the last ``aggregate_train`` adds to the frozen weights."""


@dataclass
class Patch:
    """A patch as it travels, and its row in the ledger but for who gets it."""

    frame: bytes
    rank: int
    row: Transfer


@dataclass
class Patches:
    """Makes, applies and sends patches; every node gets each one once, in order.

    Parameters
    ----------
    session : Session
        Whose model the server itself patches.
    ledger : Ledger
        Gets a row per transfer.
    delivered : dict
        Node to how many patches it has.
    had : dict
        Client to how many it had when the run was stopped that goes on here.
    """

    session: Session
    ledger: Ledger
    made: list[Patch] = field(default_factory=list)
    delivered: dict[int, int] = field(default_factory=dict)
    had: dict[int, int] = field(default_factory=dict)

    def add(self, tree: Tree, kind: Kind) -> None:
        """Code a patch as a model on its way down is, and apply what arrives of it.

        One of rank 0 changes nothing and is not sent.

        Parameters
        ----------
        tree : Tree
            Begins with a module's B [out, rank]; the rank is the same of all modules.

        Raises
        ------
        ValueError
            If nodes would refuse its rank.
        """
        rank = next(iter(tree.values())).shape[1]
        if rank == 0:
            return
        here = self.session
        most = here.max_rank
        if rank > most:
            raise ValueError(f"a patch of rank {rank}, nodes take none above {most}")
        began = time.perf_counter()
        wire, frame, arriving = encode_patch(tree, here.down, here.manifest, here.cfg.seed)
        row = Transfer(0, 0, "down", kind, encode_s=time.perf_counter() - began)
        row.carries(here.down.spec, scalars(tree), wire.nbytes, len(frame))
        here.patch(arriving, patch_name(frame))
        self.made.append(Patch(frame, rank, row))

    def state(self, nodes: dict[int, int]) -> dict[str, Any]:
        """Return what `restore` needs: the patches, and how many each client has had.

        ``nodes`` are client to node.
        """
        made = [[patch.frame, patch.rank, asdict(patch.row)] for patch in self.made]
        had = self.had | {k: self.delivered[n] for k, n in nodes.items() if n in self.delivered}
        return {"made": made, "had": [[client, count] for client, count in had.items()]}

    def restore(self, state: dict[str, Any]) -> None:
        """Apply the patches of ``state`` again; nodes get them anew, as part of their set-up."""
        here = self.session
        self.had = dict(state["had"])
        for kept, rank, row in state["made"]:
            frame = bytes(former.today(kept))  # nodes read no earlier version
            here.patch(here.decoded_patch(frame, rank), patch_name(frame))
            self.made.append(Patch(frame, rank, Transfer(**row | {"frame_bytes": len(frame)})))

    def forget(self, node: int) -> None:
        """Send all patches again: a node that failed may have lost them."""
        self.delivered.pop(node, None)

    def bring_up_to_date(
        self, grid: Grid, nodes: dict[int, int], server_round: int, timeout: float
    ) -> list[int]:
        """Send the nodes of a round's clients what they lack; return the clients that have all.

        Raises
        ------
        RoundFailedError
            If that is nobody.
        """
        failed = self.deliver(grid, nodes, server_round, timeout)
        for client, why in failed.items():
            left_out(server_round, client, why)
        ready = [client for client in nodes if client not in failed]
        if not ready:
            raise RoundFailedError(
                f"no client of round {server_round} could be brought up to date:\n  "
                + "\n  ".join(f"client {client}: {why}" for client, why in failed.items())
            )
        return ready

    def deliver(
        self, grid: Grid, nodes: dict[int, int], server_round: int, timeout: float
    ) -> dict[int, str]:
        """Send the nodes of some clients what they lack.

        Parameters
        ----------
        nodes : dict
            Client to node.
        timeout : float
            Seconds to wait for the answers to one patch.

        Returns
        -------
        reasons : dict
            Client to why its node could not be brought up to date.
        """
        client_of = {node: client for client, node in sorted(nodes.items(), reverse=True)}
        failed: dict[int, str] = {}
        clients = self.session.cfg.federation.clients

        def known(client: int) -> int | None:  # with federation.sampling=nodes it is a node's id
            return client if client < clients else None

        for number, patch in enumerate(self.made):
            questions = [
                patch_message(node, number, patch.rank, known(client), patch.frame)
                for node, client in sorted(client_of.items(), key=lambda pair: pair[1])
                if self.delivered.get(node, 0) == number and node not in failed
            ]
            rows: list[Transfer] = []
            for question, reply in ask(grid, questions, timeout):
                node = question.metadata.dst_node_id
                client = client_of[node]
                kind = "setup" if number < self.had.get(client, 0) else patch.row.kind
                row = replace(patch.row, round=server_round, partition=client, kind=kind)
                rows.append(down := replace(row, message_bytes=message_bytes(question)))
                if reply is None:
                    failed[node] = "it did not answer in time"
                    down.lose(failed[node])
                    continue
                answered = Transfer(row.round, row.partition, "up", row.kind)
                rows.append(replace(answered, message_bytes=message_bytes(reply)))
                if reply.has_error():
                    failed[node] = reason(reply)
                    down.lose(failed[node])
                    self.forget(node)
                else:
                    self.delivered[node] = number + 1
            self.ledger.add(rows)
        return {client: failed[node] for client, node in nodes.items() if node in failed}
