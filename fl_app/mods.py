"""The client's half of the wire: the mod around a ClientApp that decodes and encodes.

The server's half is ``strategies.coded.Coded``.
"""

import logging
import time
import traceback

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode

from fl_app.records import ARRAYS, TIMING, pack_record, to_record, to_tree, unpack_record
from fl_app.session import session
from fl_app.wire import pack, unpack


def report_errors(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Turn an exception into an error reply that tells the server the reason.

    Without it a deployed node answers a crash with a code only.
    """
    try:
        return call_next(message, context)
    except Exception as error:
        logging.getLogger("flwr").debug(traceback.format_exc())
        reason = f"{type(error).__name__}: {error}"
        return Message(
            Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message
        )


def coded(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Decode the broadcast, let the app work on plain arrays, encode the model it returns.

    Raises
    ------
    WireError
        If the frame is damaged, of another codec, or from another theta0.
    CodecError
        If the returned model cannot be encoded, for example because it holds NaN.
    """
    here = session(str(context.run_config["overrides"]))
    began = time.perf_counter()
    wire = unpack(unpack_record(message.content), here.down, here.manifest)
    broadcast = here.down.decode(wire, here.theta0)
    decoded = time.perf_counter()

    message.content[ARRAYS] = to_record(broadcast)
    reply = call_next(message, context)
    if reply.has_error():
        return reply

    worked = time.perf_counter()
    content = RecordDict(dict(reply.content.items()))
    if ARRAYS in content:
        reference = here.reference(broadcast)
        tree = to_tree(content.array_records[ARRAYS], like=here.theta0)
        wire, _ = here.up.encode(tree, here.up.init(reference), reference)
        content[ARRAYS] = pack_record(pack(wire, here.up, here.manifest))
    content[TIMING] = ConfigRecord(
        {
            "decode": decoded - began,
            "work": worked - decoded,
            "encode": time.perf_counter() - worked,
        }
    )
    reply.content = content
    return reply
