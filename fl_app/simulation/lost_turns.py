"""A turn that the simulator loses is done again.

Ray runs the clients of a simulation in actors. One that dies, which the kernel's OOM killer may
bring about, has lost a turn: its client did nothing wrong, and a round without it would make
another model. So a new actor does the turn again, with the client's state as it was before. After
`REPEATS` of them the run fails, and can be resumed.

What a client answers with an error is its answer, and is not asked for again.
"""

import logging
from typing import Any

import ray
from flwr.app import Context, Error, Message
from flwr.common.constant import ErrorCode
from flwr.server.superlink.fleet.vce.backend import raybackend
from ray.exceptions import RayError, RayTaskError

from fl_app.client.node_config import PARTITION
from fl_app.client.simulated import REPEATED
from fl_app.faults.printable import printable

REPEATS = 2

logger = logging.getLogger("thinwire")


class RepeatingBackend(raybackend.RayBackend):
    """Flower's backend of simulations, which does a lost turn again."""

    def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
        """Return a client's reply, and its state after it.

        If every try is lost, the reply is an error that no client can give, and the server ends
        the run (``fl_app.server.replies.check_kept``).
        """
        assert self.pool is not None
        client, given = context.node_config[PARTITION], context
        actor: Any = self.pool.pool.pop()
        try:
            for left in reversed(range(REPEATS + 1)):
                try:
                    turn = actor.run.remote(self.app_fn, message, str(client), given)
                    _, reply, after = ray.get(turn)
                except RayTaskError:  # raised in the client
                    raise
                except RayError as error:
                    why = f"{type(error).__name__}: {printable(error)}"
                    logger.warning(
                        "the simulator lost a turn of client %s%s: %s",
                        client, ", which is done again" if left else "", why,
                    )  # fmt: skip
                    actor, given = self.pool.create_actor_fn(), _repeated(context)
                else:
                    after.node_config.pop(REPEATED, None)
                    return reply, after
        finally:
            self.pool.pool.append(actor)
        said = (
            f"the simulator lost a turn of client {client} {REPEATS + 1} times, which happens when "
            f"memory runs out: {why}"
        )
        return Message(Error(ErrorCode.UNKNOWN, said), reply_to=message), context


def repeat_lost_turns() -> None:
    """Let the simulations of this process do lost turns again."""
    raybackend.RayBackend = RepeatingBackend  # type: ignore[misc]


def _repeated(context: Context) -> Context:
    """Return a client's state, with the note that the turn may have been begun before."""
    return Context(
        run_id=context.run_id,
        node_id=context.node_id,
        node_config={**context.node_config, REPEATED: True},
        state=context.state,
        run_config=context.run_config,
    )
