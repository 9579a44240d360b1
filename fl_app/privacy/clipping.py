"""The client's half of Flower's client-side clipping."""

from flwr.app import Context, Message
from flwr.clientapp.mod import fixedclipping_mod
from flwr.clientapp.typing import ClientAppCallable
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM

from fl_app import messages


def clipped(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Clip the client's update if the server's strategy says to what length.

    Within ``fl_app.mods.coded``: what is clipped is the trained model against the decoded
    broadcast, and then it is encoded.
    """
    config = messages.record(message)
    if KEY_CLIPPING_NORM in config:
        messages.number(config, KEY_CLIPPING_NORM, 0)
        return fixedclipping_mod(message, context, call_next)
    return call_next(message, context)
