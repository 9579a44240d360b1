"""Messages out, replies in as they arrive.

Flower's ``Grid.send_and_receive`` returns when the last reply is in, with all of them in memory.
Here each one is handed on at once, and one that comes after its round's deadline is still heard of.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fl_app.server.replies import check_kept

BATCH = 16  # messages of one request to Flower: the most that are in memory at once
# A reply is seen with a delay of this share of the time already waited, between two limits in
# seconds: Flower's 3 s would be much of a short round.
POLL_SHARE, POLL_LEAST, POLL_MOST = 0.02, 0.05, 3.0


@dataclass
class Mailbox:
    """Asks nodes and yields their replies in the order of arrival.

    Parameters
    ----------
    grid : Grid
        Flower's connection to the nodes.
    overdue : set of str
        Ids of messages that had no reply in time. What still comes is yielded with later replies.
    """

    grid: Grid
    overdue: set[str] = field(default_factory=set)

    def ask(self, messages: Iterable[Message], timeout: float) -> Iterator[Message]:
        """Send ``messages`` and return an iterator over what arrives.

        It ends when all of these are answered, or after ``timeout`` seconds.
        """
        messages = list(messages)
        for few in batches(messages):
            self.grid.push_messages(few)
        return self._replies({message.metadata.message_id for message in messages}, timeout)

    def _replies(self, asked: set[str], timeout: float) -> Iterator[Message]:
        began = time.monotonic()
        while asked:
            arrived = False
            for few in batches([*asked, *self.overdue]):
                replies = list(self.grid.pull_messages(few))
                arrived = arrived or bool(replies)
                for reply in replies:
                    check_kept(self.grid, reply)
                    asked.discard(reply.metadata.reply_to_message_id)
                    self.overdue.discard(reply.metadata.reply_to_message_id)
                while replies:  # none is kept once it is handed on
                    yield replies.pop()
            waited = time.monotonic() - began
            if waited >= timeout:
                break
            if not arrived:
                time.sleep(min(pause(waited), timeout - waited))
        self.overdue |= asked


def pause(waited: float) -> float:
    """Return how many seconds after ``waited`` to ask Flower again."""
    return min(max(POLL_LEAST, POLL_SHARE * waited), POLL_MOST)


def batches(items: list[Any]) -> list[list[Any]]:
    """Return ``items`` in lists of at most `BATCH`."""
    return [items[at : at + BATCH] for at in range(0, len(items), BATCH)]
