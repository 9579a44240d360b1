"""What a process of a run needs once: model, theta0, data and codecs, built from the config."""

import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import ModuleType
from typing import Any

import datasets
import torch
import transformers
from datasets import Dataset, DatasetDict
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerFast

from fl_app import data, models, tasks
from fl_app.adapters import ADAPTERS
from fl_app.codecs import Codec, from_spec
from fl_app.config import compose, plain
from fl_app.conventions import alias_bytes
from fl_app.faults import FaultError, during
from fl_app.preflight import check_node
from fl_app.tasks import Task
from fl_app.tree import Tree, chained, manifest


@dataclass
class Session:
    """The pieces of a run that server and clients build alike.

    Attributes
    ----------
    theta0 : Tree
        The start of every trained tensor, the same on every machine.
    manifest : bytes
        Its fingerprint, in every frame.
    up, down : Codec
        What a model becomes on its way to the server and to a client.
    patches : list of str
        Names of the changes made to the frozen weights, see ``fl_app.patches``.
    alias_bytes : int
        What the competition's log counted on top of every transfer, see ``fl_app.conventions``.
    """

    cfg: DictConfig
    device: torch.device
    model: Any  # VT5ForConditionalGeneration, or PEFT's wrapper around it
    tokenizer: PreTrainedTokenizerFast
    task: Task
    adapter: ModuleType
    theta0: Tree
    manifest: bytes
    up: Codec
    down: Codec
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

    def evaluate(self, tree: Tree, dataset: Dataset) -> dict[str, float]:
        """Return the task's metrics of the model with ``tree`` in it, over ``dataset``."""
        self.adapter.set(self.model, tree)
        return self.task.score(self.task.predict(self.model, dataset), dataset)


_BUILDING = threading.Lock()


def session(overrides: str) -> Session:
    """Build the session of a run; a process that asks again gets the same one.

    Raises
    ------
    ConfigError
        For a wrong override.
    FileNotFoundError, ValueError
        For a model that is missing or is not the one named by the config.
    """
    with _BUILDING:
        here = _session(overrides)
    torch.set_num_threads(here.cfg.federation.torch_threads)  # holds for the thread that asks
    return here


def forget_session() -> None:
    """Let the next one who asks build it anew."""
    _session.cache_clear()


def prepare(overrides: str) -> None:
    """Begin to build the session, and its data, while there is nothing else to do."""

    def build() -> None:
        with suppress(Exception):  # it is raised again where the session is asked for
            _ = session(overrides).data

    threading.Thread(target=build, daemon=True).start()


@lru_cache(maxsize=1)
def _session(overrides: str) -> Session:
    cfg = compose(overrides)
    check_node(cfg)
    torch.set_num_threads(cfg.federation.torch_threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    with during("model"):
        base, tokenizer = models.load(cfg.model, cfg.seed, cfg.task)
    adapter = ADAPTERS[cfg.adapter.id]
    with during("configuration"):
        task = tasks.build(cfg, tokenizer, base.config)
        model = adapter.attach(base, cfg.adapter, cfg.seed)
    theta0 = adapter.get(model)  # before any move to a GPU
    device = torch.device(
        cfg.federation.device
        if cfg.federation.device != "auto"
        else ("cuda" if torch.cuda.is_available() else "cpu")
    )
    up, down = (from_spec(plain(cfg.codec[d])) for d in ("up", "down"))
    for codec in (up, down):  # compile what is compiled now, not within the first transfer
        codec.decode(codec.encode(theta0, codec.init(theta0), theta0)[0], theta0)
    return Session(
        cfg=cfg,
        device=device,
        model=model.to(device),
        tokenizer=tokenizer,
        task=task,
        adapter=adapter,
        theta0=theta0,
        manifest=manifest(theta0),
        up=up,
        down=down,
        alias_bytes=alias_bytes(model),
    )
