"""`python -m benchmarks.context`: what messages carry is what is measured."""

import numpy as np
import pytest

from benchmarks import context
from tests import small

BOTH = "+codec.up.context=true +codec.down.context=true"


def test_the_levels_of_every_message_are_measured() -> None:
    found = [*context.messages(f"{small.RUN} strategy=single_client codec=thin {BOTH}")]
    # The first download is rebuilt, not sent.
    assert [one.name for one in found] == ["round 1, up", "round 2, down", "round 2, up"]
    for one in found:
        assert one.symbols.size == sum(x.size for x in one.tensors)
        assert 0 < np.count_nonzero(one.symbols) < one.symbols.size
        pieces = [*one.pieces()]
        assert len(pieces) > 1
        assert all(p.symbols.size >= context.PIECE for p in pieces)
        joined = np.concatenate([piece.symbols for piece in pieces])
        assert np.array_equal(joined, one.symbols[: joined.size])
    heading, _, *rows = context.lines(iter(found))
    assert len(rows) == 2 * len(found) + 2
    assert {row.count("|") for row in rows} == {heading.count("|")}


def test_a_codec_without_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="sends no levels of 8 bits behind entropy"):
        [*context.messages(f"{small.RUN} strategy=single_client codec=nf4")]
