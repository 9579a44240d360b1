"""Whether this process simulates a node, for the person who runs the whole federation."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flwr.app import Context

REPEATED = "repeated"  # in a node config: the simulator has lost this turn, and does it again

_in_process = False


def is_simulated() -> bool:
    """Return whether this node is one of a simulation.

    Flower's simulations run nodes in actors of Ray; a real SuperNode's processes have no Ray.
    Anything else is a real node, for which the strictest rules hold.
    """
    if _in_process:
        return True
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def is_repeated(context: Context) -> bool:
    """Return whether a simulated turn was lost before its reply left, and is done again.

    A real node's turn never is, whatever its node config says.
    """
    return is_simulated() and bool(context.node_config.get(REPEATED))


@contextmanager
def simulated_in_process() -> Iterator[None]:
    """Say that the nodes in this process are simulated, without Ray, as long as the block lasts."""
    global _in_process
    before, _in_process = _in_process, True
    try:
        yield
    finally:
        _in_process = before
