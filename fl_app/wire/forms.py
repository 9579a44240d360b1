"""Forms: which named Trees the messages of a training turn carry, each way, and with which codecs.

Without ``strategy.forms`` there is one: the model, by ``codec.down`` and ``codec.up``. A strategy
may choose another of the configuration's forms for a client and a round. The message then says its
number, and the client takes none that its own configuration does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fl_app.codecs import Codec, from_spec
from fl_app.codecs.by_part import MODEL, by_part, join, separate
from fl_app.faults.printable import printable
from fl_app.tree import Tree
from fl_app.wire.messages import ARRAYS, BARE, CONFIG, FORM, TRAVEL
from fl_app.wire.readers import integer

if TYPE_CHECKING:
    from flwr.app import ConfigRecord

DEFAULT = "default"  # the form of a message that names none
TAKEN = {ARRAYS, BARE, CONFIG, TRAVEL, "metrics"}  # records of a message beside its parts


@dataclass(frozen=True)
class Parcel:
    """The parts of one message and their codecs.

    Attributes
    ----------
    codecs : dict of str to Codec
        By part, in the order of the frame.
    whole : Codec
        What codes them all: the model's own codec where there is nothing else, else `by_part`.
    """

    codecs: Mapping[str, Codec]
    whole: Codec

    def join(self, parts: Mapping[str, Tree]) -> Tree:
        """Return the parts as the one Tree that ``whole`` codes.

        Raises
        ------
        ValueError
            If they are not the parts of this form.
        """
        if {*parts} != {*self.codecs}:
            raise ValueError(
                f"the message has parts {sorted(parts)}, its form {sorted(self.codecs)}: a method "
                "has to return the parts that strategy.forms names"
            )
        return join({name: parts[name] for name in self.codecs})

    def separate(self, tree: Tree) -> dict[str, Tree]:
        """Undo `join`."""
        return separate(tree, list(self.codecs))


@dataclass(frozen=True)
class Form:
    """What a client of this form receives, and what it sends."""

    name: str
    down: Parcel
    up: Parcel


def forms(codec: Mapping[str, Any], asked: Mapping[str, Any] | None) -> dict[str, Form]:
    """Return the forms of a run by name; `DEFAULT` is always among them.

    Parameters
    ----------
    codec : mapping
        ``codec`` of the configuration: specs ``down`` and ``up``.
    asked : mapping or None
        ``strategy.forms``: ``{NAME: {down: {PART: spec}, up: {PART: spec}}}``.

    Raises
    ------
    ValueError
        If a form lacks a direction or a part, a spec is none, or a codec that remembers is not the
        same in all of them: a client has one memory.
    """
    found = {DEFAULT: plain_form(codec)}
    for name, form in (asked or {}).items():
        if not isinstance(form, Mapping) or {*form} != {"down", "up"}:
            raise ValueError(f"strategy.forms.{name} should have `down` and `up`, with the parts")
        found[name] = Form(name, *(_parcel(f"{name}.{d}", form[d]) for d in ("down", "up")))
    wholes = [form.up.whole for form in found.values()]
    if any(one.remembers for one in wholes) and len({one.fingerprint for one in wholes}) > 1:
        raise ValueError(
            "strategy.forms: a codec that remembers has to be the same, with the same parts, in "
            f"`up` of every form, {DEFAULT} too: set a codec.up that remembers nothing"
        )
    return found


def plain_form(codec: Mapping[str, Any]) -> Form:
    """Return the form of the model alone, which evaluation always has."""
    return Form(DEFAULT, *(_parcel("", {MODEL: codec[d]}) for d in ("down", "up")))


def _parcel(where: str, specs: Any) -> Parcel:
    if not isinstance(specs, Mapping) or not specs:
        raise ValueError(f"strategy.forms.{where} should name parts and a codec for each")
    if taken := TAKEN & {*map(str, specs)}:
        raise ValueError(
            f"strategy.forms.{where}: no part may be called {', '.join(sorted(taken))}"
        )
    codecs = {str(part): _codec(where, str(part), spec) for part, spec in specs.items()}
    if [*codecs] == [MODEL]:
        return Parcel(codecs, codecs[MODEL])
    try:
        return Parcel(codecs, by_part(*codecs.values(), names=list(codecs)))
    except ValueError as error:
        raise ValueError(f"strategy.forms.{where}: {error}") from None


def _codec(where: str, part: str, spec: Any) -> Codec:
    try:
        return from_spec(spec)
    except ValueError as error:
        if not where:
            raise  # it is that of the group ``codec``
        raise ValueError(
            f"strategy.forms.{where}.{part}, which wraps what codec chooses: {error}"
        ) from None


def named(config: ConfigRecord, known: Mapping[str, Form]) -> Form:
    """Return the form that a strategy's config names.

    Raises
    ------
    ValueError
        If it is none of this run.
    """
    name = config.get(FORM, DEFAULT)
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"form {printable(name, most=40)!r} is none of this run: {sorted(known)}")
    return known[name]


def number(form: Form, known: Mapping[str, Form]) -> dict[str, int]:
    """Return what a message's head says of its form: nothing of the default."""
    return {} if form.name == DEFAULT else {FORM: [*known].index(form.name)}


def numbered(said: Mapping[str, Any], known: Mapping[str, Form]) -> Form:
    """Return the form whose number a message's head says; WireError if it is none of this run."""
    if FORM not in said:
        return known[DEFAULT]
    return [*known.values()][integer(said, FORM, 0, len(known) - 1)]
