"""LoRA-SB's first step in a federation: whose rows the gradients for B, A and R0 are taken on.

The numerics are in ``fl_app.adapters.lora_sb.gradients``; here is who computes what.

- ``random``: nobody. B and A are drawn from the seed and R0 = 0.
- ``server_public``: the server, on the rows that its data set calls ``public``; clients get the
  result, or find it by themselves from the same rows (``adapter.setup=derive``).
- ``client_mean``, ``first_client``: every client, or client 0, sends the signs of its gradient
  once; the server decomposes their mean.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from datasets import Dataset
from omegaconf import DictConfig
from torch import Tensor

from fl_app.adapters.lora_sb.factors import to_tree
from fl_app.adapters.lora_sb.gradients import batches, factors, gradients, mean_factors, signs
from fl_app.adapters.lora_sb.layers import layers
from fl_app.codecs import Codec, WireError, from_spec
from fl_app.seeds import turn_seed
from fl_app.session import Session
from fl_app.tree import Tree

DERIVED = "derived"  # what a process knows this patch by
LORA_SB, RANDOM, SERVER_PUBLIC, CLIENT_MEAN = "lora_sb", "random", "server_public", "client_mean"


def is_needed(cfg: DictConfig) -> bool:
    """Return whether B, A and R0 come from gradients."""
    return cfg.adapter.id == LORA_SB and cfg.adapter.init != RANDOM


def is_derived(cfg: DictConfig) -> bool:
    """Return whether every client finds B, A and R0 by itself."""
    return is_needed(cfg) and cfg.adapter.setup == "derive"


def askers(cfg: DictConfig) -> list[int]:
    """Return the clients whose gradients are wanted."""
    everyone = range(cfg.federation.clients)
    return {SERVER_PUBLIC: [], CLIENT_MEAN: list(everyone)}.get(cfg.adapter.init, [0])


def public(here: Session) -> Tree:
    """Return B, R0 and A of every module from the public rows.

    Raises
    ------
    ValueError
        If the data set has no public rows.
    """
    if "public" not in here.data:
        raise ValueError(
            "adapter.init=server_public takes the first gradients on public rows, and this data "
            "has none: set data.public.path, or adapter.init to random, client_mean or first_client"
        )
    cfg = here.cfg
    return to_tree(
        factors(here.model, _batches(here, here.data["public"], cfg.seed), cfg.adapter, cfg.seed)
    )


def client_signs(here: Session, rows: Dataset, partition: int) -> Tree:
    """Return the signs of a client's gradient on its rows at W0, [out, in] of every module."""
    seed = turn_seed(here.cfg.seed, 0, partition)
    official = here.cfg.adapter.official_numerics
    return signs(
        gradients(
            here.model,
            _batches(here, rows, seed),
            seed=seed,
            official_numerics=official,
        )
    )


def from_signs(here: Session, clients: list[Tree]) -> Tree:
    """Return B, R0 and A of the mean of the clients' first steps."""
    return to_tree(mean_factors(clients, here.cfg.adapter))


def sign_codec() -> Codec:
    """Return the codec that signs travel in: one bit each, without loss."""
    return from_spec({"id": "sign", "scope": "tree"})


def signs_like(here: Session) -> Tree:
    """Return the names and shapes of the signs."""
    return {
        name: np.zeros((layer.out_features, layer.in_features), np.float32)
        for name, layer in layers(here.model).items()
    }


def checked_signs(tree: Tree) -> Tree:
    """Return what a client sent as signs; WireError if it is not all +1 and -1.

    The codec has a scale, with which one client would outweigh all others in the mean.
    """
    if any((np.abs(values) != 1).any() for values in tree.values()):
        raise WireError("signs of a gradient are +1 and -1 alone")
    return tree


def _batches(here: Session, rows: Dataset, seed: int) -> Iterator[Mapping[str, Tensor]]:
    """Yield batches of the first rows in a seeded order: files are often sorted."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    cfg = here.cfg.adapter
    chosen = [rows[i] for i in order[: cfg.init_samples]]
    return batches(
        chosen, here.task.training, samples=cfg.init_samples, batch_size=cfg.init_batch_size
    )
