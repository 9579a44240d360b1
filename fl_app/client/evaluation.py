"""A client's scores of the broadcast model."""

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from fl_app.client import rows as node_data
from fl_app.client.patches import patched
from fl_app.client.turn import Clock, decoded
from fl_app.codecs.by_part import MODEL
from fl_app.faults import FaultError
from fl_app.wire import readers
from fl_app.wire.messages import TIMING


def evaluation(message: Message, context: Context) -> Message:
    """Score the broadcast model on the client's own rows.

    Raises
    ------
    WireError
        If the frame is damaged, of another codec, or from another theta0.
    FaultError
        If the run's configuration asks for no such scores: with privacy it never does.
    """
    here = patched(context)
    if not here.cfg.evaluate_clients_per_round:
        raise FaultError("scores")
    client = readers.client(message, here.cfg)
    clock = Clock()
    tree = decoded(message, here, here.plain_form)[MODEL]
    clock.stop("decode")
    rows = node_data.rows(here, context, client)
    scores = here.evaluate(tree, rows)
    clock.stop("work")
    clock.stop("encode")
    metrics = MetricRecord({"num-examples": here.task.examples(rows), **scores})
    content = RecordDict({"metrics": metrics, TIMING: ConfigRecord({**clock.seconds})})
    return Message(content, reply_to=message)
