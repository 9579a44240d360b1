"""One question to each of several nodes, and their answers."""

from collections.abc import Iterator

from flwr.app import Message
from flwr.serverapp import Grid


def ask(
    grid: Grid, questions: list[Message], timeout: float
) -> Iterator[tuple[Message, Message | None]]:
    """Yield each question with its answer."""
    if not questions:
        return
    answers = {
        reply.metadata.reply_to_message_id: reply
        for reply in grid.send_and_receive(questions, timeout=timeout)
    }
    for question in questions:
        yield question, answers.get(question.metadata.message_id)
