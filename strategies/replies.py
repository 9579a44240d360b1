"""What a reply has to be before a strategy may see it."""

import math
from collections.abc import Collection
from typing import cast

from flwr.app import Message, MetricRecord

from fl_app.codecs import WireError
from fl_app.records import TIMING
from fl_app.text import printable

# Flower weighs a client by its number of examples and the run adds up the seconds, so one absurd
# value would stand for all.
MAX_EXAMPLES = 2**29  # for strategies.mean to be exact
MAX_SECONDS = 1e7  # 116 days


def reason(reply: Message) -> str:
    """Return why a node could not answer, as one line: the node chooses the words.

    This is the one place where they are read.
    """
    return printable(reply.error.reason)


def check_metrics(reply: Message, names: Collection[str]) -> MetricRecord:
    """Return the metrics of a reply, which should be those of ``names``.

    Raises
    ------
    WireError
        If they are not exactly those of this app, each one finite number: Flower's aggregation
        would fail for all clients, or weigh one of them at will.
    """
    records = list(reply.content.metric_records.values())
    if len(records) != 1 or {*records[0]} != {*names}:
        found = [sorted(record) for record in records]
        raise WireError(f"the reply has metrics {found}, expected {sorted(names)}")
    for name, value in records[0].items():
        if isinstance(value, list) or not math.isfinite(value):
            raise WireError(f"metric {name}={value} is not one finite number")
    examples = cast(float, records[0]["num-examples"])
    if not 1 <= examples <= MAX_EXAMPLES:
        raise WireError(f"num-examples={examples} should be in 1..{MAX_EXAMPLES}")
    return records[0]


def check_timing(reply: Message) -> dict[str, float]:
    """Return the seconds that a client reports: ``decode``, ``work`` and ``encode``.

    Raises
    ------
    WireError
        If one is missing or no credible length of time.
    """
    record = reply.content.config_records.get(TIMING)
    seconds: dict[str, float] = {}
    for name in ("decode", "work", "encode"):
        value = None if record is None else record.get(name)
        if not isinstance(value, float) or not 0 <= value <= MAX_SECONDS:
            raise WireError(f"timing {name}={value!r} should be seconds, at most {MAX_SECONDS:g}")
        seconds[name] = value
    return seconds
