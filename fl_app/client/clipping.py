"""The client's half of client-level privacy: each clips its own update."""

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from fl_app.build import session
from fl_app.client.configured import clipping_norm
from fl_app.privacy.clipping import shortened
from fl_app.wire import readers


def clipped(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Clip the client's update if the run's configuration says to what length.

    Within ``fl_app.client.coded.coded``: what is clipped is the trained model against the decoded
    broadcast, and then it is encoded.

    Raises
    ------
    FaultError
        If the server says another length.
    """
    cfg = session(str(context.run_config["overrides"])).cfg
    length = clipping_norm(cfg, readers.record(message))
    if length is None:
        return call_next(message, context)
    (start,) = message.content.array_records.values()
    reply = call_next(message, context)
    if not reply.has_error():
        ((name, arrays),) = reply.content.array_records.items()
        reply.content[name] = shortened(arrays, start, length)
    return reply
