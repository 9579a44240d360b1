"""The rules of ``federation.sampling=nodes``: what has to know clients beforehand refuses it."""

from omegaconf import DictConfig

from fl_app.adapters import needed_setup
from fl_app.config import ConfigError, plain
from fl_app.privacy import is_client_level, is_example_level
from fl_app.secure_aggregation.settings import is_on
from fl_app.wire.forms import forms
from fl_app.wire.messages import BY_NODE


def check(cfg: DictConfig) -> None:
    """Check that nothing has to know which client is on which node.

    Raises
    ------
    ConfigError
        Naming what does.
    """
    if cfg.federation.sampling != BY_NODE:
        return
    setup = needed_setup(cfg)
    known = forms(plain(cfg.codec), plain(cfg.strategy.get("forms")))
    for needs, what in (
        (cfg.federation.clients_per_node is not None, "federation.clients_per_node names nodes"),
        (is_on(cfg), "secure aggregation agrees with each client before it trains"),
        (is_example_level(cfg), "privacy.id counts the turns of each client beforehand"),
        (is_client_level(cfg), "privacy of whole clients draws them by a known chance"),
        (setup is not None and setup.asked, "adapter.init asks clients before round 1"),
        (
            any(form.up.whole.remembers for form in known.values()),
            "codec.up remembers something of each client",
        ),
    ):
        if needs:
            raise ConfigError(f"federation.sampling={BY_NODE}, but {what}: set it to partitions")
