"""Tokens that a server finds again in states."""

from pathlib import Path

from benchmarks.inversion import recovered
from fl_app.build import open_session
from tests.adapters.test_any_model import overrides


def test_embeddings_are_looked_up(tmp_path: Path) -> None:
    """All of them; behind blocks an attack finds a share, and texts know what they have."""
    words = overrides(tmp_path, "causal_lm", "llama", "peft")
    words += " adapter.method=PROMPT_TUNING adapter.args.num_virtual_tokens=4"
    found = dict(recovered(open_session(words)))
    assert [*found] == [0, 1]
    assert found[0] == {"table": 1.0, "texts": 1.0}  # the rows of the test are the client's too
    assert 0 <= found[1]["table"] < 1
    assert found[1]["texts"] == 1.0
