"""Conversations of rows: the usual spellings, read as messages of system, user and assistant."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
# ShareGPT's names (``from`` and ``value``), beside those of chat templates (``role``, ``content``).
ROLES = {
    "system": SYSTEM, "user": USER, "human": USER, "assistant": ASSISTANT, "gpt": ASSISTANT,
}  # fmt: skip
KEYS = (("role", "content"), ("from", "value"))


class Message(NamedTuple):
    """One message: a role of `ROLES`' values, and its text."""

    role: str
    content: str


class ConversationError(ValueError):
    """A value that is no conversation; the text says why, and quotes nothing of it."""


def read(value: Any, answered: bool = True) -> list[Message]:
    """Return the messages of a row, without those behind the last answer.

    Parameters
    ----------
    value : list of mappings
        ``role`` and ``content``, or ShareGPT's ``from`` and ``value``. Other keys have no meaning.
    answered : bool
        Whether the assistant must have answered; if not, all messages are returned.

    Raises
    ------
    ConversationError
        If it is no such list; a message has another role or no text; or the messages are not an
        optional one of the system, then user and assistant in turn.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ConversationError("it should be a list of messages, each with role and content")
    messages = [_message(one) for one in value]
    last = max((k for k, one in enumerate(messages) if one.role == ASSISTANT), default=-1)
    if answered and last < 0:
        raise ConversationError("the assistant says nothing in it")
    messages = messages[: last + 1] if answered else messages
    turns = messages[1:] if messages[0].role == SYSTEM else messages
    if not turns or any(one.role != (USER, ASSISTANT)[k % 2] for k, one in enumerate(turns)):
        raise ConversationError(
            "the messages should be one of the system or none, then user and assistant in turn"
        )
    return messages


def _message(value: Any) -> Message:
    if not isinstance(value, Mapping):
        raise ConversationError("a message should be a mapping with role and content")
    for role, content in KEYS:
        if value.get(role) is not None:
            if value[role] not in ROLES:
                raise ConversationError(f"a role should be one of {', '.join(ROLES)}")
            text = value.get(content)
            if not isinstance(text, str) or not text.strip():
                raise ConversationError("a message has no text")
            return Message(ROLES[value[role]], text)
    raise ConversationError("a message should have role and content, or from and value")
