"""The optional step of an adapter: what must be agreed before round 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fl_app.codecs import Codec
from fl_app.tree import Tree

if TYPE_CHECKING:  # rules are read before model libraries are imported
    from datasets import Dataset
    from peft import PeftModel
    from torch import Tensor

Collate = Callable[[list[Any]], Mapping[str, "Tensor"]]
"""What makes a batch of rows, see ``Task.training``."""


class Setup(Protocol):
    """How server and clients find the patch that the adapter starts from.

    It is made of public rows, or of what some clients answer, each once in a run. The server then
    sends it as it does any patch, or every machine finds it by itself.

    Attributes
    ----------
    asked : sequence of int
        The clients whose answers are wanted; empty where the patch is made of public rows.
    derived : bool
        Whether every machine finds the patch by itself, so that nothing is sent.
    what : str
        What a client answers, in words.
    codec : Codec
        What an answer travels in. It is no secret: a run that promises privacy asks nobody.
    choice, without_clients : str
        The override that asks these clients, and one that asks none.
    rows_key : str
        The key that says of how many of its rows a client's answer is.
    """

    asked: Sequence[int]
    derived: bool
    what: str
    codec: Codec
    choice: str
    without_clients: str
    rows_key: str

    def answer(self, model: PeftModel, rows: Dataset, collate: Collate, client: int) -> Tree:
        """Return what ``client`` answers, of its ``rows``."""

    def answer_like(self, model: PeftModel) -> Tree:
        """Return a Tree of the names and shapes of an answer."""

    def answer_bytes(self, model: PeftModel) -> int:
        """Return the most bytes that an answer may have on the wire."""

    def check_answer(self, answer: Tree) -> None:
        """Check what a client answered; WireError if it could not have come of its rows."""

    def from_answers(self, answers: list[Tree]) -> Tree:
        """Return the patch of the answers of all ``asked``, in their order."""

    def from_public(self, model: PeftModel, data: Mapping[str, Dataset], collate: Collate) -> Tree:
        """Return the patch of the public rows; ValueError if ``data`` has none."""
