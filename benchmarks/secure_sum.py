"""``python -m benchmarks.secure_sum``: message bytes of a round, secure aggregation and plain.

Both rounds are of the real ClientApp, in one process, with the same codec.
"""

import logging
import tempfile
from pathlib import Path

from flwr.app import ConfigRecord

from fl_app.aggregation.inner import inner_strategy
from fl_app.build import open_session
from fl_app.secure_aggregation.settings import settings
from fl_app.server.coded import Coded
from fl_app.server.secure import SecureCoded
from fl_app.simulation.loopback import Loopback
from fl_app.wire.ledger import Ledger
from fl_app.wire.records import to_record

SMALL = (
    "data.providers_per_client=1 data.documents_per_provider=1 data.test_documents=1 "
    "data.unseen_providers=1 data.unseen_documents_per_provider=1 data.validation_documents=0 "
    "local_epochs=1 codec=modular"
)
SETTINGS = ((4, None), (10, None), (10, 4), (20, None), (20, 6))
"""Clients, and neighbours of each in secure aggregation; None for all."""


def overrides_of(clients: int, strategy: str) -> str:
    """Return the overrides of a federation in which everyone takes part."""
    return f"{SMALL} federation.clients={clients} clients_per_round={clients} strategy={strategy}"


def message_bytes(overrides: str, clients: int, kind: type[Coded]) -> tuple[int, int]:
    """Return the message bytes of set-up and of training in the first round, of all clients."""
    here, grid = open_session(overrides), Loopback(overrides, clients)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder, "ledger.csv"))
        coded = kind(inner_strategy(here.cfg), here, ledger, sends_theta0=True)
        asked = coded.configure_train(1, to_record(here.theta0), ConfigRecord(), grid)  # type: ignore[arg-type]
        coded.aggregate_train(1, grid.send_and_receive(asked))
    rows = [row for row in coded.ledger.rows if row.round == 1]
    setup, train = (
        sum(row.message_bytes for row in rows if row.kind == part) for part in ("setup", "train")
    )
    return setup, train


def main() -> None:
    """Print a table, bytes per client and round."""
    logging.disable(logging.WARNING)
    print(
        "| clients | neighbours | shares needed | plain | secure | of it keys and shares | more |"
    )
    print("|---|---|---|---|---|---|---|")
    plain: dict[int, int] = {}
    for clients, neighbours in SETTINGS:
        if clients not in plain:
            plain[clients] = message_bytes(overrides_of(clients, "fedavg"), clients, Coded)[1]
        chosen = "null" if neighbours is None else neighbours
        overrides = overrides_of(
            clients, f"secure_fedavg strategy.secure_aggregation.neighbours={chosen}"
        )
        setup, train = message_bytes(overrides, clients, SecureCoded)
        extra = setup + train - plain[clients]
        asked = settings(open_session(overrides).cfg)
        print(
            f"| {clients} | {asked.neighbours} | {asked.threshold} | "
            f"{plain[clients] / clients:,.0f} | {(setup + train) / clients:,.0f} | "
            f"{setup / clients:,.0f} | {extra / plain[clients]:.1%} |"
        )


if __name__ == "__main__":
    main()
