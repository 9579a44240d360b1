"""Differential privacy: of a client's rows (DP-SGD), and of whole clients (a noised mean).

``pip install -e '.[private]'`` brings Opacus, whose accountants it needs. docs/privacy.md says
what is protected from whom, and what is not.

- ``accounting``: epsilon of a noise multiplier, and the reverse.
- ``budget``: what the configuration asks of a client, and what a run has spent.
- ``clipped_sum``: gradients of single rows, clipped and added up.
- ``module_state``: what a model would keep of a row, put back.
- ``dp_sgd``: a client's turn with that sum and noise.
- ``gaussian``: noise out of a key.
- ``clipping``: updates of single clients, clipped.
- ``checks``: combinations of options that would not be private.
"""

from omegaconf import DictConfig

from fl_app.config import nested_strategies

NONE = "none"
IDS = (NONE, "dp_sgd")
SECRET, SEEDED = NOISES = ("secret", "seeded")
CLIPPING_NORM = "clipping_norm"  # an option of the strategy, and in the config of a message
CLIPPERS = ("server", "client")
RELEASE = "strategies.private_release.PrivateRelease"
WRAPPERS = "flwr.serverapp.strategy.DifferentialPrivacy"  # how the names of Flower's own begin


def is_example_level(cfg: DictConfig) -> bool:
    """Return whether clients train with DP-SGD."""
    return bool(cfg.privacy.id != NONE)


def is_client_level(cfg: DictConfig) -> bool:
    """Return whether a wrapper for privacy is in ``strategy.inner``."""
    ours = (RELEASE, WRAPPERS)
    return any(str(one.get("_target_")).startswith(ours) for one in nested_strategies(cfg))


def noise(cfg: DictConfig) -> str | None:
    """Return where the noise of the configuration comes from; None without privacy."""
    if is_example_level(cfg):
        return str(cfg.privacy.noise)
    if is_client_level(cfg):
        return SECRET if cfg.strategy.inner.get("seed") is None else SEEDED
    return None
