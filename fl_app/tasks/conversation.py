"""Conversations of rows, in the usual spellings: messages of system, user, assistant and tools."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fl_app.faults.printable import printable

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"
# ShareGPT's names (``from`` and ``value``), beside those of chat templates (``role``, ``content``).
ROLES = {
    "system": SYSTEM, "user": USER, "human": USER, "assistant": ASSISTANT, "gpt": ASSISTANT,
    "tool": TOOL,
}  # fmt: skip
KEYS = (("role", "content"), ("from", "value"))
CALLS = ("tool_calls", "function_call")  # OpenAI's; templates write them in ways of their own


class Message(NamedTuple):
    """One message: a role of `ROLES`' values, and its text."""

    role: str
    content: str


class ConversationError(ValueError):
    """A value that is no conversation; the text says why, and quotes roles and types alone."""


def read(value: Any, answered: bool = True) -> list[Message]:
    """Return the messages of a row, without those behind the last answer.

    Parameters
    ----------
    value : list of mappings
        ``role`` and ``content``, or ShareGPT's ``from`` and ``value``. A content is a text, or a
        list of parts ``{type: text, text: ...}``, which are joined as chat templates join them,
        with nothing between. Other keys have no meaning, but calls of tools are refused.
    answered : bool
        Whether the assistant must have answered; if not, all messages are returned.

    Raises
    ------
    ConversationError
        If it is no such list; a message has another role, no text, a part that is no text, or
        calls a tool; or the messages are not an optional one of the system, then user and assistant
        in turn, where the assistant may answer messages of tools too.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ConversationError("it should be a list of messages, each with role and content")
    messages = [_message(number, one) for number, one in enumerate(value, start=1)]
    last = max((k for k, one in enumerate(messages) if one.role == ASSISTANT), default=-1)
    if answered and last < 0:
        raise ConversationError("the assistant says nothing in it")
    messages = messages[: last + 1] if answered else messages
    turns = messages[1:] if messages[0].role == SYSTEM else messages
    spoken = [one for k, one in enumerate(turns) if not _is_tools(turns, k)]
    if not spoken or any(one.role != (USER, ASSISTANT)[k % 2] for k, one in enumerate(spoken)):
        raise ConversationError(
            "the messages should be one of the system or none, then user and assistant in turn"
        )
    return messages


def _is_tools(turns: Sequence[Message], at: int) -> bool:
    """Tell whether a message is a tool's, or the assistant's before one of a tool."""
    follows = turns[at + 1].role if at + 1 < len(turns) else None
    role = turns[at].role
    return at > 0 and (role == TOOL or (role == ASSISTANT and follows == TOOL))


def _message(number: int, value: Any) -> Message:
    if not isinstance(value, Mapping):
        raise ConversationError("a message should be a mapping with role and content")
    for role, content in KEYS:
        said = value.get(role)
        if said is not None:
            if not isinstance(said, str) or said not in ROLES:
                raise ConversationError(
                    f"message {number} has the role {printable(said, most=40)!r}: a role should "
                    f"be one of {', '.join(ROLES)}"
                )
            for calls in CALLS:
                if value.get(calls):
                    raise ConversationError(
                        f"message {number} has {calls}, which are not read: write the call as text "
                        f"in {content}"
                    )
            text = _text(number, value.get(content))
            if not text.strip():
                raise ConversationError(f"message {number}, of the role {said!r}, has no text")
            return Message(ROLES[said], text)
    raise ConversationError("a message should have role and content, or from and value")


def _text(number: int, content: Any) -> str:
    """Return the text of a content, with its parts joined; "" where there is none."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    kinds = [one.get("type") if isinstance(one, Mapping) else None for one in content]
    for kind, part in zip(kinds, content, strict=True):
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ConversationError(
                f"message {number} has a part of the type {printable(kind, most=40)!r}: only parts "
                "{type: text, text: ...} are read, no pictures and no sound"
            )
    return "".join(part["text"] for part in content)
