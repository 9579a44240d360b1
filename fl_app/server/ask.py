"""One question to each of several nodes, and their answers."""

from collections.abc import Iterator

from flwr.app import Message
from flwr.serverapp import Grid

from fl_app.server.replies import check_kept


def ask(
    grid: Grid, questions: list[Message], timeout: float
) -> Iterator[tuple[Message, Message | None]]:
    """Yield each question with its answer; see `check_kept` for what ends the run."""
    if not questions:
        return
    answers = {
        reply.metadata.reply_to_message_id: reply
        for reply in grid.send_and_receive(questions, timeout=timeout)
    }
    for answer in answers.values():
        check_kept(grid, answer)
    for question in questions:
        yield question, answers.get(question.metadata.message_id)
