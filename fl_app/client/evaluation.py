"""A client's scores of the broadcast model."""

from flwr.app import Context, Message, MetricRecord, RecordDict

from fl_app.client import rows as node_data
from fl_app.client.patches import patched
from fl_app.client.turn import Clock, decoded
from fl_app.codecs import WireError
from fl_app.codecs.by_part import MODEL
from fl_app.faults import FaultError
from fl_app.wire.envelope import enclosed, opened
from fl_app.wire.heads import QUESTION, REPLY
from fl_app.wire.messages import EXAMPLES


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
    said, frame = opened(message.content, QUESTION)
    if frame is None:
        raise WireError("the message brings no frame")
    client, held = node_data.asked(said, context, here.cfg)
    clock = Clock()
    tree = decoded(frame, here, here.plain_form)[MODEL]
    clock.stop("decode")
    rows = node_data.rows(here, context, client)
    scores = here.evaluate(tree, rows)
    clock.stop("work")
    clock.stop("encode")
    head = REPLY.write({EXAMPLES: here.task.examples(rows), **clock.seconds, **held})
    content = RecordDict({**enclosed(None, head), "metrics": MetricRecord({**scores})})
    return Message(content, reply_to=message)
