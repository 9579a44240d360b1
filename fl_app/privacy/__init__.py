"""Differential privacy: of a client's rows (DP-SGD), and of whole clients (Flower's wrappers).

``pip install thinwire[private]`` brings Opacus, which all of it needs. docs/privacy.md says what
is protected from whom, and what is not.

- ``accounting``: epsilon of a noise multiplier, and the reverse.
- ``budget``: what the configuration asks of a client, and what a run has spent.
- ``per_row``: the gradient of every row of a batch.
- ``dp_sgd``: a client's turn with clipped gradients and noise.
- ``clipping``: the client's half of Flower's client-side clipping.
- ``checks``: combinations of options that would not be private.
"""

from omegaconf import DictConfig

from fl_app.config import plain

NONE = "none"
IDS = (NONE, "dp_sgd")
NOISES = ("seeded", "secret")
WRAPPERS = "flwr.serverapp.strategy.DifferentialPrivacy"  # how the names of Flower's begin


def is_example_level(cfg: DictConfig) -> bool:
    """Return whether clients train with DP-SGD."""
    return bool(cfg.privacy.id != NONE)


def is_client_level(cfg: DictConfig) -> bool:
    """Return whether one of Flower's wrappers is in ``strategy.inner``."""
    part = plain(cfg.strategy.inner)
    while isinstance(part, dict):
        if str(part.get("_target_")).startswith(WRAPPERS):
            return True
        part = part.get("strategy")
    return False
