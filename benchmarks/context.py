"""``python -m benchmarks.context``: the payloads of an experiment with and without a context.

The rounds of an experiment whose codecs are ``entropy`` run in this process, with ``context: true``
both ways. Every section of levels is read back and coded again as it would be without, whole and in
pieces of some 10,000 values, each as a message of its own. The default experiment, `thin`, takes a
quarter of an hour.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from fl_app.aggregation.inner import inner_strategy
from fl_app.build import open_session
from fl_app.codecs import Codec, Wire, from_spec
from fl_app.codecs.entropy import BESIDE, MIXED
from fl_app.codecs.streams import mixing, smallest
from fl_app.server.coded import Coded
from fl_app.simulation.loopback import Loopback
from fl_app.tree import Tree
from fl_app.wire.envelope import opened
from fl_app.wire.frame import unpack
from fl_app.wire.heads import QUESTION, REPLY, Head
from fl_app.wire.ledger import Ledger
from fl_app.wire.messages import BARE
from fl_app.wire.records import to_record

PIECE = 10_000
"""Values of a piece at least; whole tensors."""
ALPHABET = 256


@dataclass(frozen=True)
class Levels:
    """The symbols of one message, and the reference of the values that they stand for."""

    name: str
    symbols: np.ndarray
    tensors: Sequence[np.ndarray]

    def pieces(self) -> Iterator[Levels]:
        """Yield consecutive tensors of `PIECE` values and more; what is left over is left out."""
        start, first, end = 0, 0, 0
        for number, x in enumerate(self.tensors, start=1):
            end += x.size
            if end - start >= PIECE:
                yield Levels(self.name, self.symbols[start:end], self.tensors[first:number])
                start, first = end, number

    def sizes(self) -> tuple[int, int, int]:
        """Return the bytes without a context, and by each of the two streams with one."""
        plain = len(smallest.encode(self.symbols, 8))

        def mixed(beside: bool) -> int:
            coded = mixing.encode(self.symbols, self.tensors, ALPHABET, beside)
            return plain if coded is None else min(plain, 1 + len(coded))

        return plain, mixed(False), mixed(True)


def levels(name: str, codec: Codec, wire: Wire, ref: Tree) -> Levels:
    """Return the levels of a message.

    Raises
    ------
    ValueError
        The codec is no `entropy` around one that sends levels of 8 bits.
    """
    if codec.spec["id"] == "entropy":
        streams = from_spec(codec.spec["inner"]).streams(ref)
        for section, stream in zip(wire.sections, streams, strict=True):
            if not stream.tensors or stream.bits != 8:
                continue
            if section[0] in (MIXED, BESIDE):
                beside = section[0] == BESIDE
                symbols = mixing.decode(section[1:], stream.tensors, ALPHABET, beside)
            else:
                symbols = smallest.decode(section, stream.count, stream.bits)
            return Levels(name, symbols, stream.tensors)
    raise ValueError(f"{codec.spec} sends no levels of 8 bits behind entropy, as codec=thin does")


def messages(overrides: str) -> Iterator[Levels]:
    """Run an experiment; yield the levels of each message in the order in which they are sent."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    here = open_session(overrides)
    grid = Loopback(overrides, nodes=here.cfg.federation.clients)

    def wire(message: Message, head: Head, codec: Codec) -> Wire | None:
        frame = opened(message.content, head)[1] if BARE in message.content else None
        return None if frame is None else unpack(frame, codec, here.manifest)

    with tempfile.TemporaryDirectory() as folder:
        server = Coded(inner_strategy(here.cfg), here, Ledger(Path(folder, "ledger.csv")))
        arrays = to_record(here.theta0)
        for number in range(1, here.cfg.rounds + 1):
            asked = [*server.configure_train(number, arrays, ConfigRecord(), cast(Grid, grid))]
            broadcast = here.theta0
            if asked and (sent := wire(asked[0], QUESTION, here.down)):  # they all bring the same
                yield levels(f"round {number}, down", here.down, sent, here.theta0)
                broadcast = here.down.decode(sent, here.theta0)
            replies = grid.send_and_receive(asked)
            for reply in replies:
                if sent := wire(reply, REPLY, here.up):
                    yield levels(f"round {number}, up", here.up, sent, here.reference(broadcast))
            after, _ = server.aggregate_train(number, replies)
            arrays = arrays if after is None else after


def lines(found: Iterator[Levels]) -> Iterator[str]:
    """Yield a Markdown row for every message, and for its pieces together."""
    yield "| message | values | without, B | context, B | and lines before, B | saved |"
    yield "|---|---|---|---|---|---|"
    totals: dict[str, np.ndarray] = {}
    for one in found:
        pieces = [*one.pieces()]
        for title, parts in ((one.name, [one]), (f"{one.name}, {len(pieces)} pieces", pieces)):
            if not parts:
                continue
            sizes = np.sum([part.sizes() for part in parts], axis=0)
            kind = "whole" if parts[0] is one else "in pieces"
            totals[kind] = totals.get(kind, 0) + sizes
            yield _row(title, str(sum(part.symbols.size for part in parts)), sizes)
    for kind, sizes in totals.items():
        yield _row(f"all, {kind}", "", sizes)


def _row(title: str, values: str, sizes: np.ndarray) -> str:
    plain, context, beside = sizes
    saved = 1 - min(context, beside) / plain
    return f"| {title} | {values} | {plain:,} | {context:,} | {beside:,} | {saved:.1%} |"


def main() -> None:
    """Print the table, line by line."""
    parser = argparse.ArgumentParser(description="what a context saves of real updates")
    parser.add_argument("overrides", nargs="*", default=["experiment=thin"])
    words = " ".join(parser.parse_args().overrides)
    both = "+codec.up.context=true +codec.down.context=true"
    for line in lines(messages(f"{words} {both}")):
        print(line, flush=True)


if __name__ == "__main__":
    main()
