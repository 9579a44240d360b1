"""The first job of a sweep, checked before Hydra starts: most mistakes are in every job."""

import shlex
from collections.abc import Iterable, Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from fl_app.config import CONF_DIR, compose
from fl_app.config.data_only import key_of
from fl_app.preflight import check_values
from fl_app.preflight.inferred import announced

OF_THE_SWEEP = ("sweep", "resume", "job", "output.name", "output.dir")  # keys not passed to runs


def check_first(arguments: Sequence[str]) -> None:
    """Check the configuration of the first job without torch and Flower.

    What only Hydra can say is left to it, such as options that are not overrides, or the values
    that a search draws.

    Parameters
    ----------
    arguments : sequence of str
        Those of ``python -m fl_app.sweep``.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    """
    words = first_job([word for word in arguments if not word.startswith("-")])
    if words is not None:
        check_values(compose(announced(shlex.join(words))))


def first_job(words: Sequence[str]) -> list[str] | None:
    """Return the overrides of the first job; None if Hydra alone knows them.

    Parameters
    ----------
    words : sequence of str
        Overrides as they are typed, of which some have several values.
    """
    parser = OverridesParser.create()
    try:
        typed = [parser.parse_override(word) for word in words]
        grid = [parser.parse_override(word) for word in _grid(typed)]
        if any(key_of(one).startswith("hydra.sweeper") for one in typed):
            return None
        return _first_of(parser, [*grid, *typed])
    except (HydraException, OSError, ValueError):
        return None


def _first_of(parser: OverridesParser, overrides: Iterable[Override]) -> list[str]:
    """Return each override with its first value, of one key the last as in Hydra's own sweeper."""
    chosen: dict[str, str] = {}
    more: list[str] = []
    for one in overrides:
        key, word = one.get_key_element(), str(one.input_line)
        if one.is_sweep_override():
            if not one.is_discrete_sweep():
                continue  # an interval: the search draws a value
            word = f"{key}={next(one.sweep_string_iterator())}"
        if key_of(one) == "job":
            more = shlex.split(str(parser.parse_override(word).value()))
        elif key_of(one) not in OF_THE_SWEEP and not key_of(one).startswith(("hydra.", "hydra/")):
            chosen[key] = word
    return [*chosen.values(), *more]


def _grid(typed: Iterable[Override]) -> Iterator[str]:
    """Yield the overrides of the grid that ``+sweep=NAME`` chooses."""
    for one in typed:
        if key_of(one) == "sweep":
            found = OmegaConf.load(CONF_DIR / "sweep" / f"{one.value()}.yaml")
            params = OmegaConf.select(found, "hydra.sweeper.params", default={})
            yield from (f"{key}={value}" for key, value in params.items())
