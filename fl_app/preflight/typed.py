"""The configuration of what somebody types, on the machine that has the data."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from fl_app import config
from fl_app.config import joined
from fl_app.config.shorthand import typed_out
from fl_app.preflight.inferred import with_inferred


def compose(overrides: str | Sequence[str] = "") -> DictConfig:
    """Compose the configuration that ``overrides`` selects.

    Parameters
    ----------
    overrides : str or sequence of str
        Hydra overrides, separated by blanks and quoted as in a shell:
        ``"experiment=fedavg_lora rounds=3 optimizer.lr=1e-3"``; or one override per item. A path
        may stand for a model or for data, and what is not given of a table is read from it, as on
        the command line.

    Returns
    -------
    DictConfig
        Resolved and read-only. ``experiment`` is a label: the name of the experiment, or "custom"
        if groups were chosen without one.

    Raises
    ------
    ConfigError
        If a group option, key or value is unknown; the message names the key and the
        alternatives. Or if a path does not exist, or a table does not say what is left to it.
    TypeError
        If ``overrides`` is neither a string nor a sequence of strings.

    Examples
    --------
    >>> import fl_app
    >>> cfg = fl_app.compose("experiment=fedavg_lora rounds=3")
    >>> cfg.rounds, cfg.strategy.inner._target_
    (3, 'flwr.serverapp.strategy.FedAvg')
    """
    typed = joined(overrides)
    words = typed_out(typed, Path.cwd())
    return config.compose(overrides if words == typed else with_inferred(words)[0])
