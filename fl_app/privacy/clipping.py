"""Updates of at most a length: what client-level privacy adds up.

The clients' half of it: with ``strategy=fedavg_dp_client`` each clips its own.
"""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from fl_app import messages
from fl_app.client.configured import clipping_norm
from fl_app.session import session


def shortened(arrays: ArrayRecord, start: ArrayRecord, length: float) -> ArrayRecord:
    """Return ``arrays`` with their difference from ``start`` scaled down to ``length``, if longer.

    A difference of zero stays zero. FlatClip of McMahan et al. 2018,
    https://arxiv.org/abs/1710.06963.

    Raises
    ------
    ValueError
        If the difference has no finite length, or the names are others.
    """
    if list(arrays) != list(start):
        raise ValueError("the arrays to be clipped are not those that were sent")
    begin = {name: array.numpy() for name, array in start.items()}
    change = {
        name: array.numpy().astype(np.float64) - begin[name] for name, array in arrays.items()
    }
    norm = float(np.sqrt(sum(np.square(values).sum() for values in change.values())))
    if not np.isfinite(norm):
        raise ValueError("the update to be clipped is not finite")
    if norm <= length:
        return arrays
    return ArrayRecord(
        {
            name: Array((begin[name] + values * (length / norm)).astype(begin[name].dtype))
            for name, values in change.items()
        }
    )


def clipped(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Clip the client's update if the run's configuration says to what length.

    Within ``fl_app.mods.coded``: what is clipped is the trained model against the decoded
    broadcast, and then it is encoded.

    Raises
    ------
    FaultError
        If the server says another length.
    """
    cfg = session(str(context.run_config["overrides"])).cfg
    length = clipping_norm(cfg, messages.record(message))
    if length is None:
        return call_next(message, context)
    (start,) = message.content.array_records.values()
    reply = call_next(message, context)
    if not reply.has_error():
        ((name, arrays),) = reply.content.array_records.items()
        reply.content[name] = shortened(arrays, start, length)
    return reply
