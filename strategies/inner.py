"""Flower's strategies inside ``Coded``: built from the config, shown nothing but partitions."""

import hydra
from flwr.serverapp.strategy import Strategy
from omegaconf import DictConfig

from fl_app.config import plain


def inner_strategy(cfg: DictConfig) -> Strategy:
    """Build the strategy that ``strategy.inner`` names, to train whoever Coded has sampled.

    Raises
    ------
    ValueError
        If the target is no Flower strategy or does not take the arguments given.
    """
    everyone = {
        "fraction_train": 1.0,
        "fraction_evaluate": 1.0,
        "min_train_nodes": 1,
        "min_evaluate_nodes": 1,
        "min_available_nodes": 1,
    }
    try:
        inner = hydra.utils.instantiate(plain(cfg.strategy.inner), **everyone)
    except Exception as error:
        cause = error.__cause__ or error
        raise ValueError(f"strategy.inner={cfg.strategy.inner._target_}: {cause}") from None
    if not isinstance(inner, Strategy):
        raise ValueError(f"strategy.inner={cfg.strategy.inner._target_} is no Flower strategy")
    return inner


class Cohort:
    """The sampled clients as the inner strategy's whole world: node ids are partition ids."""

    def __init__(self, partitions: list[int]) -> None:
        self.partitions = partitions

    def get_node_ids(self) -> list[int]:
        """Return the partitions of this round."""
        return self.partitions
