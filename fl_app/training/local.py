"""The client's half of a method: what a client does with a message, and what it sends back.

The server's half is a Flower strategy. A method that needs both defines them in one file of
``strategies``, and the conf file of its strategy names the client's half in ``strategy.local``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from datasets import Dataset
from torch import nn

from fl_app.codecs.by_part import MODEL
from fl_app.tasks.base import Task
from fl_app.training.loop import NO_HOOKS, Hooks
from fl_app.tree import Tree, zeros


@dataclass(frozen=True)
class Trained:
    """The result of the local loop.

    Attributes
    ----------
    model : Tree
        The trained tensors.
    metrics : dict
        The metrics that the client reports.
    """

    model: Tree
    metrics: Mapping[str, float]


class Training(Protocol):
    """The local loop."""

    def __call__(self, hooks: Hooks, rows: Dataset | None = None) -> Trained:
        """Train on ``rows``, by default all of the client's."""


@dataclass(frozen=True)
class Assignment:
    """The input of a client's turn.

    Attributes
    ----------
    parts : dict of str to Tree
        The decoded parts of the message: ``model``, and others that its form names.
    theta0 : Tree
        The start of every trained tensor.
    memory : Tree
        The method's memory after its last reply that the server accepted; its ``start`` if there
        was none, or if the client lost it.
    config : dict
        The message's config, limited to the method's ``config_keys``.
    form : str
        The name of the form of the message and the reply.
    client, server_round : int
        The client and the round; rounds start at 1. Values that change by round must be functions
        of this number, so that both ends know them.
    seed : int
        The seed of this client's turn.
    model : Module
        The session's model, with the broadcast in it.
    rows : callable
        Returns the client's rows. It raises FaultError if training is private: then only results
        of `train` may leave the client.
    train : callable
        ``train(hooks)`` runs the local loop from the current state of the model and returns
        `Trained`; ``train(hooks, rows)`` on some of the client's rows, where they are not private.
    decoded : callable
        ``decoded(parts)`` returns parts as the server would count them, if they were this turn's
        answer; for a method that remembers.
    task : Task or None
        The run's task, for a method that asks the model about rows; None without a session.
    exchange : int
        Which of the round's exchanges this is, from 0.
    kept : mapping of str to array
        What the method kept of the exchange before, see `Answer`.
    """

    parts: Mapping[str, Tree]
    theta0: Tree
    memory: Tree
    config: Mapping[str, Any]
    form: str
    client: int
    server_round: int
    seed: int
    model: nn.Module
    rows: Callable[[], Dataset]
    train: Training
    decoded: Callable[[Mapping[str, Tree]], Mapping[str, Tree]]
    task: Task | None = None
    exchange: int = 0
    kept: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """The result of a client's turn.

    Attributes
    ----------
    parts : dict of str to Tree
        The parts of the form; empty if the client stays silent, which is a valid reply too.
    metrics : dict
        See `Trained`.
    remember : callable
        ``remember(sent)`` returns the new memory, with the names, shapes and types of ``start``; it
        is used once the server has accepted this answer. ``sent`` are the parts as the server
        counts them, none of a silent client: values that both ends keep must be computed from
        these, since a codec may be lossy, and ``federation.max_update_rms`` scales down.
    keep : mapping of str to array
        What the method needs in the next exchange of this round; it is gone with the round.
    """

    parts: Mapping[str, Tree]
    metrics: Mapping[str, float]
    remember: Callable[[Mapping[str, Tree]], Tree] = lambda sent: {}
    keep: Mapping[str, np.ndarray] = field(default_factory=dict)


class LocalMethod:
    """The client's half of a method; this class itself is plain training.

    A subclass is defined in ``strategies`` and built from ``strategy.local`` of the configuration.

    Attributes
    ----------
    config_keys : tuple of str
        Keys that the server's half writes into a message's config for this half. A message with
        other keys is refused: it would request something that this method does not do.
    may_be_silent : bool
        Whether a client may reply without any part.
    unscaled : tuple of str
        Parts that are no change of tensors, such as votes, or shares of rows:
        ``federation.max_update_rms`` leaves them as they are, and the server's half bounds them.
    ragged : tuple of str
        Parts whose tensors have another number of rows in every message; those of `like` are the
        most that they have. They hold states of a cut model, or gradients of these.
    """

    config_keys: tuple[str, ...] = ()
    may_be_silent = False
    unscaled: tuple[str, ...] = ()
    ragged: tuple[str, ...] = ()

    def start(self, theta0: Tree) -> Tree:
        """Return the memory before a client's first turn; empty for a method without memory."""
        del theta0
        return {}

    def like(self, part: str, theta0: Tree) -> Tree:
        """Return the reference of a part that is not the model: names, shapes and values."""
        del part
        return zeros(theta0)

    def check_sent(self, parts: Mapping[str, Tree], client: int, server_round: int) -> None:
        """Check on the server that a reply's parts are what this method sends; WireError if not."""

    def prepare(self, model: nn.Module) -> None:
        """Note what the shapes of parts depend on; called once, before `like` and `check`."""

    def check(self, theta0: Tree) -> None:
        """Check that the method can train these tensors; ValueError if not."""

    def check_rows(self, rows: Dataset) -> None:
        """Check that rows of clients have what the method reads of them; FaultError if not."""

    def run(self, given: Assignment) -> Answer:
        """Do a client's turn.

        Parameters
        ----------
        given : Assignment
            Its input.

        Returns
        -------
        Answer
            The parts to send, the metrics and the new memory.
        """
        trained = given.train(NO_HOOKS)
        return Answer({MODEL: trained.model}, trained.metrics)


def local_method(arguments: Mapping[str, Any] | None) -> LocalMethod:
    """Build the method that ``strategy.local`` names; plain training for None.

    The name has been checked as text with the whole configuration, see
    ``fl_app.config.data_only``.

    Parameters
    ----------
    arguments : dict or None
        ``_target_`` and the arguments of that class.

    Raises
    ------
    ValueError
        If it is not a LocalMethod, or does not accept the arguments.
    """
    if arguments is None:
        return LocalMethod()
    arguments = dict(arguments)
    target = arguments.pop("_target_")
    module, _, name = target.rpartition(".")
    kind = getattr(import_module(module), name)
    if not (isinstance(kind, type) and issubclass(kind, LocalMethod)):
        raise ValueError(f"strategy.local={target} is not a LocalMethod")
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"strategy.local={target}: {error}") from None
