"""The rules of secure aggregation: its options, and what it makes no sense with."""

from omegaconf import DictConfig

from fl_app.adapters import needed_setup
from fl_app.codecs.modular import ring
from fl_app.config import plain
from fl_app.config.rules import Rule, Rules, check_rules, is_number
from fl_app.secure_aggregation.settings import KEY, LEAST_CLIENTS, is_on

RULES: Rules = (
    (
        Rule(
            "in (0.5, 1]: two halves of a group could reveal both secrets of a client",
            lambda x: is_number(x) and 0.5 < x <= 1,
        ),
        (f"strategy.{KEY}.threshold",),
    ),
    (
        Rule(
            "null or a whole number",
            lambda x: x is None or (isinstance(x, int) and not isinstance(x, bool)),
        ),
        (f"strategy.{KEY}.neighbours",),
    ),
)


def check(cfg: DictConfig) -> None:
    """Check that a sum is all that the server needs, and all that it gets.

    Raises
    ------
    ValueError
        Naming the key and what it may be.
    """
    check_rules(cfg, RULES)
    if not is_on(cfg):
        return
    if cfg.link.id != "none":
        raise ValueError(
            f"link.id={cfg.link.id}: the exchanges of a secure sum are not simulated; set link=none"
        )
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
    if cfg.strategy.get("forms") is not None:
        raise ValueError("strategy.forms: secure aggregation adds up models, and no other parts")
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
