"""SCAFFOLD: the invariants of both halves, on quadratics that no two clients agree on."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from fl_app.aggregation.inner import EVERYONE, Cohort
from fl_app.training.local import Answer, Assignment, LocalMethod, Trained
from fl_app.training.loop import Hooks
from strategies.scaffold import CONTROL, Scaffold, ScaffoldClient

EPS = float(np.finfo(np.float32).eps)
N = 5


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


class Quadratics:
    """Clients that minimise a_i/2 |x - b_i|^2 with SGD, and the optimum of their mean."""

    def __init__(self, seed: int, steps: int, lr: float, size: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.a = rng.uniform(0.5, 2.0, (N, size)).astype(np.float32)
        self.b = rng.normal(0, 3, (N, size)).astype(np.float32)
        self.steps, self.lr = steps, lr
        self.best = (self.a * self.b).sum(0) / self.a.sum(0)

    def loop(self, client: int, start: dict[str, np.ndarray]):
        def train(hooks: Hooks) -> Trained:
            model = torch.nn.Module()
            model.x = torch.nn.Parameter(torch.from_numpy(start["x"].copy()))
            optimizer = torch.optim.SGD(model.parameters(), lr=self.lr)
            a, b = torch.from_numpy(self.a[client]), torch.from_numpy(self.b[client])
            for begin in hooks.starts:
                begin(model, self.steps)
            for _ in range(self.steps):
                optimizer.zero_grad()
                (0.5 * a * (model.x - b) ** 2).sum().backward()
                for hook in hooks.gradients:
                    hook(model)
                optimizer.step()
                for hook in hooks.steps:
                    hook(model, self.lr)
            return Trained({"x": model.x.detach().numpy()}, {"num-examples": 1, "loss": 0.0})

        return train


class Federation:
    """Rounds of a strategy and a local method; ``lossy`` is what a codec makes of a reply."""

    def __init__(self, strategy, method: LocalMethod, problem: Quadratics, lossy=lambda x: x):
        self.strategy, self.method, self.problem, self.lossy = strategy, method, problem, lossy
        theta0 = {"x": np.zeros_like(problem.b[0])}
        self.x = ArrayRecord({"x": Array(theta0["x"])})
        self.theta0 = theta0
        self.memory = {k: method.start(theta0) for k in range(N)}
        self.answers: dict[int, Answer] = {}

    def decoded(self, parts):
        return {
            part: tree if part == "model" else {k: self.lossy(v) for k, v in tree.items()}
            for part, tree in parts.items()
        }

    def round(self, number: int, clients: list[int], lost: frozenset[int] = frozenset()) -> None:
        messages = self.strategy.configure_train(number, self.x, ConfigRecord(), Cohort(clients))
        replies = []
        for message in messages:
            client = message.metadata.dst_node_id
            records = message.content.array_records
            parts = {n: {k: v.numpy() for k, v in r.items()} for n, r in records.items()}
            parts["model"] = parts.pop("arrays")
            given = Assignment(
                parts, self.theta0, self.memory[client], {}, "default", client, number, 0,
                model=torch.nn.Module(), rows=lambda: None,
                train=self.problem.loop(client, parts["model"]), decoded=self.decoded,
            )  # fmt: skip
            answer = self.method.run(given)
            sent = self.decoded(answer.parts)
            self.answers[client] = answer
            if client in lost:
                continue
            self.memory[client] = answer.remember(sent)
            if not sent:
                continue
            content = {
                "arrays" if p == "model" else p: ArrayRecord({k: Array(v) for k, v in t.items()})
                for p, t in sent.items()
            }
            metrics = MetricRecord({**answer.metrics, "one": 1.0})
            replies.append(Message(RecordDict({**content, "metrics": metrics}), reply_to=message))
        self.x = self.strategy.aggregate_train(number, replies)[0]

    @property
    def model(self) -> np.ndarray:
        return self.x["x"].numpy()


def scaffold(problem: Quadratics, lossy=lambda x: x) -> Federation:
    return Federation(Scaffold(clients=N, **EVERYONE), ScaffoldClient(), problem, lossy)


def sampled(number: int, count: int) -> list[int]:
    return sorted(np.random.default_rng(number).choice(N, count, replace=False).tolist())


def test_it_finds_the_optimum_where_fedavg_stays_away() -> None:
    problem = Quadratics(seed=0, steps=10, lr=0.1)
    ours = scaffold(problem)
    plain = Federation(FedAvg(weighted_by_key="one", **EVERYONE), LocalMethod(), problem)
    for number in range(1, 200):
        clients = sampled(number, 3)
        ours.round(number, clients)
        plain.round(number, [*range(N)])  # even with everyone in every round
    scale = float(np.abs(problem.b).max())
    assert np.abs(ours.model - problem.best).max() < 100 * EPS * scale
    assert np.abs(plain.model - problem.best).max() > 0.01 * scale


@pytest.mark.parametrize("lossy", [lambda x: x, lambda x: np.sign(x) * np.abs(x).mean()])
def test_c_is_the_mean_of_all_c_i_whoever_took_part_and_whatever_the_codec_lost(lossy) -> None:
    here = scaffold(Quadratics(seed=1, steps=3, lr=0.05), lossy)
    for number in range(1, 12):
        clients = sampled(number, 2)
        here.round(number, clients, lost=frozenset(clients[:1]) if number % 3 == 0 else frozenset())
        c_i = np.array([here.memory[k]["x"] for k in range(N)], np.float64)
        bound = number * EPS * np.abs(c_i).sum(0) + EPS * np.abs(here.problem.b).max()
        assert (np.abs(here.strategy.c["x"] - c_i.mean(0)) <= bound).all()


def test_option_two_is_the_mean_of_the_uncorrected_gradients() -> None:
    problem = Quadratics(seed=2, steps=7, lr=0.05)
    here = scaffold(problem)
    for number, clients in enumerate([[0, 1, 2], [1, 3], [0, 1, 4]], start=1):
        x, c = here.model.astype(np.float64), here.strategy.c.get("x", np.zeros(3)).copy()
        before = {k: here.memory[k]["x"].astype(np.float64) for k in clients}
        here.round(number, clients)
        for k in clients:
            y = here.answers[k].parts["model"]["x"]
            eq_4 = before[k] - c + (x - y) / (problem.steps * problem.lr)
            bound = 8 * EPS * np.abs(problem.b).max() / problem.lr
            np.testing.assert_allclose(here.memory[k]["x"], eq_4, rtol=0, atol=bound)


def test_one_client_alone_is_never_corrected() -> None:
    problem = Quadratics(seed=3, steps=4, lr=0.1)
    ours = Federation(Scaffold(clients=1, **EVERYONE), ScaffoldClient(), problem)
    plain = Federation(FedAvg(weighted_by_key="one", **EVERYONE), LocalMethod(), problem)
    for number in range(1, 6):
        ours.round(number, [0])
        plain.round(number, [0])
    np.testing.assert_allclose(ours.model, plain.model, rtol=20 * EPS)


def test_one_step_of_everyone_is_a_step_of_large_batch_sgd() -> None:
    problem = Quadratics(seed=4, steps=1, lr=0.1)
    here = scaffold(problem)
    path = [here.model]
    for number in range(1, 5):
        here.round(number, [*range(N)])
        path.append(here.model)
    for x, after in pairwise(path):
        gradient = (problem.a * (x - problem.b)).mean(0)
        bound = 10 * EPS * np.abs(problem.b).max()
        np.testing.assert_allclose(after, x - problem.lr * gradient, rtol=0, atol=bound)


def test_it_travels_in_two_parts() -> None:
    here = scaffold(Quadratics(seed=5, steps=1, lr=0.1))
    here.round(1, [0])
    assert [*here.answers[0].parts] == ["model", CONTROL]
