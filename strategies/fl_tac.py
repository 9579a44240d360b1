"""FL-TAC (Ping et al. 2024, https://arxiv.org/abs/2404.15384): one low-rank adapter per task.

A client i has an adapter v_ij for each of its tasks j, of n_ij rows; the server does not know the
tasks. All start from the same v_0. In a round, every client that is asked::

    v_ij <- local training of v_ij on the rows of task j

and the server, of all v_ij that arrive::

    c(i, j) = the cluster of v_ij by k-means with N centers, of 10 starts the best
    v_c     = sum of n_ij v_ij / sum of n_ij     over the (i, j) of the cluster
    v_ij   <- v_c(i, j)

Others keep theirs. Where at most N arrive, each is its own cluster, as in the published code. The
mean is weighted by rows as in that code; ``weighted_by_key=one`` is the plain one of the paper.

What is sent are changes v_ij - v_0, stacked by slot: j is the place of a task among a client's own,
and no name of it is sent. With each slot go its share of the rows and, for the router, the mean
frozen features of its rows. k-means sees the factors, as published, their changes, or the products
B A through random probes, in which a rotation of the factors is not seen; a head is never looked
at.

The router is ours, inspired by the survey of Varangot-Reille et al. 2025 (LLM-based systems): a row
goes to the adapter whose rows have the nearest mean features, among those of the last round, since
what clients that were away still hold has learnt less. Where the nearest is not much nearer than
the second, ``1 - d_1 / d_2 < tau``, the row goes to the mean of all adapters.
"""

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from omegaconf import DictConfig
from scipy.spatial.distance import cdist

from fl_app.aggregation.clusters import Points, best_clusters, clusters
from fl_app.config import ConfigError
from fl_app.faults import FaultError
from fl_app.faults.suggestions import did_you_mean
from fl_app.privacy import is_client_level, is_example_level
from fl_app.tasks.base import Task
from fl_app.tasks.evaluation import Rows
from fl_app.tasks.features import features
from fl_app.training.local import Answer, Assignment, LocalMethod
from fl_app.training.loop import NO_HOOKS
from fl_app.tree import Tree
from fl_app.wire.messages import BY_NODE
from strategies._checks import check_local, check_shared, switches, whole_from, within

CLIENT = "strategies.fl_tac.FlTacClient"
ADAPTERS, SLOTS = "adapters", "slots"
FACTORS, CHANGE, SKETCH = SPACES = ("factors", "change", "sketch")
PROBES = 8  # of a sketch, on either side
MOST_SLOTS, MOST_FEATURES = 1024, 4096  # each slot is an adapter in the memory of a node
WITH_FACTORS = ("lora", "lq_lora")  # adapters that train B and A of every module
B_KEY, A_KEY = ".lora_B.default.weight", ".lora_A.default.weight"  # after a module's name


class FlTacClient(LocalMethod):
    """An adapter for each value of a column of the client's rows.

    Parameters
    ----------
    column : str
        Its values are the tasks; where they are lists, of the parts of a row, a row is split.
    slots : int
        The most tasks of a client.
    features : int
        Frozen features whose mean is sent for the router; 0: none.
    """

    unscaled = (SLOTS,)

    def __init__(self, column: str, slots: int, features: int = 0) -> None:
        check_sizes(slots, features)
        self.column, self.slots, self.features = column, slots, features

    def like(self, part: str, theta0: Tree) -> Tree:
        """Return zeros: changes by slot; of `SLOTS` each one's share of the rows, and features."""
        if part == ADAPTERS:
            return {n: np.zeros((self.slots, *x.shape), np.float32) for n, x in theta0.items()}
        return {
            "share": np.zeros(self.slots, np.float32),
            "features": np.zeros((self.slots, self.features), np.float32),
        }

    def check_rows(self, rows: Dataset) -> None:
        """Check that there is the column; FaultError if not."""
        if self.column not in rows.column_names:
            raise FaultError(
                "columns",
                f"strategy.inner.column={self.column}: the rows have no such column, but "
                f"{', '.join(rows.column_names)}.{did_you_mean(self.column, rows.column_names)}",
                missing=f"{self.column} (strategy.inner.column)",
            )

    def run(self, given: Assignment) -> Answer:
        """Train every task's adapter, and return their changes.

        Raises
        ------
        FaultError
            If the rows are private, or have more tasks than there are slots.
        """
        tasks = by_task(given.rows(), self.column)
        if len(tasks) > self.slots:
            raise FaultError("slots", column=self.column, tasks=len(tasks), slots=self.slots)
        start = given.parts[ADAPTERS]
        sent, about = self.like(ADAPTERS, given.theta0), self.like(SLOTS, given.theta0)
        loss = 0.0
        for slot, rows in enumerate(tasks):
            put(given.model, {n: x + start[n][slot] for n, x in given.theta0.items()})
            trained = given.train(NO_HOOKS, rows)
            for n, x in trained.model.items():
                sent[n][slot] = x - given.theta0[n]
            count = trained.metrics["num-examples"]
            about["share"][slot] = count
            loss += count * trained.metrics["loss"]
            if self.features:
                seen = features(cast(Any, given.model), cast(Task, given.task), rows, self.features)
                about["features"][slot] = seen.mean(0)
        total = float(about["share"].sum())
        about["share"] /= np.float32(total)
        return Answer(
            {ADAPTERS: sent, SLOTS: about}, {"num-examples": int(total), "loss": loss / total}
        )


def check_sizes(slots: int, features: int) -> None:
    """Check how many slots and features there are; ValueError if too few, or too many."""
    whole_from(1, MOST_SLOTS, slots=slots)
    whole_from(0, MOST_FEATURES, features=features)


def by_task(rows: Dataset, column: str) -> list[Dataset]:
    """Return the rows of every task, by the order of their names.

    Of a column of lists, such as ``fields``, a row is split: each task has the questions and
    answers that are its own.
    """
    values = rows[column]
    if values and isinstance(values[0], list):
        names = sorted({str(one) for row in values for one in row})
        return [
            Dataset.from_list(
                [_only(row, column, name) for row in rows if name in map(str, row[column])]
            )
            for name in names
        ]
    names = sorted({str(one) for one in values})
    return [rows.select([k for k, one in enumerate(values) if str(one) == n]) for n in names]


def _only(row: dict[str, Any], column: str, name: str) -> dict[str, Any]:
    own = [k for k, one in enumerate(row[column]) if str(one) == name]
    parts = {column, "questions", "answers"} & {*row}
    return {**row, **{part: [row[part][k] for k in own] for part in parts}}


def put(model: torch.nn.Module, tree: Tree) -> None:
    """Write a Tree into the parameters of these names."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in tree:
                parameter.copy_(torch.from_numpy(tree[name]))


# ---- the server ----------------------------------------------------------------------------------


def shares(said: np.ndarray) -> Points:
    """Return a client's shares of its own rows, which add up to 1 whatever it says."""
    share = np.maximum(said.astype(np.float64), 0.0)
    return share / max(float(share.sum()), np.finfo(float).tiny)


def bounded(mean: np.ndarray) -> Points:
    """Return mean features no longer than 1, as those of rows of length 1 are."""
    x = mean.astype(np.float64)
    return x / max(1.0, float(np.linalg.norm(x)))


def points_of(changes: list[Tree], theta0: Tree, space: str, normalized: bool) -> Points:
    """Return what k-means sees of every adapter, [adapters, d]: see the module.

    Parameters
    ----------
    changes : list of Tree
        v_ij - v_0.
    space : str
        One of `SPACES`.
    normalized : bool
        True: every point has length 1, so that distances are those of directions.
    """
    names = [n for n in theta0 if "lora_" in n] or [*theta0]
    if space == SKETCH:
        rows = [_sketch({n: theta0[n] + one[n] for n in names}) for one in changes]
    else:
        start = {n: theta0[n] if space == FACTORS else np.float32(0) for n in names}
        rows = [np.concatenate([(start[n] + one[n]).ravel() for n in names]) for one in changes]
    points = np.stack(rows).astype(np.float64)
    if normalized:
        points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-30)
    return points


def _sketch(factors: Tree) -> Points:
    """Return X^T B A Y of every module, with the same random X and Y on every machine."""
    found = []
    for name in [n.removesuffix(B_KEY) for n in factors if n.endswith(B_KEY)]:
        b, a = factors[name + B_KEY].astype(float), factors[name + A_KEY].astype(float)
        rng = np.random.default_rng([*b.shape, *a.shape])
        x, y = rng.standard_normal((PROBES, len(b))), rng.standard_normal((a.shape[1], PROBES))
        found.append(((x @ b) @ (a @ y)).ravel())
    return np.concatenate(found)


class FlTac(FedAvg):
    """k-means over all adapters that arrive; every slot gets the mean of its cluster.

    Parameters
    ----------
    clusters : int or None
        N; None: as many as have the largest mean silhouette.
    max_clusters : int
        The most of these.
    column, slots, features
        See `FlTacClient`.
    space : str
        What k-means sees: "factors", "change" or "sketch".
    normalized : bool
        Whether it sees directions alone.
    tau : float
        Confidence, in [0, 1], below which the router takes the mean of all adapters; 0: never.
    seed : int
        Of the starts of k-means.
    """

    def __init__(
        self,
        clusters: int | None,
        slots: int,
        column: str,
        features: int = 0,
        space: str = CHANGE,
        normalized: bool = False,
        max_clusters: int = 8,
        tau: float = 0.0,
        seed: int = 0,
        **arguments: object,
    ) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        if space not in SPACES:
            raise ValueError(f"space={space} should be one of {', '.join(SPACES)}")
        check_sizes(slots, features)
        if not (isinstance(column, str) and column):
            raise ValueError(f"column={column} should be the name of a column of the rows")
        whole_from(2 if clusters is None else 1, max_clusters=max_clusters)
        whole_from(1, clusters=1 if clusters is None else clusters)
        whole_from(0, seed=seed)
        switches(normalized=normalized)
        within("[0, 1]", tau=tau)
        self.clusters, self.max_clusters, self.slots = clusters, max_clusters, slots
        self.column, self.features = column, features
        self.space, self.normalized = space, normalized
        self.tau, self.seed = tau, seed
        self.theta0: Tree = {}
        self.held: dict[str, str] = {}  # "client slot" -> the cluster whose mean is its adapter
        self.means: dict[str, Tree] = {}  # "round cluster" -> v_c - v_0
        self.centroids: dict[str, np.ndarray] = {}  # the same, of the last round -> mean features

    def check(self, cfg: DictConfig) -> None:
        """Check that both halves agree, and that rows may be looked at; ConfigError if not."""
        check_local(cfg, CLIENT)
        check_shared(cfg, self, ("slots", "column", "features"), "both ends have the same slots")
        if cfg.federation.sampling == BY_NODE:
            raise ConfigError(
                f"federation.sampling={BY_NODE}, but a client gets the adapters of its own slots, "
                "and must be known: set it to partitions"
            )
        most = cfg.clients_per_round * self.slots
        if self.clusters is not None and self.clusters >= most > 1:
            raise ConfigError(
                f"strategy.inner.clusters={self.clusters}, and at most clients_per_round="
                f"{cfg.clients_per_round} times strategy.inner.slots={self.slots} adapters arrive "
                "in a round: each would be its own cluster, and nothing averaged; lower clusters, "
                "or raise clients_per_round"
            )
        if self.tau and not self.features:
            raise ConfigError(
                f"strategy.inner.tau={self.tau} is a confidence of the router, and "
                "strategy.inner.features=0 leaves it out: set features, or tau=0"
            )
        if is_example_level(cfg) or is_client_level(cfg):
            raise ConfigError(
                "strategy=fl_tac sends several adapters of a client, and what its rows look like, "
                f"and privacy={cfg.privacy.id} counts one update: set another strategy"
            )
        if cfg.adapter.id not in WITH_FACTORS and self.space == SKETCH:
            raise ConfigError(
                f"strategy.inner.space=sketch wants B and A, and adapter={cfg.adapter.id} does not "
                "train both: set factors or change"
            )
        if self.features and cfg.task.id not in ("causal_lm", "seq2seq"):
            raise ConfigError(
                f"strategy.inner.features={self.features} looks at prompts of text, and task.id="
                f"{cfg.task.id} has none: set strategy.inner.features=0, without the router"
            )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send every client the adapters of its slots, as changes; v_0 where it has none yet."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        if not self.theta0:
            self.theta0 = {n: x.numpy() for n, x in arrays.items()}
        for message in messages:
            client = message.metadata.dst_node_id
            ((key, said),) = message.content.config_records.items()
            stacked = ArrayRecord({n: Array(x) for n, x in self._of(client).items()})
            message.content = RecordDict({ADAPTERS: stacked, key: cast(ConfigRecord, said)})
        return messages

    def _of(self, client: int) -> Tree:
        none = {n: np.zeros_like(x) for n, x in self.theta0.items()}
        own = [
            self.means[self.held[key]] if (key := f"{client} {slot}") in self.held else none
            for slot in range(self.slots)
        ]
        return {n: np.stack([one[n] for one in own]) for n in self.theta0}

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Cluster what arrived, keep the clusters' means, and return the mean of all adapters."""
        replies = list(replies)
        keys, changes, examples, seen = [], [], [], []
        for reply in replies:
            stacked, about = (reply.content.array_records[part] for part in (ADAPTERS, SLOTS))
            sent, share = {n: x.numpy() for n, x in stacked.items()}, shares(about["share"].numpy())
            rows = cast(float, reply.content.metric_records["metrics"]["num-examples"])
            for slot in np.flatnonzero(share > 0).tolist():
                keys.append(f"{reply.metadata.src_node_id} {slot}")
                changes.append({n: x[slot] for n, x in sent.items()})
                examples.append(rows * float(share[slot]))
                seen.append(bounded(about["features"].numpy()[slot]))
            del reply.content[ADAPTERS]  # Flower's FedAvg, for the metrics, takes one record
        _, metrics = super().aggregate_train(server_round, replies)
        if keys:
            self._cluster(server_round, keys, changes, np.array(examples), np.stack(seen))
        return self._mean_of_all(), metrics

    def _cluster(
        self, number: int, keys: list[str], changes: list[Tree], examples: Points, seen: Points
    ) -> None:
        points = points_of(changes, self.theta0, self.space, self.normalized)
        labels = (
            best_clusters(points, self.max_clusters, self.seed)
            if self.clusters is None
            else clusters(points, self.clusters, self.seed)
        )
        weights = examples if self.weighted_by_key == "num-examples" else np.ones(len(keys))
        self.centroids = {}
        for c in range(max(labels) + 1):
            members = [k for k, one in enumerate(labels) if one == c]
            w, name = weights[members], f"{number} {c}"
            self.means[name] = _mean([changes[k] for k in members], w)
            self.centroids[name] = np.average(seen[members], axis=0, weights=w)
            self.held |= {keys[k]: name for k in members}
        used = {*self.held.values()}
        self.means = {name: x for name, x in self.means.items() if name in used}

    def _mean_of_all(self) -> ArrayRecord:
        changes = [self.means[name] for name in self.held.values()]
        mean = _mean(changes, np.ones(len(changes))) if changes else None
        return ArrayRecord({
            n: Array(x if mean is None else x + mean[n]) for n, x in self.theta0.items()
        })  # fmt: skip

    # ---- the router ------------------------------------------------------------------------------

    @property
    def routes(self) -> bool:
        """Whether any row may be answered by another model than the mean of all adapters."""
        return self.features > 0 and self.tau < 1

    def routed(self, seen: Points) -> list[str | None]:
        """Return the cluster whose adapter answers each row; None: the mean of all adapters.

        Parameters
        ----------
        seen : array [rows, features]
            Frozen features.
        """
        names = [*self.centroids]
        if not names or self.tau == 1:
            return [None] * len(seen)
        apart = cdist(seen, np.stack([self.centroids[name] for name in names]))
        first = apart.argmin(1)
        nearest = apart.min(1)
        second = (
            np.partition(apart, 1, axis=1)[:, 1] if len(names) > 1 else np.full(len(seen), np.inf)
        )
        sure = 1 - nearest / np.maximum(second, np.finfo(float).tiny)
        return [names[k] if s >= self.tau else None for k, s in zip(first, sure, strict=True)]

    def groups(
        self, model: torch.nn.Module, task: Task, rows: Rows
    ) -> list[tuple[Tree | None, list[int]]]:
        """Return trained tensors, and the rows that they answer; None: the model of the round."""
        if not self.features or not self.centroids:
            return [(None, [*range(len(rows))])]
        seen = features(cast(Any, model), task, rows, self.features).astype(np.float64)
        where = self.routed(seen)
        return [
            (None if name is None else {n: x + self.means[name][n] for n, x in self.theta0.items()},
             [k for k, one in enumerate(where) if one == name])
            for name in dict.fromkeys(where)
        ]  # fmt: skip


def _mean(trees: list[Tree], weights: Points) -> Tree:
    return {
        n: np.average([one[n] for one in trees], axis=0, weights=weights).astype(np.float32)
        for n in trees[0]
    }
