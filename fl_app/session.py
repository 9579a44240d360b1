"""The session of a run in a process: model, theta0, data, codecs and method, built once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerFast

from fl_app import data, tasks
from fl_app.adapters import needed_setup
from fl_app.adapters.setup import Setup
from fl_app.codecs import Codec, WireError
from fl_app.codecs.by_part import MODEL
from fl_app.config import plain
from fl_app.data.rows import first
from fl_app.faults import FaultError
from fl_app.models.generation import unwrapped
from fl_app.tasks import named
from fl_app.tasks.base import Task
from fl_app.training.local import LocalMethod
from fl_app.tree import Tree, chained
from fl_app.wire import readers
from fl_app.wire.forms import Form, Parcel, plain_form
from fl_app.wire.messages import LENGTH
from fl_app.wire.patch import decode_patch

Router = Callable[[Any, Task, Dataset], Sequence[tuple[Tree | None, Sequence[int]]]]
"""From a model, its task and rows to trained tensors and the places of the rows they answer."""

DERIVED = "derived"  # the name of a patch that is computed on every machine, not sent


@dataclass
class Session:
    """The parts of a run that server and clients build alike.

    Attributes
    ----------
    cfg : DictConfig
        The configuration.
    device : torch.device
        The device of the model.
    model : Module
        The model with its adapter.
    tokenizer : PreTrainedTokenizerFast
        Its tokenizer.
    task : Task
        Makes batches, predictions and scores.
    adapter : module
        Of ``fl_app.adapters``.
    theta0 : Tree
        The start of every trained tensor, the same on every machine.
    manifest : bytes
        The fingerprint of theta0 and of all patches, 8 bytes, in every frame.
    forms : dict of str to Form
        The forms that messages of training may have.
    method : LocalMethod
        The client's half of the method.
    alias_bytes : int
        Bytes that the competition's log counts in addition to each transfer, see
        ``fl_app.wire.conventions``.
    patches : list of str
        Names of the changes made to the frozen weights, see ``fl_app.client.patches``.
    most_rows : int or None
        Rows of a client that are used at most; None: all. Only a rehearsal sets it.
    predictions : list
        Those of the last evaluation.
    """

    cfg: DictConfig
    device: torch.device
    model: Any  # VT5ForConditionalGeneration, or PEFT's wrapper around it
    tokenizer: PreTrainedTokenizerFast
    task: Task
    adapter: ModuleType
    theta0: Tree
    manifest: bytes
    forms: dict[str, Form]
    method: LocalMethod
    alias_bytes: int
    patches: list[str] = field(default_factory=list)
    most_rows: int | None = None
    predictions: list[Any] = field(default_factory=list)

    @cached_property
    def data(self) -> DatasetDict:
        """Return all splits of the data set."""
        splits = data.load(self.cfg.data, self.cfg.seed)
        for name, rows in splits.items():
            tasks.check_rows(self.task, name, rows, named.columns(self.cfg.task))
        if "train" in splits:
            self.method.check_rows(splits["train"])
        return splits

    def documents(self, partition: int) -> Dataset:
        """Return the rows of the client that holds ``partition``.

        Raises
        ------
        FaultError
            If no training rows are configured.
        """
        if "train" not in self.data:
            raise FaultError(
                "no_source",
                "data.train.path is null, so every node needs its own rows: start it with "
                "--node-config \"partition-id=0 num-partitions=3 data-path='/srv/rows.jsonl'\"",
            )
        found = data.client_split(
            self.data["train"],
            self.cfg.data.partitioner,
            partition,
            self.cfg.federation.clients,
            self.cfg.data.seed,
        )
        return found if self.most_rows is None else first(found, self.most_rows)

    def left_out(self) -> str:
        """Return how many training rows the partitioner gives to no client; "" if all have one.

        Raises
        ------
        ValueError
            If the rows cannot be divided among the clients.
        """
        train, partitioner = self.data["train"], self.cfg.data.partitioner
        clients, seed = self.cfg.federation.clients, self.cfg.data.seed
        parts = data.rows_of_clients(train, partitioner, clients, seed)
        left = len(train) - sum(map(len, parts))
        if not left:
            return ""
        return (
            f"{left:,} of {len(train):,} rows of data.train: data.partitioner.id={partitioner.id} "
            "gives them to no client"
        )

    @property
    def device_name(self) -> str:
        """Return the name of the GPU that the model is on, or "cpu"."""
        is_gpu = self.device.type == "cuda"
        return torch.cuda.get_device_name(self.device) if is_gpu else self.device.type

    @property
    def generation(self) -> Any:
        """Return the generation config of the model; None if it generates nothing."""
        inner = unwrapped(self.model)
        return inner.generation_config if inner.can_generate() else None

    def reference(self, broadcast: Tree) -> Tree:
        """Return the reference of an update: theta0 or the broadcast, by ``codec.reference``."""
        return self.theta0 if self.cfg.codec.reference == "theta0" else broadcast

    @property
    def up(self) -> Codec:
        """Return the codec of a model that is sent to the server without other parts."""
        return self.plain_form.up.whole

    @property
    def down(self) -> Codec:
        """Return the codec of a model that is sent to a client without other parts."""
        return self.plain_form.down.whole

    def like(self, part: str) -> Tree:
        """Return the reference of a part that is sent to a client: names, shapes and values."""
        return self.theta0 if part == MODEL else self.method.like(part, self.theta0)

    def like_of(self, part: str, rows: int | None) -> Tree:
        """Return `like`; of a part with as many rows as its message says, the first ``rows``."""
        tree = self.like(part)
        return {n: x[:rows] for n, x in tree.items()} if part in self.method.ragged else tree

    def ragged(self, parcel: Parcel) -> list[str]:
        """Return the parts whose tensors have as many rows as their message says."""
        return [part for part in parcel.codecs if part in self.method.ragged]

    def length(self, said: Mapping[str, Any], parcel: Parcel) -> int | None:
        """Return the rows that a message says of its ragged parts; None if it has none.

        Raises
        ------
        WireError
            If it says no number, or more than there can be.
        """
        most = [len(x) for part in self.ragged(parcel) for x in self.like(part).values()]
        return readers.integer(said, LENGTH, 1, min(most)) if most else None

    def references(
        self, parcel: Parcel, broadcast: Tree | None = None, length: int | None = None
    ) -> Tree:
        """Return the references of all parts of a message, joined.

        Parameters
        ----------
        parcel : Parcel
            The parts and their codecs.
        broadcast : Tree or None
            The model that the client received, for a message to the server; None for a message to
            a client.
        length : int or None
            The rows that the message says of ragged parts; None: the most.
        """
        model = self.theta0 if broadcast is None else self.reference(broadcast)
        return parcel.join(
            {part: model if part == MODEL else self.like_of(part, length) for part in parcel.codecs}
        )

    @cached_property
    def plain_form(self) -> Form:
        """Return the form of messages with only the model."""
        return plain_form(plain(self.cfg.codec))

    @cached_property
    def method_remembers(self) -> bool:
        """Tell whether the client's half of the method keeps something between rounds."""
        return bool(self.method.start(self.theta0))

    @property
    def remembers(self) -> bool:
        """Tell whether a client's codec or method keeps something between rounds."""
        codecs = (form.up.whole for form in self.forms.values())
        return self.method_remembers or any(codec.remembers for codec in codecs)

    def patch(self, tree: Tree, name: str) -> None:
        """Apply a patch to the frozen weights, and read theta0 again.

        Later frames are of this state: a side without the same patches refuses them.

        Parameters
        ----------
        tree : Tree
            The patch, for ``adapter.patch``.
        name : str
            Its name in ``patches``.

        Raises
        ------
        ValueError
            If the patch is not one of this model.
        """
        self.adapter.set(self.model, self.theta0)
        self.adapter.patch(self.model, tree, self.cfg.adapter)
        self.theta0 = self.adapter.get(self.model)
        self.patches.append(name)
        self.manifest = chained(self.manifest, tree, self.theta0)

    @cached_property
    def setup(self) -> Setup | None:
        """Return what must be agreed before round 1; None if nothing."""
        return needed_setup(self.cfg)

    def derive(self) -> None:
        """Compute and apply the set-up's patch from public rows, if it is not sent.

        Raises
        ------
        ValueError
            If the data set has no public rows.
        """
        if self.setup is None or not self.setup.derived or self.patches:
            return
        found = self.setup.from_public(self.model, self.data, self.task.training)
        self.patch(found, DERIVED)

    @property
    def max_rank(self) -> int:
        """Return the largest rank of a patch: the stacked factors of all clients of a round."""
        return int(self.cfg.adapter.get("r", 0)) * int(self.cfg.clients_per_round)

    def decoded_patch(self, frame: bytes, rank: int) -> Tree:
        """Decode a patch with factors of ``rank`` that was coded by ``codec.down``.

        Raises
        ------
        WireError
            If the frame is damaged, has another codec, belongs to another state of the model, or
            has a rank that the run cannot have.
        """
        if not hasattr(self.adapter, "patch_like"):
            raise WireError(f"adapter.id={self.cfg.adapter.id} has no patches")
        if not 1 <= rank <= self.max_rank:
            raise WireError(f"a patch of rank {rank}, this run has none above {self.max_rank}")
        like = self.adapter.patch_like(self.model, rank)
        return decode_patch(frame, self.down, self.manifest, like)

    def evaluate(
        self, tree: Tree, dataset: Dataset, router: Router | None = None
    ) -> dict[str, float]:
        """Set the trained tensors to ``tree`` and return the task's metrics on ``dataset``.

        Parameters
        ----------
        tree : Tree
            The model.
        dataset : Dataset
            The rows.
        router : callable, optional
            ``router(model, task, rows)`` returns other tensors (None: ``tree``) and the places of
            the rows that they predict. Perplexity and its like, which ask the model itself, are
            then those of ``tree``.
        """
        self.adapter.set(self.model, tree)
        if router is None:
            self.predictions = self.task.predict(self.model, dataset)
        else:
            self.predictions = self._routed(tree, dataset, router)
        said = self.task.score(self.predictions, dataset)
        return {**said, **self.task.measure(self.model, dataset)}

    def _routed(self, tree: Tree, dataset: Dataset, router: Router) -> list[Any]:
        """Return the predictions of all rows, in order, each of the tensors that answer it."""
        found: dict[int, list[Any]] = {}
        for other, places in router(self.model, self.task, dataset):
            self.adapter.set(self.model, tree if other is None else other)
            said = iter(self.task.predict(self.model, dataset.select(places)))
            for place in places:
                count = self.task.examples(dataset.select([place]))
                found[place] = [next(said) for _ in range(count)]
        self.adapter.set(self.model, tree)
        return [one for place in sorted(found) for one in found[place]]
