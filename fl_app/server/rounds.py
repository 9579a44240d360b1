"""The loop over rounds, with replies aggregated as they arrive."""

from collections.abc import Callable
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fl_app.server.mailbox import Mailbox

Score = Callable[[int, ArrayRecord], MetricRecord | None]


def run_rounds(
    strategy: Strategy,
    grid: Grid,
    arrays: ArrayRecord,
    rounds: range,
    *,
    timeout: float,
    train_config: ConfigRecord,
    evaluate_config: ConfigRecord,
    evaluate_fn: Score | None = None,
    score_first: bool = True,
    after: Callable[[int], Any] = lambda number: None,
) -> Result:
    """Run ``rounds`` from ``arrays``, as Flower's ``Strategy.start`` does.

    Unlike it, replies are aggregated while others are still under way.

    Parameters
    ----------
    timeout : float
        Seconds to wait for the replies of a round.
    evaluate_fn : callable or None
        Scores the new model after every round.
    score_first : bool
        Whether it also scores ``arrays``, as of round 0.
    after : callable
        Called with the round's number before its model is scored.
    """
    mailbox, result = Mailbox(grid), Result(arrays=arrays)

    def score(number: int) -> None:
        if evaluate_fn and (scores := evaluate_fn(number, result.arrays)):
            result.evaluate_metrics_serverapp[number] = scores

    if score_first:
        score(0)
    for number in rounds:
        messages = strategy.configure_train(number, result.arrays, train_config, grid)
        trained, metrics = strategy.aggregate_train(number, mailbox.ask(messages, timeout))
        result.arrays = cast(ArrayRecord, trained)
        if metrics:
            result.train_metrics_clientapp[number] = metrics
        messages = strategy.configure_evaluate(number, result.arrays, evaluate_config, grid)
        metrics = strategy.aggregate_evaluate(number, mailbox.ask(messages, timeout))
        if metrics:
            result.evaluate_metrics_clientapp[number] = metrics
        after(number)
        score(number)
    return result
