"""``python -m benchmarks.leaderboard [ENTRY ...]``: the competition's table of bytes, measured.

Every entry is an experiment of conf/experiment/. All of its rounds go through the real strategy,
client app, adapter, codec and ledger, on a VT5 of full size. Bytes do not depend on what is
learned, so the weights are random, a turn is one pass over one short generated document with AdamW,
server and clients share a process (and with it one model), and every download brings the model,
as in the competition, the first one too. Ledgers are kept in
``runs/leaderboard/``; an entry that has a ledger is not run again. The exit status is 1 if a total
is not the published one.

``thinnest`` is ours and no entry. Its bytes do depend on what is learned, since a code costs more
where it has moved: its turns are of 50 steps, on 25 documents, and its line is the last.
"""

import argparse
import csv
import gc
import logging
import resource
import sys
import time
from pathlib import Path
from typing import cast

from flwr.app import ConfigRecord
from flwr.serverapp import Grid

from fl_app.aggregation.inner import inner_strategy
from fl_app.build import forget_session, open_session
from fl_app.config import compose
from fl_app.files import project_root
from fl_app.server.coded import Coded
from fl_app.simulation.loopback import Loopback
from fl_app.wire.conventions import COLUMNS, GIGABYTE
from fl_app.wire.ledger import Ledger
from fl_app.wire.records import to_record

PUBLISHED = {  # GB of 2^30 bytes, with the digits that are known
    "fedavg_baseline": "44.6561",
    "fedshampoo": "10.0174",
    "lora_baseline": "5.5272",
    "fedshampoo_lora": "1.1865",
    "lora_tuned": "0.3797",
    "nf4_lora": "0.0153",
    "nf4_lora_r6": "0.00716",
}
OURS = {  # by which it differs from SHORT
    "thinnest": "batch_size=1 data.documents_per_provider=25 "
    "'turns=[{local_epochs: 2, optimizer: {weight_decay: 0.1}}, {local_epochs: 2}]'",
}
SHORT = (
    "model=vt5-base-random model.config.prompt=decoder model.max_length=64 optimizer=adamw "
    "data=docvqa_mini data.providers_per_client=1 data.documents_per_provider=1 "
    "data.test_documents=1 data.validation_documents=0 local_epochs=1"
)


def overrides_of(entry: str) -> str:
    """Return the entry's experiment, on random weights and little data."""
    return f"experiment={entry} {SHORT} {OURS.get(entry, '')}"


def ledger_of(entry: str) -> Path:
    """Return the path of an entry's ledger."""
    return project_root() / "runs" / "leaderboard" / f"{entry}.csv"


def run(entry: str) -> None:
    """Run all rounds of an entry and keep its ledger."""
    overrides = overrides_of(entry)
    began = time.perf_counter()
    here = open_session(overrides)
    built = time.perf_counter()
    target = ledger_of(entry)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    coded = Coded(inner_strategy(here.cfg), here, Ledger(partial), sends_theta0=True)
    grid = Loopback(overrides, nodes=here.cfg.federation.clients)
    coded.start(
        cast(Grid, grid),
        to_record(here.theta0),
        num_rounds=here.cfg.rounds,
        train_config=ConfigRecord(),
    )
    partial.rename(target)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{entry}: built in {built - began:.0f} s, {here.cfg.rounds} rounds in "
        f"{time.perf_counter() - built:.0f} s, at most {peak:.1f} GiB so far",
        file=sys.stderr,
        flush=True,
    )


def row(entry: str) -> tuple[str, bool]:
    """Return an entry's line of the table, and whether its total is the published one, or ours."""
    cfg = compose(overrides_of(entry))
    with ledger_of(entry).open(newline="") as file:
        transfers = [r for r in csv.DictReader(file) if r["kind"] == "train"]
    gigabytes = {
        convention: sum(int(r[column]) for r in transfers) / GIGABYTE
        for convention, column in COLUMNS.items()
    }
    messages = sum(int(r["message_bytes"]) for r in transfers) / GIGABYTE
    scalars = {int(r["scalars"]) for r in transfers}
    published = PUBLISHED.get(entry, "-")
    digits = len(published.partition(".")[2]) or 7
    counted = f"{gigabytes[cfg.output.convention]:.{digits}f}"
    return (
        f"| {entry} | {cfg.rounds} x {cfg.clients_per_round} x 2 = {len(transfers)} "
        f"| {', '.join(f'{count:,}' for count in scalars)} | {transfers[0]['codec']} "
        f"| {gigabytes['sent']:.5f} | {gigabytes['competition']:.5f} | {messages:.5f} "
        f"| {cfg.output.convention} | {counted} | {published} |"
    ), published in (counted, "-")


def main() -> None:
    """Run what is missing, print the table, and compare."""
    parser = argparse.ArgumentParser(description="rebuild the competition's table of bytes")
    parser.add_argument("entries", nargs="*", default=[*PUBLISHED, *OURS], metavar="ENTRY")
    arguments = parser.parse_args()
    known = {**PUBLISHED, **OURS}
    unknown = sorted({*arguments.entries} - {*known})
    if unknown:
        parser.error(f"unknown {', '.join(unknown)}; known: {', '.join(known)}")
    logging.getLogger("flwr").setLevel(logging.WARNING)
    for entry in arguments.entries:
        if not ledger_of(entry).exists():
            run(entry)
            forget_session()
            gc.collect()
    lines, same = zip(*map(row, arguments.entries), strict=True)
    print(
        "| entry | rounds x clients x directions | scalars per transfer | codec | sent, GB "
        "| competition, GB | Flower messages, GB | the entry counts | ours, GB | published, GB |\n"
        "|---|---|---|---|---|---|---|---|---|---|"
    )
    print("\n".join(lines))
    sys.exit(0 if all(same) else 1)


if __name__ == "__main__":
    main()
