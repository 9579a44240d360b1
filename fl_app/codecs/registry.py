"""Codecs by id: what a spec names is looked up here and nowhere else."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fl_app.codecs.base import Codec
from fl_app.faults.suggestions import did_you_mean

Factory = Callable[..., Codec]

_factories: dict[str, Factory] = {}


def register(codec_id: str, later: Sequence[str] = ()) -> Callable[[Factory], Factory]:
    """Give a codec factory its id; the codecs it returns get their spec from its arguments.

    Arguments must be JSON values or codecs (``inner``, or ``*links`` for a sequence of them).

    Parameters
    ----------
    codec_id : str
        The id.
    later : sequence of str
        Arguments that a spec names only where they are not their defaults: they are younger than
        the codec, whose specs stay what they were.

    Raises
    ------
    ValueError
        The id is taken.
    """

    def decorate(factory: Factory) -> Factory:
        if codec_id in _factories:
            raise ValueError(f"codec id {codec_id!r} is already registered")
        signature = inspect.signature(factory)

        @functools.wraps(factory)
        def build(*args: Any, **kwargs: Any) -> Codec:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            codec = factory(*bound.args, **bound.kwargs)
            spec = {
                name: _to_spec(value)
                for name, value in bound.arguments.items()
                if name not in later or value != signature.parameters[name].default
            }
            return replace(codec, spec={"id": codec_id, **spec})

        _factories[codec_id] = build
        return build

    return decorate


def known_ids() -> list[str]:
    """Return the registered ids, sorted."""
    return sorted(_factories)


def from_spec(spec: Mapping[str, Any]) -> Codec:
    """Build the codec that a spec names; ``from_spec(c.spec).spec == c.spec``.

    Parameters
    ----------
    spec : mapping
        An ``id`` and the arguments of that codec's factory, as plain dicts, lists and scalars. A
        nested mapping is a codec again.

    Raises
    ------
    ValueError
        Not such a mapping, an unknown id, an unknown, missing or wrong argument.

    Examples
    --------
    >>> import fl_app
    >>> codec = fl_app.from_spec({"id": "chain", "links": [{"id": "delta"}, {"id": "nf4"}]})
    >>> codec.terminal, codec.sections
    (True, 2)
    >>> fl_app.from_spec({"id": "nf5"})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: unknown codec id 'nf5'; known: ... Did you mean 'nf4'?
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("id"), str):
        raise ValueError(
            f"a codec spec is a mapping with an 'id', one of {', '.join(known_ids())}; got {spec!r}"
        )
    codec_id = spec["id"]
    if codec_id not in _factories:
        raise ValueError(
            f"unknown codec id {codec_id!r}; known: {', '.join(known_ids())}."
            f"{did_you_mean(codec_id, known_ids())}"
        )
    factory = _factories[codec_id]
    parameters = inspect.signature(factory).parameters
    accepted = ", ".join(parameters) or "none"
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for name, value in spec.items():
        if name == "id":
            continue
        if name not in parameters:
            raise ValueError(
                f"codec {codec_id!r} has no argument {name!r}; accepted: {accepted}."
                f"{did_you_mean(name, parameters)}"
            )
        if parameters[name].kind is not inspect.Parameter.VAR_POSITIONAL:
            kwargs[str(name)] = from_spec(value) if isinstance(value, Mapping) else value
        elif isinstance(value, Sequence) and not isinstance(value, str):
            args.extend(from_spec(item) for item in value)
        else:
            raise ValueError(f"codec {codec_id!r}: {name} must be a list of specs, got {value!r}")
    for name, parameter in parameters.items():
        optional = parameter.kind is parameter.VAR_POSITIONAL
        if not optional and parameter.default is parameter.empty and name not in spec:
            raise ValueError(f"codec {codec_id!r} needs argument {name!r}; accepted: {accepted}")
    return factory(*args, **kwargs)


def _to_spec(value: Any) -> Any:
    if isinstance(value, Codec):
        return value.spec
    return [_to_spec(item) for item in value] if isinstance(value, tuple) else value
