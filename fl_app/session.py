"""What a process of a run needs once: model, theta0, data and codecs, built from the config."""

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
from fl_app.faults import FaultError
from fl_app.tasks import Task
from fl_app.training.local import LocalMethod
from fl_app.tree import Tree, chained
from fl_app.wire.forms import Form, Parcel, plain_form
from fl_app.wire.patch import decode_patch

DERIVED = "derived"  # the name of a patch that no message brought


@dataclass
class Session:
    """The pieces of a run that server and clients build alike.

    Attributes
    ----------
    theta0 : Tree
        The start of every trained tensor, the same on every machine.
    manifest : bytes
        Its fingerprint, in every frame.
    forms : dict of str to Form
        What messages of training may carry.
    method : LocalMethod
        The client's half of the method.
    patches : list of str
        Names of the changes made to the frozen weights, see ``fl_app.client.patches``.
    alias_bytes : int
        What the competition's log counted on top of every transfer, see
        ``fl_app.wire.conventions``.
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

    @cached_property
    def data(self) -> DatasetDict:
        """Return all splits of the data set."""
        splits = data.load(self.cfg.data, self.cfg.seed)
        for name, rows in splits.items():
            tasks.check_columns(self.task, name, rows)
        return splits

    def documents(self, partition: int) -> Dataset:
        """Return the documents of the client that holds ``partition``.

        Raises
        ------
        ValueError
            If nothing is configured for clients to share.
        """
        if "train" not in self.data:
            raise FaultError(
                "no_source",
                "data.train.path is null, so every node has to bring its own rows: start it with "
                "--node-config \"partition-id=0 num-partitions=3 data-path='/srv/rows.jsonl'\"",
            )
        return data.client_split(
            self.data["train"],
            self.cfg.data.partitioner,
            partition,
            self.cfg.federation.clients,
            self.cfg.data.seed,
        )

    def reference(self, broadcast: Tree) -> Tree:
        """Return what an update is coded against, by ``codec.reference``."""
        return self.theta0 if self.cfg.codec.reference == "theta0" else broadcast

    @property
    def up(self) -> Codec:
        """Return what a model alone becomes on its way to the server."""
        return self.plain_form.up.whole

    @property
    def down(self) -> Codec:
        """Return what a model alone becomes on its way to a client."""
        return self.plain_form.down.whole

    def like(self, part: str) -> Tree:
        """Return the names, the shapes and, for ``delta``, the values of a part on its way down."""
        return self.theta0 if part == MODEL else self.method.like(part, self.theta0)

    def references(self, parcel: Parcel, broadcast: Tree | None = None) -> Tree:
        """Return what the parts of a message are coded against, joined.

        Parameters
        ----------
        broadcast : Tree or None
            The model that the client got, for a message to the server; None for one to a client.
        """
        model = self.theta0 if broadcast is None else self.reference(broadcast)
        return parcel.join(
            {part: model if part == MODEL else self.like(part) for part in parcel.codecs}
        )

    @cached_property
    def plain_form(self) -> Form:
        """Return the form of the model alone."""
        return plain_form(plain(self.cfg.codec))

    @cached_property
    def method_remembers(self) -> bool:
        """Return whether the client's half of the method keeps something between rounds."""
        return bool(self.method.start(self.theta0))

    @property
    def remembers(self) -> bool:
        """Return whether a client keeps something between rounds: its codec, or its method."""
        codecs = (form.up.whole for form in self.forms.values())
        return self.method_remembers or any(codec.remembers for codec in codecs)

    def patch(self, tree: Tree, name: str) -> None:
        """Change the frozen weights as the adapter does with ``tree``; theta0 is taken anew.

        From then on frames are of this state: another side without the same patches refuses them.

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
        """Return what must be agreed before round 1; None for nothing."""
        return needed_setup(self.cfg)

    def derive(self) -> None:
        """Make the set-up's patch from public rows, where every machine does so by itself.

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
        """Return the highest rank of a patch: the factors of all clients of a round, stacked."""
        return int(self.cfg.adapter.get("r", 0)) * int(self.cfg.clients_per_round)

    def decoded_patch(self, frame: bytes, rank: int) -> Tree:
        """Return the patch in ``frame``, of factors of ``rank``, coded by ``codec.down``.

        Raises
        ------
        WireError
            If the frame is damaged, of another codec, for another state of the model, or of a
            rank that the run cannot have.
        """
        if not hasattr(self.adapter, "patch_like"):
            raise WireError(f"adapter.id={self.cfg.adapter.id} has no patches")
        if not 1 <= rank <= self.max_rank:
            raise WireError(f"a patch of rank {rank}, this run has none above {self.max_rank}")
        like = self.adapter.patch_like(self.model, rank)
        return decode_patch(frame, self.down, self.manifest, like)

    def evaluate(self, tree: Tree, dataset: Dataset) -> dict[str, float]:
        """Return the task's metrics of the model with ``tree`` in it, over ``dataset``."""
        self.adapter.set(self.model, tree)
        return self.task.score(self.task.predict(self.model, dataset), dataset)
