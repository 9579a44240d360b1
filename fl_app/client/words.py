"""What a node says when something fails: to the server a kind of fault, to its own log everything.

A simulated node says everything: one person owns both sides.
"""

import logging
import secrets
import traceback

import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from fl_app.client.simulated import is_simulated
from fl_app.config import ConfigError
from fl_app.faults import FaultError, noted
from fl_app.faults.printable import printable
from fl_app.files import keep_private
from fl_app.training.loop import DivergedError

logger = logging.getLogger("thinwire")

MOST = 1000  # characters of a simulated node's reason, and of a line in a node's log
LOG_LINES = 200  # of one error in a node's log
# The first that an exception is one of, if nothing better is known.
BY_TYPE: tuple[tuple[type[Exception], str], ...] = (
    (ConfigError, "configuration"),
    (DivergedError, "diverged"),
    (FloatingPointError, "diverged"),
    (OSError, "disk"),
)


class NodeApp(ClientApp):
    """A ClientApp out of which no exception comes: Flower would send its text to the server."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Return the reply to ``message``, which is an error if anything fails."""
        keep_private()
        try:
            return super().__call__(message, context)
        except (KeyboardInterrupt, SystemExit):  # who runs the node ends it
            raise
        except BaseException as error:  # a panic in a library written in Rust is no Exception
            return error_reply(error, message)


def error_reply(error: BaseException, message: Message) -> Message:
    """Return the reply that tells of ``error`` what may leave this node, and log the rest."""
    if is_simulated():
        logger.debug("%s", traceback.format_exc())
        reason = whole(error)
        logger.warning("%s", reason)
    else:
        reference = secrets.token_hex(4)
        reason = f"{fault(error).said} (fault {reference} in the node's log)"
        for line in [reason, *_lines(error)]:
            logger.error("fault %s: %s", reference, line)
    return Message(
        Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message
    )


def fault(error: BaseException) -> FaultError:
    """Return what may leave a real node of ``error``."""
    if _is_out_of_memory(error):
        return FaultError("memory")
    if known := noted(error):
        return known
    return FaultError(next((kind for one, kind in BY_TYPE if isinstance(error, one)), "unexpected"))


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory was asked for and not had, by Python, or by torch on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def whole(error: BaseException) -> str:
    """Return all that an error says, as one line."""
    name = "" if type(error) is FaultError else f"{type(error).__name__}: "
    return printable(f"{name}{error}", most=MOST)


def _lines(error: BaseException) -> list[str]:
    """Return the traceback line by line; what is quoted in it cannot look like another line."""
    lines = "".join(traceback.format_exception(error)).rstrip().split("\n")
    return [printable(line, most=MOST) for line in lines[-LOG_LINES:]]
