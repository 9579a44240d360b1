"""The client's half of a method: what a client does with what it received, and what it sends back.

Flower's strategies are the server's half. A method that needs both defines them in one file of
``strategies``, and the conf file of its strategy names this half in ``strategy.local``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from datasets import Dataset
from torch import nn

from fl_app.codecs.by_part import MODEL
from fl_app.training.loop import NO_HOOKS, Hooks
from fl_app.tree import Tree, zeros


@dataclass(frozen=True)
class Trained:
    """What the local loop brought.

    Attributes
    ----------
    model : Tree
        The trained tensors.
    metrics : dict
        What the client reports of its turn.
    """

    model: Tree
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Assignment:
    """What a client has for its turn.

    Attributes
    ----------
    parts : dict of str to Tree
        What the message brought, decoded: ``model``, and what else its form names.
    theta0 : Tree
        The start of every trained tensor.
    memory : Tree
        What the method remembers of its last reply that the server accepted; its ``start`` if there
        was none, or if the client lost it.
    config : dict
        What the message's config says to the method, of the keys in its ``config_keys``.
    form : str
        Which form of the run the message and the reply have.
    client, server_round : int
        Who, and when; rounds start at 1. What changes by round is a function of the number, so that
        both ends know it.
    seed : int
        Of this client's turn.
    model : torch module
        The session's model, with the broadcast in it.
    rows : callable
        Returns the client's rows. FaultError where training is private: what leaves the client must
        come out of `train`.
    train : callable
        ``train(hooks)`` runs the local loop from the model as it is, and returns `Trained`.
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
    train: Callable[[Hooks], Trained]


@dataclass(frozen=True)
class Answer:
    """What a client sends back.

    Attributes
    ----------
    parts : dict of str to Tree
        Those of the form; none at all if the client stays silent, which is a reply all the same.
    metrics : dict
        See `Trained`.
    remember : callable
        ``remember(sent)`` returns what the method is given next time, once the server has accepted
        this answer. ``sent`` are the parts as the server decodes them: what both ends keep has to
        be made of these, since a codec may lose something.
    """

    parts: Mapping[str, Tree]
    metrics: Mapping[str, float]
    remember: Callable[[Mapping[str, Tree]], Tree] = lambda sent: {}


class LocalMethod:
    """A client's half of a method; this one is plain training.

    A subclass lives in ``strategies`` and is built from ``strategy.local`` of the configuration.

    Attributes
    ----------
    config_keys : tuple of str
        Keys of a message's config that the server's half writes for this one. A message with any
        other is refused: it would ask for something that this method does not do.
    may_be_silent : bool
        Whether a client may reply without any part.
    """

    config_keys: tuple[str, ...] = ()
    may_be_silent = False

    def start(self, theta0: Tree) -> Tree:
        """Return what a client remembers before its first turn; empty for nothing."""
        del theta0
        return {}

    def like(self, part: str, theta0: Tree) -> Tree:
        """Return the reference of a part that is not the model: names, shapes and values."""
        del part
        return zeros(theta0)

    def run(self, given: Assignment) -> Answer:
        """Do a turn.

        Parameters
        ----------
        given : Assignment
            What the client has for it.

        Returns
        -------
        Answer
            What it sends back, and what it remembers.
        """
        trained = given.train(NO_HOOKS)
        return Answer({MODEL: trained.model}, trained.metrics)


def local_method(arguments: Mapping[str, Any] | None) -> LocalMethod:
    """Build the method that ``strategy.local`` names; plain training for None.

    The name was checked as text with the whole configuration, see ``fl_app.config.data_only``.

    Raises
    ------
    ValueError
        If it is no LocalMethod, or does not take the arguments.
    """
    if arguments is None:
        return LocalMethod()
    arguments = dict(arguments)
    target = arguments.pop("_target_")
    module, _, name = target.rpartition(".")
    kind = getattr(import_module(module), name)
    if not (isinstance(kind, type) and issubclass(kind, LocalMethod)):
        raise ValueError(f"strategy.local={target} is no LocalMethod")
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"strategy.local={target}: {error}") from None
