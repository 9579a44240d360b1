"""Rounds of a method's two halves on small Trees, in one process and without codecs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from fl_app.aggregation.inner import Cohort
from fl_app.training.local import Answer, Assignment, LocalMethod, Trained
from fl_app.training.loop import Hooks
from fl_app.tree import Tree, zeros
from fl_app.wire.messages import FORM

Turn = Callable[[int, Tree], Tree]
"""``turn(client, x)`` returns y: what a client makes of the model in its turn."""
Lossy = Callable[[str, str, Tree], Tree]
"""``lossy(form, part, tree)`` returns what arrives of a part on its way to the server."""


class Parameters(torch.nn.Module):
    """A Tree as a module."""

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        for name, x in tree.items():
            self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(x.copy())))

    @property
    def tree(self) -> Tree:
        return {name: p.detach().numpy().copy() for name, p in self.named_parameters()}


class Federation:
    """Clients that do ``turn``, and what is remembered of them."""

    def __init__(
        self,
        strategy: Strategy,
        method: LocalMethod,
        turn: Turn,
        theta0: Tree,
        clients: int,
        lossy: Lossy = lambda form, part, tree: tree,
    ) -> None:
        self.strategy, self.method, self.turn, self.lossy = strategy, method, turn, lossy
        self.theta0 = theta0
        self.x = ArrayRecord({n: Array(x) for n, x in theta0.items()})
        self.memory = {k: method.start(theta0) for k in range(clients)}
        self.answers: dict[int, Answer] = {}
        self.given: dict[int, Assignment] = {}
        self.arrived: dict[int, dict[str, Tree]] = {}

    def round(
        self, number: int, clients: Iterable[int] | None = None, lost: Iterable[int] = ()
    ) -> Tree:
        """Run a round with ``clients`` (None: all), of which the replies of ``lost`` get lost."""
        cohort = Cohort(sorted(self.memory if clients is None else clients))
        self.answers, self.given, self.arrived, replies = {}, {}, {}, []
        for message in list(self.strategy.configure_train(number, self.x, ConfigRecord(), cohort)):
            client, content = message.metadata.dst_node_id, message.content
            parts = {
                "model" if p == "arrays" else p: {n: x.numpy() for n, x in record.items()}
                for p, record in content.array_records.items()
            }
            (config,) = content.config_records.values()
            said = {key: config[key] for key in self.method.config_keys if key in config}
            answer = self.client(client, number, parts, str(config.get(FORM, "default")), said)
            if client in lost:
                continue
            self.memory[client] = answer.remember(self.arrived[client])
            content = {
                "arrays" if p == "model" else p: ArrayRecord({n: Array(x) for n, x in t.items()})
                for p, t in self.arrived[client].items()
            }
            metrics = MetricRecord({**answer.metrics, "one": 1.0})
            replies.append(Message(RecordDict({**content, "metrics": metrics}), reply_to=message))
        self.x = self.strategy.aggregate_train(number, replies)[0]
        return self.model

    def client(
        self, client: int, number: int, parts: dict[str, Tree], form: str, said: dict[str, object]
    ) -> Answer:
        """Do a client's turn."""
        model = Parameters(parts.get("model", self.theta0))

        def train(hooks: Hooks) -> Trained:
            return Trained(self.trained(client, model, hooks), {"num-examples": 1, "loss": 0.0})

        def decoded(sent: Mapping[str, Tree]) -> dict[str, Tree]:
            return {p: self.lossy(form, p, t) for p, t in sent.items()}

        given = Assignment(
            parts, self.theta0, self.memory[client], said, form, client, number,
            seed=1000 * number + client, model=model, rows=lambda: None, train=train,
            decoded=decoded,
        )  # fmt: skip
        answer = self.method.run(given)
        self.given[client], self.answers[client] = given, answer
        self.arrived[client] = decoded(answer.parts)
        return answer

    def trained(self, client: int, model: Parameters, hooks: Hooks) -> Tree:
        """Return what the local loop makes of the model; this one ignores hooks."""
        return self.turn(client, model.tree)

    @property
    def model(self) -> Tree:
        return {n: x.numpy() for n, x in self.x.items()}


class Quadratics:
    """Clients that do one step of SGD on a_i/2 |x - b_i|^2."""

    def __init__(self, theta0: Tree, clients: int, seed: int = 0, lr: float = 0.1) -> None:
        rng = np.random.default_rng(seed)
        self.lr, self.clients = lr, clients
        self.a = [{n: rng.uniform(0.5, 2, x.shape) for n, x in theta0.items()}] * clients
        self.b = [{n: rng.normal(0, 3, x.shape) for n, x in theta0.items()} for _ in self.a]

    def gradient(self, client: int, x: Tree) -> Tree:
        """Return lr times the client's gradient: the change of its turn."""
        a, b = self.a[client], self.b[client]
        return {n: np.asarray(self.lr * a[n] * (x[n] - b[n]), np.float32) for n in x}

    def __call__(self, client: int, x: Tree) -> Tree:
        return {n: np.asarray(x[n] - g) for n, g in self.gradient(client, x).items()}

    def mean_gradient(self, x: Tree) -> Tree:
        """Return the mean of all clients' gradients, in float64."""
        found = zeros(x)
        gradients = [self.gradient(k, x) for k in range(self.clients)]
        return {n: np.mean([g[n] for g in gradients], axis=0, dtype=float) for n in found}
