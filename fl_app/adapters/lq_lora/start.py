"""The rules of ``adapter=lq_lora``, and how the importance of weights is agreed before round 1.

They are read before a model is, so that what needs torch is imported where it is used.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from fl_app.adapters.setup import Collate, Setup
from fl_app.codecs import from_spec
from fl_app.config import ConfigError, plain
from fl_app.config.rules import COUNT, POSITIVE, Choices, Rule, Rules, check_choices, check_rules
from fl_app.tree import Tree

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from torch import Tensor

    from fl_app.adapters.lq_lora.normal_float import Width

NONE, PUBLIC = FISHERS = ("none", "public")
DOWNLOAD, DERIVE = SETUPS = ("download", "derive")
TYPES = {"bfloat16": 16, "float16": 16, "float32": 32}  # bits


def _listed(least: int, most: int) -> Rule:
    return Rule(
        f"a list of whole numbers from {least} to {most}, not empty, each once",
        lambda x: isinstance(x, list) and x != [] and all(
            type(one) is int and least <= one <= most for one in x
        ) and len({*x}) == len(x),
    )  # fmt: skip


CHOICES: Choices = {"adapter.fisher": FISHERS, "adapter.setup": SETUPS}
RULES: Rules = (
    (POSITIVE, ("adapter.budget",)),
    (COUNT, ("adapter.iterations", "adapter.search_iterations", "adapter.fisher_samples")),
    (_listed(2, 8), ("adapter.grid.bits", "adapter.grid.scale_bits")),
    (_listed(2, 2**16), ("adapter.grid.blocks", "adapter.grid.groups")),
    (
        Rule(
            f"a list of {', '.join(sorted(TYPES))}, each once",
            lambda x: (
                isinstance(x, list)
                and x != []
                and {*map(str, x)} <= {*TYPES}
                and len({*x}) == len(x)
            ),
        ),
        ("adapter.grid.scale_types",),
    ),
)


def check(cfg: DictConfig) -> None:
    """Check the grid and the budget, and that the base can be quantized; ConfigError if not."""
    check_choices(cfg, CHOICES)
    check_rules(cfg, RULES)
    if cfg.model.get("quantization", "none") != "none":
        raise ConfigError(
            "adapter=lq_lora quantizes the base itself: set model.quantization=none, not "
            f"{cfg.model.quantization}"
        )
    if cfg.output.base != "copy":
        raise ConfigError(
            "adapter=lq_lora trains over a quantized copy of the base, and the exported adapter is "
            "of no use over the base itself: set output.base=copy"
        )
    grid, blocks = cfg.adapter.grid, max(cfg.adapter.grid.blocks)
    of_scales = min(grid.scale_bits) / blocks
    of_groups = min(TYPES[one] for one in grid.scale_types) / (blocks * max(grid.groups))
    least = min(grid.bits) + of_scales + of_groups
    if cfg.adapter.budget < least:
        raise ConfigError(
            f"adapter.budget={cfg.adapter.budget} bits a weight should be at least {least:.4g}, "
            "what the smallest of adapter.grid takes with its scales: raise it, or extend the grid"
        )


def widths(cfg: DictConfig) -> list[Width]:
    """Return all widths of the grid of the group ``adapter``."""
    from fl_app.adapters.lq_lora.normal_float import Width

    grid = plain(cfg.grid)
    keys = ("bits", "scale_bits", "scale_types", "blocks", "groups")
    return [Width(*values) for values in itertools.product(*(grid[key] for key in keys))]


def setup(cfg: DictConfig) -> Setup | None:
    """Return how the importance of weights is found; None where all are alike."""
    return None if cfg.adapter.fisher == NONE else Importance(cfg)


class Importance:
    """Row and column means of the Fisher matrix of every adapted weight, on public rows.

    A patch is their Tree; every machine decomposes its own base by it.
    """

    asked: Sequence[int] = ()
    what = "nothing"
    choice = f"adapter.fisher={PUBLIC}"
    without_clients = f"adapter.fisher={NONE}"
    rows_key = "adapter.fisher_samples"

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.derived = cfg.adapter.setup == DERIVE
        self.codec = from_spec({"id": "fp32"})

    def answer(self, model: PeftModel, rows: Dataset, collate: Collate, client: int) -> Tree:
        """Return nothing: no client is asked."""
        return {}

    def answer_like(self, model: PeftModel) -> Tree:
        """Return nothing: no client is asked."""
        return {}

    def answer_bytes(self, model: PeftModel) -> int:
        """Return 0: no client is asked."""
        return 0

    def check_answer(self, answer: Tree) -> None:
        """Do nothing: no client is asked."""

    def from_answers(self, answers: list[Tree]) -> Tree:
        """Return nothing: no client is asked."""
        return {}

    def from_public(self, model: PeftModel, data: Mapping[str, Dataset], collate: Collate) -> Tree:
        """Return the importance of all weights on the first public rows in a seeded order.

        Raises
        ------
        ValueError
            If the data set has no public rows.
        """
        import torch

        from fl_app.adapters.lq_lora.fisher import importance

        if "public" not in data:
            raise ValueError(
                "adapter.fisher=public takes gradients on public rows, and this data has none: set "
                "data.public.path, or adapter.fisher=none"
            )
        rows, seed = data["public"], self.cfg.seed
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
        chosen = order[: self.cfg.adapter.fisher_samples]
        examples: Iterable[Mapping[str, Tensor]] = (collate([rows[i]]) for i in chosen)
        return importance(model, examples, seed)
