"""What is checked before anything starts: every joint brings its rules, which are called here.

A joint's ``checks.check(cfg)`` raises for the first rule that is broken. It reads the configuration
alone, and may take for granted what those above it in ``JOINTS`` have checked.
"""

from collections.abc import Callable
from types import ModuleType

from omegaconf import DictConfig

from fl_app.adapters import checks as adapters
from fl_app.config import ConfigError
from fl_app.data import checks as data
from fl_app.models import checks as models
from fl_app.preflight import federation
from fl_app.privacy import checks as privacy
from fl_app.runs import checks as runs
from fl_app.runs import loggers
from fl_app.secure_aggregation import checks as secure_aggregation
from fl_app.tasks import checks as tasks
from fl_app.training import checks as training
from fl_app.wire import checks as wire

JOINTS: tuple[ModuleType, ...] = (
    federation,
    data,
    tasks,
    models,
    adapters,
    training,
    wire,
    runs,
    privacy,
    secure_aggregation,
)


def check(cfg: DictConfig) -> None:
    """Check all that a run on this machine needs, before anything is started.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    """
    check_node(cfg)
    check_strategy(cfg)
    data.check_sources(cfg)
    _call(loggers.check, cfg)


def check_node(cfg: DictConfig) -> None:
    """Check every value that can be checked without a model, data or a network.

    Clients need no more than that: only the server has loggers, the test set and the strategy.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    """
    for joint in JOINTS:
        _call(joint.check, cfg)


def check_strategy(cfg: DictConfig) -> None:
    """Check the server's half of a method, where it will be built.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    """
    from fl_app.aggregation import checks  # with strategies, which no node imports

    _call(checks.check, cfg)


def _call(check_part: Callable[[DictConfig], None], cfg: DictConfig) -> None:
    try:
        check_part(cfg)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(str(error)) from None
