"""LoRA-SB's set-up in a federation: whose rows the gradients for B, A and R0 are taken on.

The numerics are in ``fl_app.adapters.lora_sb.gradients``; here is who computes what. The rules are
read before a model is, so that what needs torch is imported where it is used.

- ``random``: nobody. B and A are drawn from the seed and R0 = 0.
- ``server_public``: the server, on the rows that its data set calls ``public``; clients get the
  result, or find it by themselves from the same rows (``adapter.setup=derive``).
- ``client_mean``, ``first_client``: every client, or client 0, sends the signs of its gradient
  once; the server decomposes their mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig

from fl_app.adapters.setup import Collate, Setup
from fl_app.codecs import WireError, from_spec
from fl_app.config import ConfigError
from fl_app.config.rules import POSITIVE, Choices, Rules, check_choices, check_rules
from fl_app.seeds import turn_seed
from fl_app.tree import Tree

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from torch import Tensor

RANDOM, SERVER_PUBLIC, CLIENT_MEAN, FIRST_CLIENT = INITS = (
    *("random", "server_public", "client_mean", "first_client"),
)
DOWNLOAD, DERIVE = SETUPS = ("download", "derive")

CHOICES: Choices = {"adapter.init": INITS, "adapter.setup": SETUPS}
RULES: Rules = ((POSITIVE, ("adapter.init_samples", "adapter.init_batch_size", "adapter.eta")),)


def check(cfg: DictConfig) -> None:
    """Check whose gradients are taken, and who takes them; ConfigError if that cannot be."""
    check_choices(cfg, CHOICES)
    check_rules(cfg, RULES)
    if cfg.adapter.init in (CLIENT_MEAN, FIRST_CLIENT) and cfg.adapter.setup == DERIVE:
        raise ConfigError(
            f"with adapter.init={cfg.adapter.init} no client can find B and A by itself: set "
            "adapter.setup=download (experiment=fed_sb sets derive)"
        )


def setup(cfg: DictConfig) -> Setup | None:
    """Return how B, A and R0 are found from gradients; None where they are random."""
    return None if cfg.adapter.init == RANDOM else FirstStep(cfg)


class FirstStep:
    """B, R0 and A of the first step of full fine-tuning; an answer is sign(G) of every module."""

    what = "signs of its gradient"
    without_clients = f"adapter.init={SERVER_PUBLIC}"
    rows_key = "adapter.init_samples"

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        everyone = range(cfg.federation.clients)
        asked: dict[str, Sequence[int]] = {CLIENT_MEAN: everyone, FIRST_CLIENT: [0]}
        self.asked = asked.get(cfg.adapter.init, [])
        self.derived = cfg.adapter.setup == DERIVE
        self.codec = from_spec({"id": "sign", "scope": "tree"})  # one bit each, without loss
        self.choice = f"adapter.init={cfg.adapter.init}"

    def answer(self, model: PeftModel, rows: Dataset, collate: Collate, client: int) -> Tree:
        """Return the signs of the gradient on the rows at W0, [out, in] of every module."""
        from fl_app.adapters.lora_sb.gradients import gradients, signs

        seed = turn_seed(self.cfg.seed, 0, client)
        official = self.cfg.adapter.official_numerics
        chosen = self._batches(rows, collate, seed)
        return signs(gradients(model, chosen, seed=seed, official_numerics=official))

    def answer_like(self, model: PeftModel) -> Tree:
        """Return the names and shapes of the signs."""
        from fl_app.adapters.lora_sb.layers import layers

        return {
            name: np.zeros((layer.out_features, layer.in_features), np.float32)
            for name, layer in layers(model).items()
        }

    def answer_bytes(self, model: PeftModel) -> int:
        """Return room for twice a sign for each of the model's values."""
        return sum(values.numel() for values in model.parameters()) // 4

    def check_answer(self, answer: Tree) -> None:
        """Check that all values are +1 or -1; WireError if not.

        The codec has a scale, with which one client would outweigh all others in the mean.
        """
        if any((np.abs(values) != 1).any() for values in answer.values()):
            raise WireError("signs of a gradient are +1 and -1 alone")

    def from_answers(self, answers: list[Tree]) -> Tree:
        """Return B, R0 and A of the mean of the clients' first steps."""
        from fl_app.adapters.lora_sb.factors import to_tree
        from fl_app.adapters.lora_sb.gradients import mean_factors

        return to_tree(mean_factors(answers, self.cfg.adapter))

    def from_public(self, model: PeftModel, data: Mapping[str, Dataset], collate: Collate) -> Tree:
        """Return B, R0 and A of every module from the public rows.

        Raises
        ------
        ValueError
            If the data set has no public rows.
        """
        from fl_app.adapters.lora_sb.factors import to_tree
        from fl_app.adapters.lora_sb.gradients import factors

        if "public" not in data:
            raise ValueError(
                "adapter.init=server_public takes the first gradients on public rows, and this "
                "data has none: set data.public.path, or adapter.init to random, client_mean or "
                "first_client"
            )
        seed = self.cfg.seed
        chosen = self._batches(data["public"], collate, seed)
        return to_tree(factors(model, chosen, self.cfg.adapter, seed))

    def _batches(
        self, rows: Dataset, collate: Collate, seed: int
    ) -> Iterator[Mapping[str, Tensor]]:
        """Yield batches of the first rows in a seeded order: files are often sorted."""
        import torch

        from fl_app.adapters.lora_sb.gradients import batches

        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
        cfg = self.cfg.adapter
        chosen = [rows[i] for i in order[: cfg.init_samples]]
        return batches(chosen, collate, samples=cfg.init_samples, batch_size=cfg.init_batch_size)
