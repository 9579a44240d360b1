"""Documents as a decoder is trained on them: token ids, in pieces of a bounded length.

A document is its tokens and the end token. Pieces are cut within a document, so that no token is
predicted from another document. In front of each piece stands one token that is read and not
predicted: the tokenizer's start token, or where it has none the token before the piece. So every
token of a document is predicted once, but for its first one where no start token stands before it.
"""

from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np

from fl_app.data.padding import IGNORED


class Piece(NamedTuple):
    """Token ids, and the labels of those that are predicted; of the first it is ``IGNORED``."""

    ids: list[int]
    labels: list[int]


class Pieces(Sequence[Piece]):
    """The pieces of documents, in order; a token takes four bytes.

    Parameters
    ----------
    documents : sequence of lists of int
        Token ids, each with the end token and without a start token.
    start : sequence of int
        The start token, or nothing.
    length : int
        Tokens of a piece at most, at least 2.

    Attributes
    ----------
    owners : list of int
        The number of the document of each piece.
    """

    def __init__(
        self, documents: Sequence[Sequence[int]], start: Sequence[int], length: int
    ) -> None:
        self._start = list(start)
        self._tokens = [np.array(ids, np.int32) for ids in documents]
        self.owners: list[int] = []
        self._bounds: list[tuple[int, int]] = []
        for owner, ids in enumerate(self._tokens):
            for first in range(0 if start else 1, len(ids), length - 1):
                self.owners.append(owner)
                self._bounds.append((first, min(first + length - 1, len(ids))))

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self._bounds)

    @overload
    def __getitem__(self, at: int) -> Piece: ...
    @overload
    def __getitem__(self, at: slice) -> list[Piece]: ...
    def __getitem__(self, at: int | slice) -> Piece | list[Piece]:
        """Return a piece, or a list of them."""
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        first, last = self._bounds[at]
        ids = self._tokens[self.owners[at]]
        before = self._start or [int(ids[first - 1])]
        predicted: list[int] = ids[first:last].tolist()
        return Piece([*before, *predicted], [IGNORED, *predicted])
