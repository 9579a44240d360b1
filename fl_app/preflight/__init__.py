"""What is checked before anything starts: every joint brings its rules, which are called here.

A joint's ``checks.check(cfg)`` raises for the first rule that is broken. It reads the configuration
alone, and may take for granted what those above it in ``JOINTS`` have checked. It imports neither
torch nor Flower, so that a wrong value is refused at once; what needs them comes last.
"""

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from omegaconf import DictConfig

from fl_app.adapters import checks as adapters
from fl_app.augment import checks as augment
from fl_app.config import ConfigError, compose
from fl_app.config.shorthand import typed_out
from fl_app.data import checks as data
from fl_app.models import checks as models
from fl_app.preflight import by_node, caches, federation
from fl_app.privacy import checks as privacy
from fl_app.runs import checks as runs
from fl_app.runs import loggers
from fl_app.runs.place import check_free
from fl_app.runs.resume import check_left, folder, last_round, with_stored_overrides
from fl_app.secure_aggregation import checks as secure_aggregation
from fl_app.tasks import checks as tasks
from fl_app.training import checks as training
from fl_app.wire import checks as wire

logger = logging.getLogger("thinwire")

JOINTS: tuple[ModuleType, ...] = (
    federation,
    data,
    tasks,
    augment,
    models,
    adapters,
    training,
    wire,
    runs,
    privacy,
    secure_aggregation,
    by_node,
)


def configured(overrides: str) -> tuple[str, DictConfig]:
    """Return overrides and configuration of a run on this machine, checked without torch or Flower.

    Parameters
    ----------
    overrides : str
        What was typed; those of the start are added if it names a run to resume.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    ResumeError
        If the run to resume is not there, or complete.
    FileExistsError
        If the name of a new run is taken.
    """
    overrides = with_stored_overrides(typed_out(overrides, Path.cwd()))
    overrides = _with_inferred(overrides)
    cfg = compose(overrides)
    check_values(cfg)
    check_free(cfg)
    check_left(cfg)
    return overrides, cfg


def _with_inferred(overrides: str) -> str:
    """Add what the data of this machine say, and print it."""
    from fl_app.preflight import inferred

    overrides = inferred.announced(overrides)
    if said := inferred.same_rows(compose(overrides)):
        logger.warning("%s", said)
    return overrides


def check_built(cfg: DictConfig) -> None:
    """Check what has to be built or read for it: strategy, loggers, model, a run to resume.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    ResumeError
        If the run cannot be resumed like this.
    """
    from fl_app.aggregation import checks as aggregation

    with _without_collection():
        _call(aggregation.check_strategy, cfg)
        _call(loggers.check, cfg)
        _call(models.check_files, cfg)
        _call(adapters.check_model, cfg)
    federation.device(cfg)
    if cfg.resume is not None:
        last_round(cfg, folder(cfg))


def check(cfg: DictConfig) -> None:
    """Check all that a run on this machine needs, before anything is started.

    Raises
    ------
    ConfigError, ResumeError
        See ``check_values`` and ``check_built``.
    """
    check_values(cfg)
    check_built(cfg)


def check_values(cfg: DictConfig) -> None:
    """Check what can be said of a run on this machine without torch and Flower.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    """
    from fl_app.aggregation import checks as aggregation  # which no node imports
    from fl_app.tasks import first_rows

    for joint in (*JOINTS, aggregation):
        _call(joint.check, cfg)
    caches.check(cfg)
    data.check_sources(cfg)
    _call(first_rows.check, cfg)


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
    _call(models.check_files, cfg)


def check_strategy(cfg: DictConfig) -> None:
    """Check the server's half of a method, where it will be built.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    """
    from fl_app.aggregation import checks as aggregation

    _call(aggregation.check, cfg)
    _call(aggregation.check_strategy, cfg)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Suspend garbage collection, a fifth of the time that importing torch takes."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _call(check_part: Callable[[DictConfig], None], cfg: DictConfig) -> None:
    try:
        check_part(cfg)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(str(error)) from None
