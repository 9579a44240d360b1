"""Combinations of options that secure aggregation makes no sense with, refused before the start."""

from omegaconf import DictConfig

from fl_app.adapters import needed_setup
from fl_app.codecs.modular import ring
from fl_app.config import plain
from fl_app.secure_aggregation.settings import KEY, LEAST_CLIENTS, is_on


def check(cfg: DictConfig) -> None:
    """Check that a sum is all that the server needs, and all that it gets.

    Raises
    ------
    ValueError
        Naming the key and what it may be.
    """
    if not is_on(cfg):
        return
    asked, cohort = cfg.strategy[KEY], cfg.clients_per_round
    if cohort < LEAST_CLIENTS:
        raise ValueError(
            f"clients_per_round={cohort} should be at least {LEAST_CLIENTS} with secure "
            "aggregation: of fewer, the sum tells of each"
        )
    if asked.neighbours is not None and (
        asked.neighbours % 2 or not 2 <= asked.neighbours <= cohort - 1
    ):
        raise ValueError(
            f"strategy.{KEY}.neighbours={asked.neighbours} should be null, for all, or even and in "
            f"2..{cohort - 1}"
        )
    weight = cfg.strategy.inner.get("weighted_by_key")
    if weight != "one":
        raise ValueError(
            f"strategy.inner.weighted_by_key={weight} should be one: "
            "weights are added in secret too, see codec.up's max_weight"
        )
    most = ring(plain(cfg.codec.up))
    if most.total // most.max_weight < cohort:
        raise ValueError(
            f"codec.up leaves room for the sum of {most.total // most.max_weight} clients, "
            f"clients_per_round={cohort}"
        )
    if cfg.evaluate_clients_per_round:
        raise ValueError(
            f"evaluate_clients_per_round={cfg.evaluate_clients_per_round} sends scores on the "
            "clients' own rows in the clear: set it to 0 with secure aggregation"
        )
    setup = needed_setup(cfg)
    if setup is not None and setup.asked:
        raise ValueError(
            f"{setup.choice} sends each client's {setup.what} in the clear: set "
            f"{setup.without_clients} with secure aggregation"
        )
