"""The client's half of Flower's client-side clipping."""

from flwr.app import Context, Message
from flwr.clientapp.mod import fixedclipping_mod
from flwr.clientapp.typing import ClientAppCallable

from fl_app import messages
from fl_app.client.configured import clipping_norm
from fl_app.session import session


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
    if clipping_norm(cfg, messages.record(message)) is not None:
        return fixedclipping_mod(message, context, call_next)
    return call_next(message, context)
