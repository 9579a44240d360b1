"""What instruction tuning is told of rows: prompts, responses, and which answers are right."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from fl_app.faults import during
from fl_app.tasks.answers import ANSWERS
from fl_app.tasks.evaluation import Rows
from fl_app.tasks.template import Template


class Instruction:
    """The texts of a row and the score of predictions, the same for every generating model.

    Args:
        cfg: ``prompt`` and ``response``, templates; ``reference``, the column whose final answer
            is the right one; ``answer``, how answers are found and compared
            (``fl_app.tasks.answers``); ``average_over``, a column: accuracy is the mean over its
            values of the mean over the rows of each, as tables over several test sets have it
            (null: the mean over all rows).

    Attributes:
        columns: all that are named, each once.

    Raises:
        ValueError: a template that is none.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.prompt = Template("task.prompt", cfg.prompt)
        self.response = Template("task.response", cfg.response)
        self.reference: str = cfg.reference
        self.is_right = ANSWERS[cfg.answer]
        self.average_over: str | None = cfg.average_over
        scored = (
            [self.reference] if self.average_over is None else [cfg.reference, cfg.average_over]
        )
        named = [*self.prompt.columns, *self.response.columns, *scored]
        self.columns = tuple(dict.fromkeys(named))

    def prompts(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        """What the model is given."""
        return [self.prompt.fill(row) for row in rows]

    def responses(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        """What it is to write."""
        return [self.response.fill(row) for row in rows]

    def score(self, predictions: Sequence[str], rows: Rows) -> dict[str, float]:
        """``accuracy`` in [0, 1]: the share of predictions with the reference's final answer.

        Raises:
            ValueError: there are not as many predictions as rows, or none.
        """
        if len(predictions) != len(rows) or not predictions:
            raise ValueError(f"{len(predictions)} predictions cannot be scored against {len(rows)}")
        groups: dict[Any, list[bool]] = {}
        for index, prediction in enumerate(predictions):
            row = rows[index]
            group = None if self.average_over is None else row[self.average_over]
            with during("reference", column=self.reference):
                right = self.is_right(prediction, str(row[self.reference]))
            groups.setdefault(group, []).append(right)
        means = [sum(right) / len(right) for right in groups.values()]
        return {"accuracy": sum(means) / len(means)}
