"""Answers of a VT5 to one question at a time, which a batch has to repeat."""

from typing import Any

from fl_app.tasks.documents import Collator, predict


def answers(
    model: Any, tokenizer: Any, collator: Collator, rows: list[dict[str, Any]], most: int
) -> list[str]:
    """Return the answers of at most so many tokens to each question of each row, by itself."""
    return [
        answer
        for row in rows
        for question, accepted in zip(row["questions"], row["answers"], strict=True)
        for answer in predict(
            model,
            tokenizer,
            collator,
            [row | {"questions": [question], "answers": [accepted]}],
            most,
        )
    ]
