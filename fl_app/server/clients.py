"""The clients of a run, and the nodes that serve them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from flwr.serverapp import Grid

from fl_app.aggregation.sampling import SAMPLERS
from fl_app.config import plain
from fl_app.privacy import is_example_level
from fl_app.progress.events import say
from fl_app.secure_aggregation.settings import is_on as is_secure
from fl_app.seeds import turn_seed
from fl_app.server.by_node import Claims, connected
from fl_app.server.nodes import find_clients
from fl_app.server.round import RoundFailedError, left_out
from fl_app.session import Session
from fl_app.wire.ledger import Kind, Ledger, short_name
from fl_app.wire.messages import BY_NODE


@dataclass
class Clients:
    """Who serves whom, asked once.

    Attributes
    ----------
    nodes : dict
        Client to node.
    rows : dict
        Client to how many rows it has, where that is told: with example-level privacy.
    continues : list of str
        Ids of the runs that this one continues, for nodes to find what was remembered.
    absent : dict
        Client that no round can ask, to why.
    claims : Claims or None
        With ``federation.sampling=nodes``, where nobody is asked and a node's id stands for its
        client, which node is which; else None.
    """

    session: Session
    ledger: Ledger
    nodes: dict[int, int] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    continues: list[str] = field(default_factory=list)
    absent: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cfg = self.session.cfg.federation
        self.by_node = cfg.sampling == BY_NODE
        self.claims = Claims(cfg.clients) if self.by_node else None

    def find(self, grid: Grid, rounds_done: int = 0) -> None:
        """Ask the nodes what they serve, once; TimeoutError if none answers."""
        cfg = self.session.cfg.federation
        if not self.nodes:
            say(f"waiting for the nodes of {cfg.clients} clients")
        if self.by_node:
            self._check_shared()
            least = 1 if self.nodes else cfg.clients
            self.nodes = {node: node for node in connected(grid, least, cfg.node_timeout)}
        if self.nodes:
            return
        private = is_example_level(self.session.cfg)
        continues = self.continues if self.session.remembers or private else []
        found = find_clients(
            grid, cfg.clients, cfg.node_timeout, continues, plain(cfg.clients_per_node),
            private=private,
        )  # fmt: skip
        self.nodes = found.nodes
        self.rows |= found.rows
        self.absent = {k: "no node serves it" for k in range(cfg.clients) if k not in self.nodes}
        # Of a run that goes on, nodes are asked again; what that costs is its next round's.
        at = rounds_done + 1 if rounds_done else 0
        self.ledger.add(replace(row, round=at) for row in found.transfers)
        self._check_shared()

    def sample(self, count: int, server_round: int, kind: Kind) -> list[int]:
        """Return the clients of a round, in order.

        Raises
        ------
        RoundFailedError
            If fewer have a node.
        """
        cfg, available = self.session.cfg, sorted(self.nodes)
        if len(available) < count:
            raise RoundFailedError(
                f"round {server_round} needs {count} clients, only {available} have a node"
            )
        # Evaluation draws from a stream of its own: not just those who have trained this round.
        seed = cfg.seed if kind == "train" else turn_seed(cfg.seed, 0, 0)
        draw = SAMPLERS[cfg.strategy.sampler]
        # Of places in the list: ids of nodes are beyond what numpy takes for whole numbers.
        drawn = draw(range(len(available)), count, seed, server_round)
        return [available[place] for place in drawn]

    def leave_out(self, clients: Mapping[int, str], server_round: int) -> None:
        """Ask these clients for nothing in this run, each for a reason."""
        for client, why in clients.items():
            left_out(server_round, client, why)
            self.absent[client] = why
            self.nodes.pop(client)
            self.rows.pop(client, None)

    def _check_shared(self) -> None:
        """Refuse nodes that hold several clients, where two of them work at once and remember.

        Flower would keep the state of only one.
        """
        here = self.session
        if self.by_node and here.remembers:
            raise RoundFailedError(
                f"strategy.local remembers something of each client, and federation.sampling="
                f"{BY_NODE} does not know them: set it to partitions"
            )
        if len({*self.nodes.values()}) == len(self.nodes):
            return
        if is_secure(here.cfg):
            why = "secure aggregation keeps secrets between messages"
        elif here.remembers and here.cfg.clients_per_round > 1:
            ups = {short_name(form.up.whole.spec) for form in here.forms.values()}
            why = f"codec.up={', '.join(sorted(ups))} or strategy.local remembers"
            if not here.method_remembers:
                why = f"codec.up={', '.join(sorted(ups))} remembers"
        else:
            return
        raise RoundFailedError(
            f"{why}, and clients share nodes: start one SuperNode per client, as make run does, or "
            "flwr run with "
            f'--federation-config "num-supernodes={here.cfg.federation.clients}"'
        )
