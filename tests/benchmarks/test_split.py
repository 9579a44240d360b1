"""When SFPrompt sends less than whole models: the formula beside real ledgers."""

import pytest

from benchmarks import split
from fl_app.tree import scalars

FEW = (
    "federation.clients=2 clients_per_round=2 rounds=2 batch_size=2 logger=none "
    "data.providers_per_client=1 data.validation_{rows}=0 data.test_{rows}=1 "
    "data.unseen_providers=1 data.unseen_{rows}_per_provider=1 data.{rows}_per_provider={count}"
)
PROBLEMS = FEW.format(rows="problems", count=6)
DOCUMENTS = FEW.format(rows="documents", count=4)
SPLIT = "experiment=sfprompt strategy.local.gamma=1.0 strategy.local.local_loss=false"


@pytest.mark.parametrize("name", split.SETTINGS)
def test_the_formula_is_what_the_ledger_says(name: str) -> None:
    """A pass over all rows of a client, and its prompts; and what full fine-tuning would send."""
    few = DOCUMENTS if "VT5" in name else PROBLEMS
    words = [*SPLIT.split(), *split.SETTINGS[name].split(), *few.split()]
    here, rows = split.done(words)
    for client in (0, 1):
        own = here.documents(client)
        sizes = split.sizes(here, own)
        layout = 4 * (4 * here.method.most_rows + 1)
        for number in (1, 2):
            mine = [r for r in rows.rows if (r.round, r.partition) == (number, client)]
            sent = sum(r.payload_bytes for r in mine if r.kind == "split")
            steps = sum("layout" in r.codec for r in mine)
            assert steps == len(own) // 2
            assert sent - steps * layout == round(sizes.bytes_a_pass * len(own))
        trained = sum(r.payload_bytes for r in mine if r.kind == "train")
        assert trained == 8 * sizes.trained == 8 * scalars(here.theta0)
    # At E* passes both methods send as much.
    assert sizes.passes * sizes.bytes_a_pass + trained == pytest.approx(8 * sizes.whole)
